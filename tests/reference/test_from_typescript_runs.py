"""Runs: reading them and acting on them."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from durably import Durably, JobHandle, Run, Status, Step, errors

Make = Callable[..., Durably]


class Order(BaseModel):
    number: int


class Receipt(BaseModel):
    total: int


def register_charge(durably: Durably) -> JobHandle[Order, Receipt]:
    @durably.job("charge")
    async def charge(step: Step, order: Order) -> Receipt:
        if order.number < 0:
            raise ValueError("a negative order")
        return Receipt(total=order.number * 10)

    return charge


def register_endless(durably: Durably) -> tuple[JobHandle[None, None], asyncio.Event]:
    started = asyncio.Event()

    @durably.job("endless")
    async def endless(step: Step) -> None:
        step.progress(1, 2)
        started.set()
        await asyncio.Event().wait()

    return endless, started


async def settle(durably: Durably, *runs: Run[Any, Any]) -> list[Run[Any, Any]]:
    """Wait until runs are over, however they end."""
    found = []
    for run in runs:
        try:
            found.append(await durably.wait(run, timeout=20))
        except (errors.RunFailedError, errors.RunCancelledError) as error:
            found.append(error.run)
    return found


async def test_t049_a_handle_reads_typed_runs_of_its_job(durably: Durably) -> None:
    charge = register_charge(durably)
    endless, _ = register_endless(durably)
    done = await charge.trigger_and_wait(Order(number=1), timeout=20)
    found = await charge.get_run(done.id)
    assert found is not None
    assert (found.input, found.output) == (Order(number=1), Receipt(total=10))
    assert await charge.get_run("unknown") is None
    assert await endless.get_run(done.id) is None


async def test_t050_the_instance_reads_plain_json(durably: Durably) -> None:
    done = await register_charge(durably).trigger_and_wait(Order(number=1), timeout=20)
    found = await durably.get_run(done.id)
    assert found is not None
    assert (found.input, found.output) == ({"number": 1}, {"total": 10})
    assert await durably.get_run("unknown") is None


async def test_t051_a_typed_run_is_validated_not_cast(durably: Durably, database: Path) -> None:
    assert Run[Order, Receipt]
    charge = register_charge(durably)
    done = await charge.trigger_and_wait(Order(number=1), timeout=20)
    connection = sqlite3.connect(database)
    connection.execute("update durably_runs set output = '{\"sum\": 10}'")
    connection.commit()
    connection.close()
    with pytest.raises(errors.InvalidValueError, match="total"):
        await charge.get_run(done.id)
    plain = await durably.get_run(done.id)
    assert plain is not None
    assert plain.output == {"sum": 10}


async def test_t052_runs_are_listed_newest_first(durably: Durably) -> None:
    charge = register_charge(durably)
    runs = await charge.batch_trigger([Order(number=n) for n in range(60)])
    await settle(durably, *runs)
    listed = [run.input["number"] for run in await durably.get_runs()]
    assert listed == list(range(59, 9, -1))


async def test_t053_runs_of_a_status(durably: Durably) -> None:
    charge = register_charge(durably)
    good, bad = await charge.trigger(Order(number=1)), await charge.trigger(Order(number=-1))
    await settle(durably, good, bad)
    assert [run.id for run in await durably.get_runs(status="failed")] == [bad.id]
    assert [run.id for run in await durably.get_runs(status=Status.COMPLETED)] == [good.id]
    both = await durably.get_runs(status=["failed", "completed"])
    assert [run.id for run in both] == [bad.id, good.id]
    with pytest.raises(errors.ConfigurationError, match="lost"):
        await durably.get_runs(status="lost")


async def test_t054_runs_of_a_job(durably: Durably) -> None:
    charge = register_charge(durably)

    @durably.job("greet")
    async def greet(step: Step) -> None: ...

    charged = await charge.trigger(Order(number=1), labels={"tenant": "a"})
    greeted = await greet.trigger(labels={"tenant": "b"})
    await settle(durably, charged, greeted)
    assert [run.id for run in await durably.get_runs(job="charge")] == [charged.id]
    both = await durably.get_runs(job=["charge", "greet"])
    assert [run.id for run in both] == [greeted.id, charged.id]
    assert [run.id for run in await durably.get_runs(labels={"tenant": "b"})] == [greeted.id]
    assert await durably.get_runs(job="charge", status="failed") == []


async def test_t055_runs_in_pages(durably: Durably) -> None:
    charge = register_charge(durably)
    await settle(durably, *await charge.batch_trigger([Order(number=n) for n in range(7)]))
    pages = [await durably.get_runs(limit=3, offset=offset) for offset in (0, 3, 6, 9)]
    assert [[run.input["number"] for run in page] for page in pages] == [
        [6, 5, 4],
        [3, 2, 1],
        [0],
        [],
    ]
    await settle(durably, await charge.trigger(Order(number=7)))
    after = await durably.get_runs(limit=3, cursor=pages[0][-1].cursor)
    assert [run.input["number"] for run in after] == [3, 2, 1], "a new run shifts no page"


async def test_t056_a_handle_lists_typed_runs(durably: Durably) -> None:
    charge = register_charge(durably)
    await settle(durably, await charge.trigger(Order(number=1)))
    (run,) = await charge.get_runs()
    assert (run.input, run.output) == (Order(number=1), Receipt(total=10))


async def test_t057_a_handle_filters_its_own_runs(durably: Durably) -> None:
    charge = register_charge(durably)

    @durably.job("greet")
    async def greet(step: Step) -> None: ...

    runs = await charge.batch_trigger([Order(number=n) for n in (1, -2, 3)])
    await settle(durably, *runs, await greet.trigger())
    assert [run.input.number for run in await charge.get_runs()] == [3, -2, 1]
    completed = await charge.get_runs(status="completed", limit=1, offset=1)
    assert [run.input.number for run in completed] == [1]


async def test_t058_retry_makes_a_failed_run_pending(durably: Durably) -> None:
    broken = [True]

    @durably.job("flaky")
    async def flaky(step: Step) -> str:
        if broken:
            broken.clear()
            raise ConnectionError("gone")
        return "done"

    (failed,) = await settle(durably, await flaky.trigger())
    run = await durably.retry(failed.id)
    assert (run.id, run.status, run.error) == (failed.id, "pending", None)
    (done,) = await settle(durably, run)
    assert (done.status, done.output) == ("completed", "done")
    with pytest.raises(errors.RunConflictError):
        await durably.retry(done.id)
    with pytest.raises(errors.RunNotFoundError):
        await durably.retry("unknown")
    anew = await durably.retrigger(done.id)
    assert anew.id != done.id


async def test_t059_cancel_reaches_a_running_step(make: Make) -> None:
    started, reached = asyncio.Event(), asyncio.Event()

    async def wait_for_ever() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            reached.set()
            raise

    async with make(heartbeat_interval=60, stale_threshold=120) as durably:  # no help from these

        @durably.job("endless")
        async def endless(step: Step) -> None:
            await step.run("wait", wait_for_ever)

        run = await endless.trigger()
        await started.wait()
        assert (await durably.cancel(run.id)).status == "cancelled"
        await asyncio.wait_for(reached.wait(), 20)
        assert await durably.get_steps(run.id) == []
        with pytest.raises(errors.RunConflictError):
            await durably.cancel(run.id)


async def test_t060_delete_run_takes_only_what_is_over(durably: Durably) -> None:
    endless, started = register_endless(durably)
    run = await endless.trigger()
    await started.wait()
    with pytest.raises(errors.RunConflictError):
        await durably.delete_run(run.id)
    await durably.cancel(run.id)
    async with asyncio.timeout(30):
        while (await durably.get_run(run.id)).stopping:  # its body has yet to end
            await asyncio.sleep(0.01)
    await durably.delete_run(run.id)
    assert await durably.get_run(run.id) is None
    with pytest.raises(errors.RunNotFoundError):
        await durably.delete_run(run.id)


async def test_t061_get_steps(durably: Durably) -> None:
    @durably.job("steps")
    async def steps(step: Step) -> None:
        await step.run("good", lambda: 1)
        await step.run("bad", lambda: 1 / 0)

    (run,) = await settle(durably, await steps.trigger())
    good, bad = await durably.get_steps(run.id)
    assert (good.name, good.index, good.status, good.output) == ("good", 0, "completed", 1)
    assert (bad.name, bad.index, bad.status, bad.output) == ("bad", 1, "failed", None)
    assert bad.error is not None
    assert bad.error.type == "ZeroDivisionError"
