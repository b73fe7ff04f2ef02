"""The driver of procrastinate, a queue of jobs without steps. Runs on the interpreter of its own venv."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from typing import Any

import procrastinate

from .meter import Meter, Result, drive, latencies, pause

WARM_UP = 50


def _app(db: str) -> procrastinate.App:
    return procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=db))


async def _until_over(app: procrastinate.App, ended: Any) -> None:
    while not ended():
        await asyncio.sleep(0.002)
    over = "select count(*) as left from procrastinate_jobs where status in ('todo', 'doing')"
    while (await app.connector.execute_query_one_async(over.replace("left", "n")))["n"]:
        await asyncio.sleep(0.001)


async def plain_jobs(db: str, runs: int, concurrency: int) -> Result:
    ended = 0
    app = _app(db)

    @app.task(name="plain")
    async def plain(i: int) -> None:
        nonlocal ended
        ended += 1

    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        working = app.run_worker_async(concurrency=concurrency, install_signal_handlers=False)
        worker = asyncio.create_task(working)
        await plain.batch_defer_async(*({"i": i} for i in range(WARM_UP)))
        await _until_over(app, lambda: ended == WARM_UP)
        ended = 0
        meter = Meter()
        await plain.batch_defer_async(*({"i": i} for i in range(runs)))
        await _until_over(app, lambda: ended == runs)
        meter.stop()
        worker.cancel()
        await asyncio.wait([worker])
    return {"runs_s": runs / meter.wall, "cpu_us": meter.cpu / runs * 1e6}


async def latency(db: str, count: int, across: bool = False) -> Result:
    waits: list[float] = []
    app = _app(db)

    @app.task(name="latency")
    async def work(at: float) -> None:
        waits.append(time.monotonic() - at)

    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        worker = asyncio.create_task(app.run_worker_async(install_signal_handlers=False))
        await work.defer_async(at=time.monotonic())
        while not waits:
            await asyncio.sleep(0.01)
        waits.clear()
        if across:
            asked = json.dumps({"db": db, "count": count})
            other = (sys.executable, "-m", "benchmarks.procrastinate_driver", "trigger_from_afar")
            run = asyncio.to_thread(
                subprocess.run, [*other, asked], check=True, stdout=subprocess.DEVNULL
            )
            await run
        else:
            for i in range(count):
                await work.defer_async(at=time.monotonic())
                await asyncio.sleep(pause(i))
        while len(waits) < count:
            await asyncio.sleep(0.005)
        worker.cancel()
        await asyncio.wait([worker])
    return latencies(waits)


async def trigger_from_afar(db: str, count: int) -> Result:
    app = _app(db)
    async with app.open_async():
        deferrer = app.configure_task("latency")
        await asyncio.sleep(0.3)
        for i in range(count):
            await deferrer.defer_async(at=time.monotonic())
            await asyncio.sleep(pause(i))
    return {}


if __name__ == "__main__":
    drive((plain_jobs, latency, trigger_from_afar), linger=False)
