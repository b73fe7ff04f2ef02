"""Callers' programs. Each can be started again after a crash and goes on where the last one ended."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from durably import Durably, Run, Status, Trigger
from durably.errors import (
    RunConflictError,
    RunFailedError,
    RunNotFoundError,
    StorageUnavailableError,
)

from .effects import Effects
from .faults import Plan


class Caller:
    """A program that uses an instance, and writes down what it was told."""

    def __init__(self, durably: Durably, effects: Effects, plan: Plan, folder: Path) -> None:
        self.durably, self.effects, self.plan, self.folder = durably, effects, plan, folder
        self.marker = folder / "marker"

    async def open(self, *, arm_first: bool = False) -> None:
        """Open without a worker, then let the faults begin."""
        self.plan.armed = arm_first
        await self.durably.migrate()
        self.plan.armed = True

    async def trigger(self, job: str, order: dict[str, Any], key: str = "one") -> Run[Any, Any]:
        handle = self.durably.get_job(job)
        assert handle is not None
        run = await handle.trigger(order, idempotency_key=key)
        self.effects.write("ack", key, run.id)
        return run

    def told(self, run: Run[Any, Any], event: str) -> None:
        self.effects.write("told", run.id, event)

    async def finish(self, *runs: Run[Any, Any]) -> None:
        for run in runs:
            await self.durably.wait(run)
            self.told(run, "run:complete")

    async def begun(self, run: Run[Any, Any], step: str) -> None:
        """Until that step begins, or the run is over."""
        event = asyncio.Event()
        stop = self.durably.on("step:start", lambda e: event.set() if e.step_name == step else None)
        while not event.is_set():
            now = await self.durably.get_run(run.id)
            if now is None or now.status.is_final:
                break
            await asyncio.sleep(0.005)
        stop()


def plain(job: str, **order: Any) -> Callable[[Caller], Awaitable[None]]:
    """One run, from its trigger to its end."""

    async def program(caller: Caller) -> None:
        await caller.open()
        run = await caller.trigger(job, order)
        await caller.durably.start()
        await caller.finish(run)

    return program


async def fresh(caller: Caller) -> None:
    """From a file that is not there."""
    await caller.open(arm_first=True)
    run = await caller.trigger("async", {})
    await caller.durably.start()
    await caller.finish(run)


async def fail_and_retry(caller: Caller) -> None:
    """The job fails; what it needs is put there; it is retried."""
    await caller.open()
    run = await caller.trigger("async", {"fail_at": 3})
    await caller.durably.start()
    try:
        await caller.finish(run)
    except RunFailedError:
        caller.told(run, "run:fail")
        caller.marker.touch()
        await caller.durably.retry(run.id)
        caller.told(run, "run:retry")
        await caller.finish(run)


async def cancel_and_retry(caller: Caller) -> None:
    """A run is cancelled in a step, then resumed."""
    await caller.open()
    run = await caller.trigger("async", {"hang_at": 2})
    await caller.durably.start()
    if not caller.marker.exists():
        await caller.begun(run, "2")
        try:
            await caller.durably.cancel(run.id)
        except RunConflictError as error:
            if error.status != Status.CANCELLED:
                raise
        caller.told(run, "run:cancel")
    caller.marker.touch()
    now = await caller.durably.get_run(run.id)
    assert now is not None
    if now.status == Status.CANCELLED:
        await caller.durably.retry(run.id)
        caller.told(run, "run:retry")
    await caller.finish(run)


async def delete_and_purge(caller: Caller) -> None:
    """Runs that are over are deleted; others are not."""
    await caller.open()
    ids = caller.folder / "ids"
    if not ids.exists():
        first, second = [await caller.trigger("async", {"steps": 2}, key) for key in ("a", "b")]
        await caller.durably.start()
        await caller.finish(first, second)
        (caller.folder / "ids.new").write_text(json.dumps([first.id, second.id]))
        (caller.folder / "ids.new").rename(ids)
    await caller.durably.start()
    first_id, second_id = json.loads(ids.read_text())
    for run_id in (first_id, second_id):
        caller.effects.write("deleting", run_id)
    last = await caller.trigger("async", {"steps": 3, "hang_at": 2}, "last")
    with contextlib.suppress(RunNotFoundError):
        await caller.durably.delete_run(first_id)
    caller.effects.write("deleted", first_id)
    if not caller.marker.exists():
        await asyncio.sleep(0.005)
        await caller.durably.purge_runs(older_than=0)
        caller.effects.write("deleted", second_id)
    caller.marker.touch()
    await caller.finish(last)


async def keyed(caller: Caller) -> None:
    """Two runs that must not run together."""
    await caller.open()
    handle = caller.durably.get_job("async")
    assert handle is not None
    runs = await handle.batch_trigger(
        [Trigger({"steps": 3}, idempotency_key=key, concurrency_key="door") for key in ("a", "b")]
    )
    for run, key in zip(runs, ("a", "b"), strict=True):
        caller.effects.write("ack", key, run.id)
    await caller.durably.start()
    await caller.finish(*runs)


async def batch(caller: Caller) -> None:
    """Several runs at once: their steps are committed together."""
    await caller.open()
    handle = caller.durably.get_job("async")
    assert handle is not None
    runs = await handle.batch_trigger([Trigger({}, idempotency_key=key) for key in "abc"])
    for run, key in zip(runs, "abc", strict=True):
        caller.effects.write("ack", key, run.id)
    await caller.durably.start()
    await caller.finish(*runs)


async def hand_back(caller: Caller) -> None:
    """The worker stops in the middle of a step and starts again."""
    await caller.open()
    run = await caller.trigger("async", {"hang_at": 2})
    await caller.durably.start()
    if not caller.marker.exists():
        await caller.begun(run, "2")
        await caller.durably.stop(0)
        caller.told(run, "run:release")
        caller.marker.touch()
        await caller.durably.init()
    await caller.finish(run)


PROGRAMS: dict[str, Callable[[Caller], Awaitable[None]]] = {
    "async": plain("async"),
    "sync": plain("sync"),
    "chatty": plain("async", chat=True),
    "chatty-sync": plain("sync", chat=True),
    "flaky": plain("async", flaky=True),
    "beating": plain("async", ms=25),
    "before-step": plain("async", die_at=2, where="before", once=True),
    "in-body": plain("async", die_at=2, where="body", once=True, how="kill"),
    "in-sync-body": plain("sync", die_at=2, where="body", once=True, how="kill"),
    "behind-step": plain("async", die_at=2, where="behind", once=True),
    "behind-last": plain("async", die_at=4, where="behind", once=True, how="kill"),
    "fresh": fresh,
    "fail-retry": fail_and_retry,
    "cancel-retry": cancel_and_retry,
    "delete-purge": delete_and_purge,
    "keyed": keyed,
    "batch": batch,
    "hand-back": hand_back,
}


async def call_until_refused(caller: Caller) -> None:
    """Trigger until the storage cannot take any more; it must say so, in time."""
    await caller.open()
    for number in range(10_000):
        try:
            await caller.trigger("async", {"steps": 1, "pad": "x" * 2000}, f"more{number}")
        except StorageUnavailableError as error:
            caller.effects.write("unavailable", str(error).replace(" ", "_"))
            return


CALLS = {"call-until-refused": call_until_refused}


async def play(name: str, *world: Any) -> None:
    """Run a caller's program by name."""
    await (PROGRAMS | CALLS)[name](Caller(*world))
