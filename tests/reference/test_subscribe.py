"""A subscription tells everything, in order, and ends; however the journal is read meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from durably import Durably, Progress, Step, events

Make = Callable[..., Durably]


async def test_live_events_come_before_the_journaled_ones_that_follow_them(make: Make) -> None:
    durably = make()

    @durably.job("many")
    async def many(step: Step) -> None:
        for i in range(60):
            await step.run(f"step-{i}", asyncio.sleep, 0)
            step.log.info("line", i)

    def read_the_journal(_: events.Event) -> None:
        assert durably._engine.session.feed is not None
        durably._engine.session.feed._look_again()  # as the look around would, were it always at the worst moment

    await durably.migrate()
    for name in ("step:start", "step:complete", "log:write"):
        durably.on(name, read_the_journal)
    run = await many.trigger()
    told: list[tuple[str, Any]] = []
    stream = durably.subscribe(run.id)
    told.append(((await anext(stream)).type, None))
    await durably.start()
    async for event in stream:
        told.append((event.type, getattr(event, "step_name", None)))
    await durably.stop()

    expected: list[tuple[str, Any]] = [("run:trigger", None), ("run:start", None)]
    for i in range(60):
        expected += [("step:start", f"step-{i}"), ("step:complete", f"step-{i}")]
        expected.append(("log:write", None))
    assert told == [*expected, ("run:complete", None)]


async def test_a_long_journal_is_told_to_its_end(durably: Durably) -> None:
    @durably.job("many")
    async def many(step: Step) -> None:
        for i in range(1_100):
            await step.run(f"step-{i}", asyncio.sleep, 0)

    run = await many.trigger_and_wait(timeout=50)
    async with asyncio.timeout(20):
        numbers = [event.sequence async for event in durably.subscribe(run.id)]
    assert numbers == list(range(1, 1_104))


async def test_a_subscription_on_a_database_in_memory_ends() -> None:
    async with Durably(":memory:") as durably:

        @durably.job("short")
        async def short(step: Step) -> None:
            await step.run("wait", asyncio.sleep, 0.2)

        run = await short.trigger()
        async with asyncio.timeout(20):
            told = [event.type async for event in durably.subscribe(run.id)]
        assert told[-1] == "run:complete"


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_progress_never_goes_back_and_its_last_value_is_told(
    make: Make, elsewhere: bool
) -> None:
    worker, watcher = make(), make(worker=False)

    @worker.job("count")
    async def count(step: Step) -> None:
        for i in range(1, 41):
            step.progress(i, 40)
            await asyncio.sleep(0.01)

    async with watcher:
        await worker.migrate()
        run = await count.trigger()
        stream = (watcher if elsewhere else worker).subscribe(run.id)
        await anext(stream)
        await worker.start()
        told = [event.progress async for event in stream if isinstance(event, events.RunProgress)]
        await worker.stop()
    seen = [progress.current for progress in told]
    assert seen == sorted(set(seen))
    assert told[-1] == Progress(40, 40, None)
    assert elsewhere or seen == list(range(1, 41))


async def test_who_comes_late_is_told_how_far_it_is_before_the_database_knows(
    durably: Durably,
) -> None:
    """Progress is written at most every 100 ms, so the row is behind what was told by then."""
    reported, go_on = asyncio.Event(), asyncio.Event()

    @durably.job("slow")
    async def slow(step: Step) -> None:
        for current in range(1, 4):
            step.progress(current, 3)
            await asyncio.sleep(0.01)  # the first is written at once, the next not yet
        reported.set()
        await go_on.wait()

    run = await slow.trigger()
    await reported.wait()
    async with asyncio.timeout(10):
        async for event in durably.subscribe(run.id):
            if isinstance(event, events.RunProgress):
                assert event.progress == Progress(3, 3)
                break
    go_on.set()
    await durably.wait(run, timeout=10)
