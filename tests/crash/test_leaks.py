"""T20: many runs in one process leave nothing behind; an idle worker costs next to nothing."""

import asyncio
import gc
import os
import sqlite3
import threading
import time
import tracemalloc

from durably import Durably, Step
from tests.tier import by_tier

RUNS = by_tier(quick=1000, ci=20_000, soak=200_000)
PART = 1000
CACHE = 8  # megabytes of pages that a connection keeps


def _rss() -> float:
    """Megabytes."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def _look() -> dict[str, int]:
    return {
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
        "tasks": len(asyncio.all_tasks()),
    }


async def _work_off(durably, small, count) -> None:
    await small.batch_trigger(list(range(count)))
    engine = durably._engine
    # In this order: what is claimed during the query is not due, and not idle either.
    while (
        await engine.store.any_due(["small"], engine.runtime.now())
        or not engine.session.worker.is_idle
    ):
        await asyncio.sleep(0.02)


async def test_many_small_runs_leave_nothing_behind(tmp_path):
    assert not tracemalloc.is_tracing()
    durably = Durably(tmp_path / "a.db", max_concurrent_runs=20)

    @durably.job("small")
    async def small(step: Step, n: int) -> int:
        step.progress(n)
        step.log.info("small", n)
        await step.run("sync", lambda: n)
        return await step.run("async", asyncio.sleep, 0, n, returns=int)

    meeting = threading.Barrier(20)

    @durably.job("meet")
    async def meet(step: Step) -> int:
        return await step.run("meet", meeting.wait)

    async with durably:
        # Warm: every thread that the pool may have is started, caches are filled.
        for run in await meet.batch_trigger([None] * 20):
            await durably.wait(run)
        await _work_off(durably, small, PART)
        gc.collect()
        first, sizes = _look(), [_rss()]
        for _ in range(RUNS // PART):
            await _work_off(durably, small, PART)
            gc.collect()
            sizes.append(_rss())
        for _ in range(500):  # the last outcomes are still being written
            if (last := _look())["tasks"] <= first["tasks"]:
                break
            await asyncio.sleep(0.01)
        assert last["descriptors"] <= first["descriptors"]
        # A step may find every thread busy with what it has just finished; a leak is one for each run.
        assert last["threads"] <= first["threads"] + 10
        assert last["tasks"] <= first["tasks"]
        assert sizes[-1] - sizes[0] < CACHE + 4, sizes
        full = 8  # parts, after which the database's own cache is full
        if len(sizes) > 2 * full:
            slope = (sizes[-1] - sizes[full]) / (len(sizes) - 1 - full)
            assert slope < 0.5, f"{slope:.2f} MB per {PART} runs: {sizes}"
        assert not durably._engine.session.worker._executions
    with sqlite3.connect(tmp_path / "a.db") as database:
        count = database.execute("select count(*) from durably_runs where status = 'completed'")
        assert count.fetchone() == (RUNS + PART + 20,)
    database.close()


async def test_an_instance_that_stops_takes_everything_along(tmp_path):
    durably = Durably(tmp_path / "a.db")

    @durably.job("one")
    async def one(step: Step) -> int:
        return await step.run("one", lambda: 1)

    async with durably:
        await one.trigger_and_wait()
    before = _look()
    for _ in range(20):
        async with durably:
            await one.trigger_and_wait()
            stream = durably.subscribe((await one.get_runs())[0].id)
            await anext(stream)
            await stream.aclose()
    for _ in range(200):  # daemon threads need a moment to end
        if _look()["threads"] <= before["threads"]:
            break
        await asyncio.sleep(0.02)
    assert _look() == before
    assert os.listdir(tmp_path / "a.db-durably") == ["checkpointer"]


async def test_an_idle_worker_uses_next_to_no_processor(tmp_path):
    durably = Durably(tmp_path / "a.db")

    @durably.job("nothing")
    async def nothing(step: Step) -> None: ...

    async with durably:
        await asyncio.sleep(0.5)
        before, began = time.process_time(), time.monotonic()
        await asyncio.sleep(by_tier(quick=1, ci=4, soak=60))
        share = (time.process_time() - before) / (time.monotonic() - began)
    assert share < 0.02, f"{share:.1%} of a core"
