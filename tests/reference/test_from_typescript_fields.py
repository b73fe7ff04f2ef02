"""Runs: their fields, their statuses, their life."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import BaseModel

from durably import Durably, JobHandle, Progress, Run, Status, Step, errors

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


async def test_t062_id_sorts_by_time(durably: Durably) -> None:
    charge = register_charge(durably)
    ids = [(await charge.trigger(Order(number=n))).id for n in range(20)]
    assert ids == sorted(set(ids))
    assert {id[14] for id in ids} == {"7"}, "UUID version 7"


async def test_t063_job_name(durably: Durably) -> None:
    (run,) = await settle(durably, await register_charge(durably).trigger(Order(number=1)))
    assert run.job == "charge"


async def test_t064_status_is_text_and_enum(durably: Durably) -> None:
    (run,) = await settle(durably, await register_charge(durably).trigger(Order(number=1)))
    assert run.status is Status.COMPLETED
    assert run.status == "completed"
    assert f"{run.status}" == "completed"
    original = {"pending", "running", "completed", "failed", "cancelled"}
    assert set(Status) == original | {"waiting"}


async def test_t065_payload_is_input(durably: Durably) -> None:
    run = await register_charge(durably).trigger(Order(number=5))
    assert run.input == Order(number=5)
    stored = await durably.get_run(run.id)
    assert stored is not None
    assert stored.input == {"number": 5}


async def test_t066_output_once_completed(durably: Durably) -> None:
    charge = register_charge(durably)
    run = await charge.trigger(Order(number=5))
    assert run.output is None
    assert (await durably.wait(run, timeout=20)).output == Receipt(total=50)


async def test_t067_error_is_a_value(durably: Durably) -> None:
    @durably.job("steps")
    async def steps(step: Step) -> None:
        await step.run("divide", lambda: 1 / 0)

    (run,) = await settle(durably, await steps.trigger())
    assert run.error is not None
    assert (run.error.type, run.error.step) == ("ZeroDivisionError", "divide")
    assert str(run.error) == "ZeroDivisionError: division by zero"
    assert "1 / 0" in (run.error.traceback or "")


async def test_t068_progress_of_a_stored_run(make: Make, durably: Durably) -> None:
    endless, started = register_endless(durably)
    run = await endless.trigger()
    assert run.progress is None
    await started.wait()
    async with make(worker=False) as other:
        deadline = time.monotonic() + 20
        while (found := await other.get_run(run.id)) and found.progress is None:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
    assert found is not None
    assert found.progress == Progress(1, 2, None)
    await durably.cancel(run.id)


async def test_t069_created_at(durably: Durably) -> None:
    before = datetime.now(UTC) - timedelta(milliseconds=1)
    (run,) = await settle(durably, await register_charge(durably).trigger(Order(number=1)))
    assert before <= run.created_at <= datetime.now(UTC)
    assert run.created_at.utcoffset() == timedelta(0)
    assert run.started_at is not None
    assert run.ended_at is not None
    assert run.created_at <= run.started_at <= run.ended_at


async def test_t070_updated_at_moves_with_heartbeats(durably: Durably) -> None:
    endless, started = register_endless(durably)
    run = await endless.trigger()
    await started.wait()
    first = await durably.get_run(run.id)
    assert first is not None
    deadline = time.monotonic() + 20
    while (now := await durably.get_run(run.id)) and now.updated_at <= first.updated_at:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
    await durably.cancel(run.id)


async def test_t071_pending(make: Make) -> None:
    async with make(worker=False) as durably:
        run = await register_charge(durably).trigger(Order(number=1))
        found = await durably.get_run(run.id)
        assert found is not None
        assert found.status is Status.PENDING
        assert (found.attempt, found.started_at) == (0, None)


async def test_t072_running(durably: Durably) -> None:
    endless, started = register_endless(durably)
    run = await endless.trigger()
    await started.wait()
    found = await durably.get_run(run.id)
    assert found is not None
    assert found.status is Status.RUNNING
    assert (found.attempt, found.is_final) == (1, False)
    await durably.cancel(run.id)


async def test_t073_completed(durably: Durably) -> None:
    (run,) = await settle(durably, await register_charge(durably).trigger(Order(number=1)))
    assert run.status is Status.COMPLETED
    assert (run.is_final, run.error) == (True, None)


async def test_t074_failed(durably: Durably) -> None:
    @durably.job("careful")
    async def careful(step: Step) -> str:
        try:
            await step.run("divide", lambda: 1 / 0)
        except ZeroDivisionError:
            return "caught"
        return "not reached"

    charge = register_charge(durably)
    failed, caught = await settle(
        durably, await charge.trigger(Order(number=-1)), await careful.trigger()
    )
    assert failed.status is Status.FAILED
    assert (failed.is_final, failed.output) == (True, None)
    assert (caught.status, caught.output) == ("completed", "caught")


async def test_t075_cancelled(make: Make) -> None:
    async with make(worker=False) as durably:
        pending = await register_charge(durably).trigger(Order(number=1))
        assert (await durably.cancel(pending.id)).status is Status.CANCELLED
    async with make() as durably:
        endless, started = register_endless(durably)
        running = await endless.trigger()
        await started.wait()
        assert (await durably.cancel(running.id)).status is Status.CANCELLED
        (run,) = await settle(durably, running)
        assert (run.is_final, run.output, run.error) == (True, None, None)


async def told(durably: Durably, run: Run[Any, Any]) -> list[str]:
    return [event.type async for event in durably.subscribe(run.id) if event.sequence]


async def test_t076_the_life_of_a_run_that_completes(durably: Durably) -> None:
    (run,) = await settle(durably, await register_charge(durably).trigger(Order(number=1)))
    assert await told(durably, run) == ["run:trigger", "run:start", "run:complete"]


async def test_t077_the_life_of_a_run_that_fails(durably: Durably) -> None:
    @durably.job("steps")
    async def steps(step: Step) -> None:
        await step.run("divide", lambda: 1 / 0)

    (run,) = await settle(durably, await steps.trigger())
    assert await told(durably, run) == ["run:trigger", "run:start", "step:fail", "run:fail"]
    assert run.error is not None
    assert run.error.step == "divide"
