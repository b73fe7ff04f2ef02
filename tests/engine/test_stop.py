"""Stopping: nobody waits for ever for an instance that is closed."""

import asyncio

import pytest

from durably import Step
from durably.errors import ClosedError


async def test_a_waiter_is_told_when_the_instance_stops(make):
    durably = await make()

    @durably.job("slow")
    async def slow(step: Step) -> None:
        await asyncio.sleep(60)

    run = await slow.trigger()
    waiting = asyncio.create_task(durably.wait(run))
    watching = asyncio.create_task(_collect(durably, run.id))
    await asyncio.sleep(0.1)
    await durably.stop(0)
    with pytest.raises(ClosedError):
        async with asyncio.timeout(60):
            await waiting
    async with asyncio.timeout(60):
        assert (await watching)[0] == "run:trigger"


async def _collect(durably, run_id):
    return [event.type async for event in durably.subscribe(run_id)]


async def test_calls_after_the_stop_say_what_to_do(make):
    durably = await make()
    await durably.stop()
    with pytest.raises(ClosedError, match="init"):
        await durably.get_runs()
    await durably.init()
    assert await durably.get_runs() == []


async def test_stopping_twice_is_fine(make):
    durably = await make()
    await durably.stop()
    await durably.stop()


async def test_idle_is_only_who_has_nothing_in_hand(make, monkeypatch):
    """A run that is claimed just before the database is asked is not due any more, but not over."""
    durably = await make(start=False)

    @durably.job("slow")
    async def slow(step: Step) -> None:
        await asyncio.sleep(0.1)

    await durably.migrate()
    run = await slow.trigger()
    any_due = durably._store.any_due

    async def asked_after_the_claim(*args):
        while (await durably.get_run(run.id)).status == "pending":
            await asyncio.sleep(0.01)
        return await any_due(*args)

    await durably.init()
    monkeypatch.setattr(durably._store, "any_due", asked_after_the_claim)
    await durably.run_until_idle()
    assert (await durably.get_run(run.id)).status == "completed"


async def test_who_cancels_a_stop_is_heard_while_it_ends_its_claims(make, monkeypatch):
    durably = await make(start=False)

    @durably.job("hold")
    async def hold(step: Step) -> None:
        await asyncio.Event().wait()

    looking = asyncio.Event()

    async def look_after():
        looking.set()
        await asyncio.Event().wait()

    await durably.init()
    run = await hold.trigger()
    while (await durably.get_run(run.id)).status != "running":
        await asyncio.sleep(0.01)
    monkeypatch.setattr(durably._store, "look_after", look_after)
    await looking.wait()
    stopping = asyncio.create_task(durably.stop(grace=3600))
    await asyncio.sleep(0.05)
    stopping.cancel()
    await asyncio.wait({stopping}, timeout=60)
    assert stopping.cancelled()
    monkeypatch.undo()
    await durably.migrate()
    assert (await durably.get_run(run.id)).status == "pending"
