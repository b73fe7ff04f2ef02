"""What a worker says on stderr, and what servers and scripts say that they wait for: real processes."""

from __future__ import annotations

import json
import signal
import sys

import pytest

from durably import Durably, Step

from .conftest import Place, Process, wait_for

APP = """
import asyncio, logging, threading
from pathlib import Path
from durably import Durably, Step, SyncStep

durably = Durably("jobs.db", polling_interval=0.1, heartbeat_interval=0.2, stale_threshold=2)


async def hold() -> None:
    Path("held").touch()
    await asyncio.Event().wait()


def block() -> None:
    Path("held").touch()
    threading.Event().wait()


def lookup(page: int) -> None:
    logging.getLogger("shop").info("page %d", page)
    raise KeyError(page)


@durably.job("fails")
async def fails(step: Step) -> None:
    await step.run("lookup", lookup, 3)


@durably.job("holds")
async def holds(step: Step) -> None:
    await step.run("hold", hold)


@durably.job("blocks")
def blocks(step: SyncStep) -> None:
    step.run("block", block)
"""

WEB = """
from app import durably

async def app(scope, receive, send):
    assert scope["type"] == "lifespan"
    await receive()
    async with durably.lifespan(app{grace}):
        await send({{"type": "lifespan.startup.complete"}})
        await receive()
    await send({{"type": "lifespan.shutdown.complete"}})
"""

SCRIPT = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from app import blocks, durably, holds

if __name__ == "__main__":
    with durably.sync() as d:
        d.trigger_and_wait({job})
"""


@pytest.fixture
def shop(place: Place) -> Place:
    (place.path / "app.py").write_text(APP)
    return place


async def trigger(place: Place, name: str) -> str:
    """A pending run of one of the application's jobs."""
    async with Durably(place.path / "jobs.db", worker=False) as durably:

        @durably.job(name)
        async def job(step: Step) -> None: ...

        return (await job.trigger()).id


async def status(place: Place, run_id: str) -> str:
    async with Durably(place.path / "jobs.db", worker=False) as durably:
        run = await durably.get_run(run_id)
        assert run is not None
        return str(run.status)


async def test_a_worker_logs_lines_for_people(shop: Place) -> None:
    run_id = await trigger(shop, "fails")
    said = shop.durably("worker", "app:durably", "--until-idle").err
    lines = [line.split(maxsplit=3)[2:] for line in said.splitlines() if line[:2] == "20"]
    assert [line[0] for line in lines] == ["INFO", "INFO", "INFO", "ERROR"]
    assert lines[1][1] == f"run {run_id} (fails) started"
    assert lines[2][1] == f"page 3  [fails, step 'lookup', run {run_id}]"
    assert lines[3][1].startswith(f"run {run_id} (fails) failed in step 'lookup' after ")
    assert lines[3][1].endswith(" (0 steps): KeyError: 3")
    frames = [line.split('"')[1] for line in said.splitlines() if line.startswith('  File "')]
    assert frames == [str(shop.path / "app.py")] * 2


async def test_a_worker_logs_json_from_a_level_on_and_shows_all_frames_if_asked(
    shop: Place,
) -> None:
    run_id = await trigger(shop, "fails")
    words = ("--log-format", "json", "--log-level", "debug", "--debug")
    said = shop.durably("worker", "app:durably", "--until-idle", *words).err
    assert said.splitlines()[-1].startswith("durably: error: ")
    lines = [line for line in map(json.loads, said.splitlines()[:-1]) if "run_id" in line]
    started, page, step, failed = lines
    assert {line["run_id"] for line in lines} == {run_id}
    assert (started["level"], started["logger"]) == ("info", "durably.runs")
    assert (page["message"], page["step"], page["attempt"]) == ("page 3", "lookup", 1)
    assert (step["level"], step["step"]) == ("debug", "lookup")
    assert (failed["level"], failed["error_type"]) == ("error", "KeyError")
    assert failed["status"] == "failed"
    assert "execution.py" in failed["exception"]
    assert failed["exception"].endswith("KeyError: 3")


