"""Stopping: nobody waits for ever for an instance that is closed."""

import asyncio
import threading

import pytest

from durably import Retry, Step, SyncStep
from durably.errors import ClosedError, HandedBack, RunFailedError
from durably.worker.body import Body


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


async def test_a_plain_job_that_is_stopped_as_its_step_begins_ends(make, monkeypatch):
    """The step's task is cancelled before its first line: the thread that waits for it must hear of it."""
    durably, ended = await make(), threading.Event()
    start_task = Body.start_task

    def start_and_stop(body, *args):
        start_task(body, *args)
        body.stop(HandedBack("this worker is stopping"))

    @durably.job("plain")
    def plain(step: SyncStep) -> None:
        try:
            step.run("one", int)
        finally:
            ended.set()

    with monkeypatch.context() as patch:
        patch.setattr(Body, "start_task", start_and_stop)
        run = await plain.trigger()
        assert await asyncio.to_thread(ended.wait, 30)
    assert (await durably.wait(run.id, 30)).status == "completed"


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
    any_due = durably._engine.store.any_due

    async def asked_after_the_claim(*args):
        while (await durably.get_run(run.id)).status == "pending":
            await asyncio.sleep(0.01)
        return await any_due(*args)

    await durably.init()
    monkeypatch.setattr(durably._engine.store, "any_due", asked_after_the_claim)
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
    monkeypatch.setattr(durably._engine.store, "look_after", look_after)
    await looking.wait()
    stopping = asyncio.create_task(durably.stop(grace=3600))
    await asyncio.sleep(0.05)
    stopping.cancel()
    await asyncio.wait({stopping}, timeout=60)
    assert stopping.cancelled()
    monkeypatch.undo()
    await durably.migrate()
    assert (await durably.get_run(run.id)).status == "pending"


@pytest.mark.parametrize("kind", ["async", "plain", "with retries", "in a plain job"])
async def test_a_step_that_fails_while_the_instance_stops_is_handed_back(make, kind):
    """Whoever stops a process often stops its children, too, and the step that waits for one fails."""
    durably = await make()
    begun, told_to_stop = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def convert():
        loop.call_soon_threadsafe(begun.set)
        told_to_stop.wait(60)
        raise OSError("the converter was killed")

    async def convert_async():
        await asyncio.to_thread(convert)

    @durably.job("job")
    async def job(step: Step) -> None:
        fn = convert_async if kind == "async" else convert
        await step.run("convert", fn, retries=Retry(5, delay=60) if kind == "with retries" else 0)

    @durably.job("plain")
    def plain(step: SyncStep) -> None:
        step.run("convert", convert)

    run = await (plain if kind == "in a plain job" else job).trigger()
    await asyncio.wait_for(begun.wait(), 60)
    durably.expect_stop()
    told_to_stop.set()
    async with asyncio.timeout(60):
        await durably.stop(60)
    await durably.migrate()
    found = await durably.get_run(run.id)
    assert (found.status, found.error) == ("pending", None)
    assert await durably.get_steps(run.id) == []


async def test_opened_again_a_failing_step_fails(make):
    durably = await make()
    await durably.stop()
    await durably.init()

    @durably.job("job")
    async def job(step: Step) -> None:
        await step.run("no", lambda: 1 / 0)

    run = await job.trigger()
    with pytest.raises(RunFailedError):
        await durably.wait(run, timeout=60)
