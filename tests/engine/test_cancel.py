"""A cancel reaches a run wherever it is on its way."""

import asyncio

import pytest

from durably import Step
from durably.errors import RunCancelledError


async def test_a_run_cancelled_while_it_is_being_claimed_never_begins(make):
    durably = await make()
    begun, claimed, go_on = [], asyncio.Event(), asyncio.Event()
    claim = durably._store.claim

    async def slow_claim(*args, **options):
        claims = await claim(*args, **options)
        if claims.taken:
            claimed.set()
            await go_on.wait()
        return claims

    durably._store.claim = slow_claim

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