async def test_an_application_keeps_its_logging_unless_the_command_says_otherwise(
    shop: Place,
) -> None:
    app = shop.path / "app.py"
    app.write_text(f"import logging\nlogging.basicConfig(format='mine %(message)s')\n{APP}")
    await trigger(shop, "fails")
    said = shop.durably("worker", "app:durably", "--until-idle").err
    assert said.startswith("mine run ")
    await trigger(shop, "fails")
    said = shop.durably("worker", "app:durably", "--until-idle", "--log-level", "error").err
    assert " ERROR   run " in said.splitlines()[0]
    assert "mine" not in said


async def test_run_says_in_one_line_why_a_run_failed_or_all_of_it(shop: Place) -> None:
    assert shop.durably("run", "app:fails").err.count("\n") == 1
    assert "Traceback" in shop.durably("run", "app:fails", "--log-level", "info").err


# -- what a stop waits for


def started(place: Place, *words: str) -> Process:
    """A Python program, once the step that it runs has begun; it does not inherit ignored signals."""
    process = place.start_program((sys.executable,), *words)
    wait_for(lambda: (place.path / "held").exists() or process.process.poll() is not None)
    assert process.process.poll() is None, process.said()
    return process


def uvicorn(place: Place, *words: str, grace: str = "") -> Process:
    (place.path / "web.py").write_text(WEB.format(grace=grace))
    return started(place, "-m", "uvicorn", "web:app", "--port", "0", *words)


async def test_uvicorn_says_what_it_waits_for_and_a_second_signal_means_now(shop: Place) -> None:
    run_id = await trigger(shop, "holds")
    server = uvicorn(shop)
    server.send(signal.SIGTERM)
    wait_for(lambda: "is in step 'hold'" in server.said())
    assert "durably: waiting up to 25 s for 1 run to end; Ctrl-C hands back" in server.said()
    assert f"durably: run {run_id} (holds) is in step 'hold'" in server.said()
    server.send(signal.SIGINT)
    server.end()
    assert "Application shutdown complete" in server.said()
    assert await status(shop, run_id) == "pending"


async def test_a_lifespan_has_a_grace(shop: Place) -> None:
    run_id = await trigger(shop, "holds")
    server = uvicorn(shop, grace=", grace=0")
    server.send(signal.SIGTERM)
    server.end()
    assert "waiting up to" not in server.said()
    assert await status(shop, run_id) == "pending"


@pytest.mark.parametrize("job", ["holds", "blocks"])
async def test_a_reload_hands_back_at_once_and_the_new_process_resumes(
    shop: Place, job: str
) -> None:
    run_id = await trigger(shop, job)
    server = uvicorn(shop, "--reload")
    (shop.path / "held").unlink()
    (shop.path / "app.py").write_text(APP + "\n# changed\n")
    wait_for(lambda: (shop.path / "held").exists(), 60)
    assert "waiting up to" not in server.said()
    assert await status(shop, run_id) == "running"
    server.send(signal.SIGINT)
    server.end()
    assert "Traceback" not in server.said()
    assert await status(shop, run_id) == "pending"


async def test_ctrl_c_in_a_script_hands_back_and_says_what_cannot_be_interrupted(
    shop: Place,
) -> None:
    (shop.path / "script.py").write_text(SCRIPT.format(job="blocks"))
    script = started(shop, "script.py")
    script.send(signal.SIGINT)
    wait_for(lambda: "is in step 'block'" in script.said())
    assert "durably: waiting up to 5 s for 1 run that cannot be interrupted" in script.said()
    script.send(signal.SIGINT)
    assert "KeyboardInterrupt" in script.end().err
    run_id = script.said().split("durably: run ")[1].split()[0]
    assert await status(shop, run_id) == "pending"


async def test_a_worker_says_what_it_waits_for(shop: Place) -> None:
    run_id = await trigger(shop, "blocks")
    worker = started(shop, "-m", "durably.cli", "worker", "app:durably", "--grace", "1h")
    worker.send(signal.SIGTERM)
    wait_for(lambda: f"run {run_id} (blocks) is in step 'block'" in worker.said())
    worker.send(signal.SIGTERM)
    assert worker.end().code == 143
    assert await status(shop, run_id) == "pending"
