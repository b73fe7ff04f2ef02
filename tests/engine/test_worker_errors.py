"""What goes wrong in the background is passed on to listeners of ``worker:error``."""

import asyncio
import threading

import pytest

from durably import SyncStep
from durably.errors import InvalidInputError, StorageError
from durably.store.records import Lease


@pytest.fixture
def errors_of():
    """The errors of an instance, from now on, of one place."""

    def listen(durably, where):
        queue = asyncio.Queue()
        durably.on("worker:error", lambda e: e.where == where and queue.put_nowait(e))
        return queue

    return listen


async def test_watchers_that_wait_for_the_database_are_passed_on(durably, errors_of, monkeypatch):
    received = errors_of(durably, "feed")
    changed, broken = durably._engine.store.changed, [StorageError("it is away"), OSError("odd")]

    async def breaks():
        if broken:
            raise broken.pop(0)
        return await changed()

    monkeypatch.setattr("durably.feed.feed.AGAIN", 0.01)
    monkeypatch.setattr(durably._engine.store, "changed", breaks)
    watching = asyncio.create_task(anext(durably.subscribe_runs()))
    async with asyncio.timeout(30):
        assert [str((await received.get()).error) for _ in "ab"] == ["it is away", "odd"]
    watching.cancel()


async def test_a_renewal_that_fails_is_passed_on(durably, errors_of, monkeypatch):
    received = errors_of(durably, "heartbeat")

    def renew(leases, now, loop, renewed, failed):
        loop.call_soon_threadsafe(failed, StorageError("it is away"))

    monkeypatch.setattr(durably._engine.store, "renew", renew)
    begun, done = asyncio.Event(), asyncio.Event()

    @durably.job("slow")
    async def slow(step) -> None:
        begun.set()
        await done.wait()

    run = await slow.trigger()
    async with asyncio.timeout(30):
        await begun.wait()
        assert str((await received.get()).error) == "it is away"
        done.set()
        await durably.wait(run)


@pytest.mark.parametrize("error", [StorageError("it is away"), OSError("odd")])
async def test_a_hold_that_cannot_be_ended_is_passed_on(durably, errors_of, monkeypatch, error):
    received = errors_of(durably, "settle")
    begun, go_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    async def let_go(lease: Lease, now: int):
        raise error

    monkeypatch.setattr(durably._engine.store, "let_go", let_go)

    @durably.job("blocks")
    def blocks(step: SyncStep) -> None:
        loop.call_soon_threadsafe(begun.set)
        go_on.wait(30)

    run = await blocks.trigger()
    async with asyncio.timeout(30):
        await begun.wait()
        await durably.cancel(run.id)
        go_on.set()
        raised = await received.get()
    assert (raised.error, raised.run_id) == (error, run.id)


async def test_a_run_whose_labels_do_not_fit_any_more_is_not_started_over(make):
    from pydantic import BaseModel

    from durably import job

    class Labels(BaseModel, extra="forbid"):
        org: str

    @job("labeled")
    async def labeled(step) -> None: ...

    before = await make(labeled)
    run = await before.get_job("labeled").trigger(labels={"organization": "one"})
    await before.wait(run)
    fits = await before.get_job("labeled").trigger(labels={"org": "one"})
    await before.wait(fits)
    after = await make(labeled, labels=Labels)
    with pytest.raises(InvalidInputError, match=f"{run.id}.*organization"):
        await after.retrigger(run.id)
    assert (await after.retrigger(fits.id)).labels == {"org": "one"}
