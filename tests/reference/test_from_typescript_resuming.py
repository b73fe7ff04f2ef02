"""Resuming: what an interrupted, failed or cancelled run does when it is taken up again."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from subprocess import Popen

import pytest

from durably import Durably, Run, Step, errors

from .crashing_worker import Import, Imported, effects, import_rows, wait_until_stopped

Make = Callable[..., Durably]
Spawn = Callable[[str], "Popen[bytes]"]


async def only_run(durably: Durably) -> Run[Import, Imported]:
    (run,) = await durably.register(import_rows).get_runs()
    return run


async def resume_after_a_kill(make: Make, spawn: Spawn, path: Path) -> Run[Import, Imported]:
    """A worker process is killed in the step "save"; another worker completes the run."""
    killed = spawn(Import(effects=str(path)).model_dump_json())
    assert killed.wait(timeout=30) == -signal.SIGKILL
    assert effects(path) == ["body", "fetch", "save: first half"]
    async with make(jobs=[import_rows]) as durably:
        return await durably.wait(await only_run(durably), timeout=30)


async def test_t097_the_body_runs_again_from_its_first_line(
    make: Make, spawn: Spawn, tmp_path: Path
) -> None:
    await resume_after_a_kill(make, spawn, tmp_path / "effects")
    assert effects(tmp_path / "effects").count("body") == 2


async def test_t098_a_completed_step_is_not_called_again(
    make: Make, spawn: Spawn, tmp_path: Path
) -> None:
    done = await resume_after_a_kill(make, spawn, tmp_path / "effects")
    assert effects(tmp_path / "effects").count("fetch") == 1
    assert done.output == Imported(rows=3), "its stored result was used"


async def test_t099_it_goes_on_at_the_first_incomplete_step(
    make: Make, spawn: Spawn, tmp_path: Path
) -> None:
    done = await resume_after_a_kill(make, spawn, tmp_path / "effects")
    assert effects(tmp_path / "effects")[3:] == [
        "body",
        "save: first half",
        "save: second half",
        "notify",
    ]
    async with make(worker=False) as durably:
        steps = await durably.get_steps(done.id)
    assert [(step.name, step.attempt) for step in steps] == [
        ("fetch", 1),
        ("save", 2),
        ("notify", 2),
    ]


async def test_t100_an_interrupted_step_runs_again_whole(
    make: Make, spawn: Spawn, tmp_path: Path
) -> None:
    await resume_after_a_kill(make, spawn, tmp_path / "effects")
    ran = [line for line in effects(tmp_path / "effects") if line.startswith("save")]
    assert ran == ["save: first half", "save: first half", "save: second half"]


async def test_t101_an_interrupted_run_resumes_by_itself(
    make: Make, spawn: Spawn, tmp_path: Path
) -> None:
    path = tmp_path / "effects"
    async with make() as durably:  # its worker is up when the other is killed
        killed = spawn(Import(effects=str(path)).model_dump_json())
        assert await asyncio.to_thread(killed.wait, 30) == -signal.SIGKILL
        run = await only_run(durably)
        assert run.status == "running"
        done = await durably.wait(run, timeout=30)
    assert (done.status, done.output) == ("completed", Imported(rows=3))
    assert effects(path).count("fetch") == 1


async def test_t102_a_heartbeat_prolongs_the_lease(
    make: Make, spawn: Spawn, tmp_path: Path, database: Path
) -> None:
    def lease_end() -> int:
        connection = sqlite3.connect(database)
        try:
            return connection.execute("select due_at from durably_runs").fetchone()[0]
        finally:
            connection.close()

    async with make() as durably:
        started = asyncio.Event()

        @durably.job("endless")
        async def endless(step: Step) -> None:
            started.set()
            await asyncio.Event().wait()

        run = await endless.trigger()
        await started.wait()
        first, deadline = lease_end(), time.monotonic() + 20
        while lease_end() == first:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
        assert lease_end() > first
        await durably.cancel(run.id)


async def test_t103_a_stale_run_is_picked_up(make: Make, spawn: Spawn, tmp_path: Path) -> None:
    path = tmp_path / "effects"
    stopped = spawn(Import(effects=str(path), signal="SIGSTOP").model_dump_json())
    wait_until_stopped(stopped)  # alive, but without a heartbeat
    async with make(jobs=[import_rows]) as durably:
        run = await only_run(durably)
        assert run.status == "running", "by the one that is stopped"
        done = await durably.wait(run, timeout=30)
        assert (done.attempt, done.output) == (2, Imported(rows=3))
        journal = [event.type async for event in durably.subscribe(done.id)]
        assert "run:release" not in journal
        assert journal.count("run:start") == 2

        os.kill(stopped.pid, signal.SIGCONT)  # what the late one still writes is refused
        assert await asyncio.to_thread(stopped.wait, 30) == 0
        assert effects(path).count("save: second half") == 2
        steps = await durably.get_steps(done.id)
        assert [step.attempt for step in steps] == [1, 2, 2]
        assert effects(path).count("notify") == 1


async def test_t104_a_live_run_is_left_alone(make: Make, database: Path) -> None:
    calls: list[int] = []
    async with make() as durably, make() as rival:

        @durably.job("long")
        async def long(step: Step) -> None:
            async def stay() -> None:
                calls.append(step.attempt)
                await asyncio.sleep(2.5)  # more than the stale threshold

            await step.run("stay", stay)

        rival.register(long.definition)
        done = await long.trigger_and_wait(timeout=20)
    assert (calls, done.attempt) == ([1], 1)


def register_flaky(durably: Durably, calls: list[str]) -> Callable[[], object]:
    block = asyncio.Event()

    @durably.job("flaky")
    async def flaky(step: Step, how: str) -> list[str]:
        def note(name: str) -> str:
            calls.append(name)
            return name.upper()

        first = await step.run("first", note, "first")
        if step.attempt == 1 and how == "fail":
            raise ConnectionError("gone")
        if step.attempt == 1 and how == "wait":
            block.set()
            await asyncio.Event().wait()
        return [first, await step.run("second", note, "second")]

    return block.wait


async def test_t105_a_failed_run_resumes_by_retry(durably: Durably) -> None:
    calls: list[str] = []
    register_flaky(durably, calls)
    flaky = durably.jobs["flaky"]
    with pytest.raises(errors.RunFailedError) as caught:
        await flaky.trigger_and_wait("fail", timeout=20)
    run = await durably.retry(caught.value.run.id)
    done = await durably.wait(run, timeout=20)
    assert (done.id, done.attempt) == (caught.value.run.id, 2)
    assert done.output == ["FIRST", "SECOND"]
    assert calls == ["first", "second"]


async def test_t106_a_cancelled_run_resumes_by_retry(durably: Durably) -> None:
    calls: list[str] = []
    blocked = register_flaky(durably, calls)
    run = await durably.jobs["flaky"].trigger("wait")
    await blocked()  # type: ignore[misc]
    await durably.cancel(run.id)
    done = await durably.wait(await durably.retry(run.id), timeout=20)
    assert (done.id, done.output) == (run.id, ["FIRST", "SECOND"])
    assert calls == ["first", "second"]


@dataclass(frozen=True)
class Stamp:
    at: datetime
    tags: tuple[str, ...]


async def test_t107_a_result_is_the_same_on_every_attempt(durably: Durably) -> None:
    seen: list[object] = []
    made: list[object] = []

    def stamp() -> Stamp:
        made.append(Stamp(datetime(2026, 1, 2, 3, 4, 5, 678900, UTC), ("a", "b")))
        return made[-1]  # type: ignore[return-value]

    def pair():
        return (1, 2)

    @durably.job("typed")
    async def typed(step: Step) -> None:
        seen.append(await step.run("stamp", stamp))
        seen.append(await step.run("pair", pair, returns=tuple[int, int]))
        if step.attempt == 1:
            raise ConnectionError("gone")

    with pytest.raises(errors.RunFailedError) as caught:
        await typed.trigger_and_wait(timeout=20)
    await durably.wait(await durably.retry(caught.value.run.id), timeout=20)
    assert len(made) == 1
    assert seen == [made[0], (1, 2), made[0], (1, 2)]
    assert [type(value) for value in seen] == [Stamp, tuple, Stamp, tuple]
    assert seen[0] is not made[0], "the decoded checkpoint, on the first attempt too"


async def test_t108_a_key_for_external_systems(durably: Durably) -> None:
    keys: list[str] = []

    @durably.job("charge")
    async def charge(step: Step) -> None:
        keys.append(step.idempotency_key("charge-card"))
        keys.append(step.idempotency_key("send-receipt"))
        if step.attempt == 1:
            raise ConnectionError("gone")

    with pytest.raises(errors.RunFailedError) as caught:
        await charge.trigger_and_wait(timeout=20)
    await durably.wait(await durably.retry(caught.value.run.id), timeout=20)
    with pytest.raises(errors.RunFailedError):
        await charge.trigger_and_wait(timeout=20)
    first, second, again = keys[:2], keys[2:4], keys[4:]
    assert first == second, "the same on every attempt of one run"
    assert len({*first, *again}) == 4, "another for each step and each run"


async def test_t109_the_worker_finds_new_and_stale_runs(
    make: Make, spawn: Spawn, tmp_path: Path, database: Path
) -> None:
    stopped = spawn(Import(effects=str(tmp_path / "stale"), signal="SIGSTOP").model_dump_json())
    wait_until_stopped(stopped)
    async with make(worker=False) as durably:
        fresh = await durably.register(import_rows).trigger(
            Import(effects=str(tmp_path / "new"), signal="SIGCHLD")
        )
    async with make(jobs=[import_rows]) as durably:  # nobody tells it of either
        assert (await durably.wait(fresh.id, timeout=30)).attempt == 1
        runs = await durably.get_runs()
        (stale,) = [run for run in runs if run.id != fresh.id]
        assert (await durably.wait(stale.id, timeout=30)).attempt == 2
