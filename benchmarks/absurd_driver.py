"""The driver of absurd. Runs on the interpreter of its own venv.

Its Python SDK has a connection for each client; async handlers, as its documents have them. Idle workers
poll every 10 ms, not every 250 as by default, or the pause would be all that is measured.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import absurdctl
import psycopg
from absurd_sdk import AsyncAbsurd

from .meter import Meter, Result, drive, latencies, pause, percentile

POLL = 0.01
WARM_UP = 10


async def _open(db: str) -> AsyncAbsurd:
    with psycopg.connect(db, autocommit=True) as connection:
        connection.execute(absurdctl.BUNDLED_SCHEMA_SQL)
    app = AsyncAbsurd(db)
    await app.create_queue()
    return app


async def _until_over(db: str, ended: Any) -> None:
    while not ended():
        await asyncio.sleep(0.002)
    over = "select 1 from absurd.t_default where state in ('pending', 'running') limit 1"
    async with await psycopg.AsyncConnection.connect(db, autocommit=True) as connection:
        while await (await connection.execute(over)).fetchone():
            await asyncio.sleep(0.001)


def _step(n: int) -> Any:
    async def trivial() -> int:
        return n + 1

    return trivial


async def sequential(db: str, steps: int) -> Result:
    took: list[float] = []
    meters: list[Meter] = []
    app = await _open(db)

    @app.register_task("sequential")
    async def work(count: int, ctx: Any) -> int:
        took.clear()
        meter = Meter()
        for i in range(count):
            began = time.perf_counter()
            await ctx.step(f"step-{i}", _step(i))
            took.append(time.perf_counter() - began)
        meters.append(meter.stop())
        return count

    worker = asyncio.create_task(app.start_worker(poll_interval=POLL))
    for count in (WARM_UP, steps):
        already = len(meters)
        await AsyncAbsurd(db).spawn("sequential", count, queue="default")
        await _until_over(db, lambda already=already: len(meters) > already)
    worker.cancel()
    return {**meters[-1].per_step(steps), "p50_ms": percentile(took, 50) * 1e3}


async def concurrent(db: str, runs: int, steps: int, concurrency: int) -> Result:
    ended = 0
    app = await _open(db)

    @app.register_task("plain")
    async def plain(i: int, ctx: Any) -> int:
        nonlocal ended
        for n in range(steps):
            await ctx.step(f"step-{n}", _step(n))
        ended += 1
        return i

    client = AsyncAbsurd(db)
    worker = asyncio.create_task(app.start_worker(concurrency=concurrency, poll_interval=POLL))
    for i in range(WARM_UP):
        await client.spawn("plain", i, queue="default")
    await _until_over(db, lambda: ended == WARM_UP)
    ended = 0
    meter = Meter()
    for i in range(runs):
        await client.spawn("plain", i, queue="default")
    await _until_over(db, lambda: ended == runs)
    meter.stop()
    worker.cancel()
    return meter.per_step(runs * steps)


async def latency(db: str, count: int) -> Result:
    waits: list[float] = []
    app = await _open(db)

    @app.register_task("latency")
    async def work(triggered_at: float, ctx: Any) -> None:
        waits.append(time.monotonic() - triggered_at)

    client = AsyncAbsurd(db)
    worker = asyncio.create_task(app.start_worker(poll_interval=POLL))
    for i in range(count + 1):
        await client.spawn("latency", time.monotonic(), queue="default")
        await asyncio.sleep(pause(i))
    await _until_over(db, lambda: len(waits) > count)
    worker.cancel()
    return latencies(waits[1:])


if __name__ == "__main__":
    drive((sequential, concurrent, latency), linger=False)
