"""The driver of pgqueuer, a queue of jobs without steps. Runs on the interpreter of its own venv.

On asyncpg and uvloop, as its own command line does; a batch as large as the others' concurrency.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from typing import Any

import asyncpg
import uvloop
from pgqueuer import AsyncpgDriver, QueueManager
from pgqueuer.models import Job
from pgqueuer.queries import Queries

from .meter import Meter, Result, drive, latencies, pause

WARM_UP = 50


async def _queries(db: str) -> Queries:
    return Queries(AsyncpgDriver(await asyncpg.connect(db)))


async def _until_over(queries: Queries, ended: Any) -> None:
    while not ended():
        await asyncio.sleep(0.002)
    while await queries.queue_size():
        await asyncio.sleep(0.001)


async def plain_jobs(db: str, runs: int, concurrency: int) -> Result:
    ended = 0
    client = await _queries(db)
    await client.install()
    manager = QueueManager(await _queries(db))

    @manager.entrypoint("plain")
    async def plain(job: Job) -> None:
        nonlocal ended
        ended += 1

    worker = asyncio.create_task(manager.run(batch_size=concurrency))

    async def enqueue(count: int) -> None:
        payloads: list[bytes | None] = [str(i).encode() for i in range(count)]
        await client.enqueue(["plain"] * count, payloads, [0] * count)

    await enqueue(WARM_UP)
    await _until_over(client, lambda: ended == WARM_UP)
    ended = 0
    meter = Meter()
    await enqueue(runs)
    await _until_over(client, lambda: ended == runs)
    meter.stop()
    manager.shutdown.set()
    await worker
    return {"runs_s": runs / meter.wall, "cpu_us": meter.cpu / runs * 1e6}


async def latency(db: str, count: int, across: bool = False) -> Result:
    waits: list[float] = []
    client = await _queries(db)
    await client.install()
    manager = QueueManager(await _queries(db))

    @manager.entrypoint("latency")
    async def work(job: Job) -> None:
        waits.append(time.monotonic() - float(job.payload or b"0"))

    worker = asyncio.create_task(manager.run())
    await client.enqueue("latency", str(time.monotonic()).encode())
    while not waits:
        await asyncio.sleep(0.01)
    waits.clear()
    if across:
        asked = json.dumps({"db": db, "count": count})
        other = (sys.executable, "-m", "benchmarks.pgqueuer_driver", "trigger_from_afar", asked)
        await asyncio.to_thread(subprocess.run, other, check=True, stdout=subprocess.DEVNULL)
    else:
        await _trigger(client, count)
    while len(waits) < count:
        await asyncio.sleep(0.005)
    manager.shutdown.set()
    await worker
    return latencies(waits)


async def _trigger(client: Queries, count: int) -> None:
    for i in range(count):
        await client.enqueue("latency", str(time.monotonic()).encode())
        await asyncio.sleep(pause(i))


async def trigger_from_afar(db: str, count: int) -> Result:
    client = await _queries(db)
    await asyncio.sleep(0.3)
    await _trigger(client, count)
    return {}


if __name__ == "__main__":
    uvloop.install()
    drive((plain_jobs, latency, trigger_from_afar), linger=False)
