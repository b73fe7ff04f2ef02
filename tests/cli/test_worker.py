"""``durably worker``: real processes and real signals."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from durably import Durably

from .conftest import Place, wait_for

INPUT = {"steps": ["one", "hold", "three"]}


async def trigger(place: Place, input: Any = INPUT) -> str:
    """A pending run of the application's job, triggered by this process."""
    durably = Durably(place.path / "jobs.db", worker=False)

    @durably.job("work")
    async def work(step: Any, input: Any) -> Any: ...

    await durably.init()
    run = await work.trigger(input)
    await durably.stop(0)
    return run.id


def show(place: Place, run_id: str) -> Any:
    return place.durably("runs", "show", run_id, "--db", "jobs.db", "--json").json


async def test_sigterm_drains(place: Place) -> None:
    run_id = await trigger(place)
    worker = place.start("worker", "app:durably", "--grace", "60")
    wait_for(lambda: "hold" in place.effects())
    worker.send(signal.SIGTERM)
    wait_for(lambda: "stopping: runs have 60 s to end" in worker.said())
    place.go()
    assert worker.end().code == 0
    assert show(place, run_id)["output"] == {"count": 3}


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT"])
async def test_after_the_grace_runs_are_handed_back(place: Place, name: str) -> None:
    run_id = await trigger(place)
    worker = place.start("worker", "app:durably", "--grace", "0")
    wait_for(lambda: "hold" in place.effects())
    worker.send(getattr(signal, name))
    assert worker.end().code == 0
    assert show(place, run_id)["status"] == "pending"


async def test_a_worker_under_nohup_outlives_its_terminal(
    place: Place,
) -> None:
    run_id = await trigger(place)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as children inherit it
    worker = place.start("worker", "app:durably", "--until-idle")
    signal.signal(signal.SIGHUP, before)
    wait_for(lambda: "hold" in place.effects())
    worker.send(signal.SIGHUP)
    place.go()
    assert worker.end().code == 0
    assert show(place, run_id)["status"] == "completed"


async def test_a_worker_leaves_after_as_many_runs_as_were_said(place: Place) -> None:
    first, second = await trigger(place), await trigger(place)
    place.go()
    worker = ("worker", "app:durably", "--max-runs", "1")
    assert place.durably(*worker, "--until-idle").code == 0
    assert [show(place, run)["status"] for run in (first, second)] == ["completed", "pending"]
    assert place.durably(*worker).code == 2


async def test_a_second_signal_hands_back_at_once(place: Place) -> None:
    run_id = await trigger(place)
    worker = place.start("worker", "app:durably", "--grace", "1h")
    wait_for(lambda: "hold" in place.effects())
    worker.send(signal.SIGTERM)
    wait_for(lambda: "stopping: runs have 3600 s to end" in worker.said())
    worker.send(signal.SIGTERM)
    assert worker.end().code == 143
    assert show(place, run_id)["status"] == "pending"
    place.go()
    assert place.durably("worker", "app:durably", "--until-idle").code == 0
    run = show(place, run_id)
    assert (run["status"], run["attempt"]) == ("completed", 2)
    assert place.effects() == ["one", "hold", "hold", "three"]


async def test_until_idle_hands_back_at_the_first_signal(place: Place) -> None:
    run_id = await trigger(place)
    worker = place.start("worker", "app:durably", "--until-idle")
    wait_for(lambda: "hold" in place.effects())
    worker.send(signal.SIGINT)
    assert worker.end().code == 130
    assert show(place, run_id)["status"] == "pending"


async def test_an_instance_made_to_watch_works_here_with_as_many_slots_as_asked(
    place: Place,
) -> None:
    await trigger(place)
    second = await trigger(place, {"steps": ["late"]})
    worker = place.start("worker", "app:watcher", "-c", "1", "--grace", "0")
    wait_for(lambda: "hold" in place.effects())
    place.go()
    wait_for(lambda: "late" in place.effects())
    assert place.effects() == ["one", "hold", "three", "late"], "one after the other"
    wait_for(lambda: show(place, second)["status"] == "completed")
    worker.send(signal.SIGTERM)
    assert worker.end().code == 0


async def test_a_worker_whose_database_is_replaced_leaves(place: Place) -> None:
    await trigger(place, {"steps": ["one"]})
    worker = place.start("worker", "app:durably")
    wait_for(lambda: place.effects() == ["one"])
    (place.path / "jobs.db").unlink()
    left = worker.end()
    assert left.code == 3
    assert "had to stop" in left.err.splitlines()[-1]


def test_a_worker_without_jobs_is_refused(place: Place) -> None:
    refused = place.durably("worker", "app:jobless")
    assert refused.code == 2
    assert refused.err == (
        "durably: error: app:jobless has no jobs; import the modules that register them\n"
    )


async def test_until_idle_exits_with_1_if_a_run_failed(place: Place) -> None:
    await trigger(place, {"steps": ["one"], "fails_without": "mended"})
    await trigger(place, {"steps": ["two"]})
    worked = place.durably("worker", "app:durably", "--until-idle")
    assert worked.code == 1
    assert worked.err.splitlines()[-1] == "durably: error: 1 of the runs failed"
    assert place.durably("worker", "app:durably", "--until-idle").code == 0
