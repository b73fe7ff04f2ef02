"""What watching costs the database: one cheap look for all, and reads where something changed."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from durably import Durably, Step, job
from durably.feed.feed import LOOK
from tests.tier import by_tier

from .test_feed import Watch, feed_of, until

Make = Callable[..., Any]
MANY = by_tier(quick=1_000, ci=1_000, soak=5_000)
CHEAP = "pragma data_version"


@pytest.fixture
def database(tmp_path):
    """A file: what is counted here are SQLite's statements."""
    return tmp_path / "app.db"


@job("steps")
async def steps(step: Step, count: int) -> None:
    for i in range(count):
        await step.run(f"step-{i}", asyncio.sleep, 0.002)


@contextlib.contextmanager
def counted(durably: Durably) -> Iterator[Counter[str]]:
    """The statements that the store's connections execute, by what they begin with."""
    store: Any = durably._engine.store
    found: Counter[str] = Counter()

    def note(sql: str) -> None:
        words = sql.split()
        table = "journal" if "from durably_journal" in sql else "runs"
        tail = " of all" if "position >" in sql else ""
        found[sql if words[0] == "pragma" else f"{words[0]} {table}{tail}"] += 1

    connections = (store._reader, store._connection)
    for connection in connections:
        connection.set_trace_callback(note)
    yield found
    for connection in connections:
        connection.set_trace_callback(None)


@contextlib.asynccontextmanager
async def watched(durably: Durably, runs: list[str], count: int) -> AsyncIterator[list[Watch]]:
    """So many followers of the runs, and a tenth as many of all runs, once all have caught up."""
    watches = [Watch(durably.subscribe(runs[i % len(runs)])) for i in range(count)]
    watches += [Watch(durably.subscribe_runs()) for _ in range(count // 10)]
    await until(lambda: all(watch.told for watch in watches[:count]))
    with counted(durably) as statements:
        await asyncio.sleep(2 * LOOK)
        while set(statements) - {CHEAP}:
            statements.clear()
            await asyncio.sleep(2 * LOOK)
    yield watches
    for watch in watches:
        await watch.stop()


@pytest.mark.parametrize("count", [1, 100, MANY])
async def test_while_nothing_happens_there_is_one_cheap_look(make: Make, count: int) -> None:
    web = await make(steps, worker=False)
    run = await web.register(steps).trigger(0)
    async with watched(web, [run.id], count):
        with counted(web) as statements:
            began = time.monotonic()
            await asyncio.sleep(10 * LOOK)
            most = (time.monotonic() - began) / LOOK + 1
    assert set(statements) == {CHEAP}
    assert 1 <= statements[CHEAP] <= most


async def test_nobody_watches_nobody_looks(make: Make) -> None:
    web = await make(steps, worker=False)
    run = await web.register(steps).trigger(0)
    async with watched(web, [run.id], 3):
        pass
    await until(lambda: feed_of(web)._looking is None)
    with counted(web) as statements:
        await asyncio.sleep(4 * LOOK)
    assert not statements


@pytest.mark.parametrize("count", [20, MANY])
async def test_reads_are_for_runs_that_changed_not_for_those_who_watch(
    make: Make, count: int
) -> None:
    """A busy worker elsewhere, and many or few who watch its runs from here."""
    web, worker = await make(steps, worker=False), await make(steps, start=False)
    handle = web.register(steps)
    runs = [(await handle.trigger(40)).id for _ in range(10)]
    async with watched(web, runs, count) as watches:
        looks = 0
        catch_up = feed_of(web)._catch_up

        async def look() -> None:
            nonlocal looks
            looks += 1
            await catch_up()

        feed_of(web)._catch_up = look  # type: ignore[method-assign]
        with counted(web) as statements:
            began = time.monotonic()
            await worker.init()
            for watch in watches[:count]:
                await watch.ended()
            took = time.monotonic() - began
        print(f"{count} watchers, {looks} looks: {dict(statements)}")
    assert looks <= took / LOOK + 2
    assert statements["select journal of all"] <= 2 * looks + 1
    assert statements["select journal"] <= looks * len(runs)
    # Of each run the row is read at its start, for its input, and at its end, for its last progress; and
    # what goes on elsewhere.
    assert statements["select runs"] <= looks + 3 * len(runs)
