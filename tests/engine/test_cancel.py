"""A cancel reaches a run wherever it is on its way."""

import asyncio

import pytest

from durably import Step
from durably.errors import RunCancelledError
from durably.state import CANCEL


async def test_a_run_cancelled_while_it_is_being_claimed_never_begins(make):
    durably = await make()
    begun, claimed, go_on = [], asyncio.Event(), asyncio.Event()
    claim = durably._engine.store.claim

    async def slow_claim(*args, **options):
        claims = await claim(*args, **options)
        if claims.taken:
            claimed.set()
            await go_on.wait()
        return claims

    durably._engine.store.claim = slow_claim

    @durably.job("no-steps")
    async def no_steps(step: Step) -> None:
        begun.append(step.run_id)

    run = await no_steps.trigger()
    await claimed.wait()
    await durably.cancel(run.id)
    go_on.set()
    with pytest.raises(RunCancelledError):
        await durably.wait(run)
    await asyncio.sleep(0.1)
    assert begun == []


@pytest.mark.parametrize("when", ["it executes", "it is being claimed"])
async def test_a_cancel_that_was_retried_meanwhile_does_not_stop_the_new_attempt(
    make, monkeypatch, when
):
    durably = await make(start=False)
    committed, told, claimed, taken = (asyncio.Event() for _ in range(4))
    begun, go_on, attempts = asyncio.Event(), asyncio.Event(), []
    move, claim = durably._engine.store.move, durably._engine.store.claim

    async def slow_to_hear(run_id, transition, now):
        moved = await move(run_id, transition, now)
        if transition is CANCEL:
            committed.set()
            await told.wait()
        return moved

    async def slow_claim(*args, **options):
        claims = await claim(*args, **options)
        if claims.taken:
            claimed.set()
            await taken.wait()
        return claims

    monkeypatch.setattr(durably._engine.store, "move", slow_to_hear)
    monkeypatch.setattr(durably._engine.store, "claim", slow_claim)

    @durably.job("waits")
    async def waits(step: Step) -> str:
        attempts.append(step.attempt)
        begun.set()
        await go_on.wait()
        return "done"

    await durably.migrate()
    run = await waits.trigger()
    cancelling = asyncio.create_task(durably.cancel(run.id))
    await asyncio.wait_for(committed.wait(), 30)
    await durably.retry(run.id)
    await durably.start()
    await asyncio.wait_for(claimed.wait(), 30)
    if when == "it executes":
        taken.set()
        await asyncio.wait_for(begun.wait(), 30)
    told.set()
    await cancelling
    taken.set()
    go_on.set()
    assert (await durably.wait(run, 30)).output == "done"
    assert attempts == [1], "it was stopped, and taken up again when its lease had ended"


async def test_a_pending_run_is_cancelled_at_once(make):
    durably = await make(start=False, worker=False)
    await durably.init()

    @durably.job("waiting")
    async def waiting(step: Step) -> None: ...

    run = await waiting.trigger()
    assert (await durably.cancel(run.id)).status == "cancelled"
    assert [event.type async for event in durably.subscribe(run.id)] == [
        "run:trigger",
        "run:cancel",
    ]
