"""The driver of Durably on PostgreSQL: what of ``ours`` runs on any database, and what is its own."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import asyncpg

from durably import Durably, Step, job
from durably.runtime import Runtime
from durably.state import PARKED
from durably.store.postgres.store import PostgresStore

from .meter import Meter, Result, Window, drive, percentile
from .ours import WARM_UP, concurrent, latency, sequential, trigger_from_afar, trivial

FILL = """
insert into durably_runs (id, job, status, input, labels, concurrency_key, due_at, created_at, updated_at)
select $1 || lpad(cast(n as text), 8, '0'), $2, 'pending', cast(n as text), '{}', $3, $4 + n / 10, $4 + n / 10, $4 + n / 10
  from generate_series(1, cast($5 as bigint)) as n
"""
LINES = """
insert into durably_journal (run_id, seq, at, type, attempt)
select id, 1, created_at, 'run:trigger', 0 from durably_runs where not exists
       (select 1 from durably_journal where run_id = durably_runs.id)
"""
BEHIND = (
    "select count(*) from durably_runs where concurrency_key = 'busy' and status = 'pending'"
    f" and due_at < {PARKED}"
)


# -- jobs without steps


async def plain_jobs(db: str, runs: int, concurrency: int) -> Result:
    """Triggered in one batch: from that to the last run completed."""

    @job("plain")
    async def plain(step: Step, i: int) -> int:
        return i

    async def until_ended(d: Durably, count: int) -> None:
        while d._engine.metrics.ended["plain", "completed"] < count:  # counted once it is written
            await asyncio.sleep(0.002)

    async with Durably(db, jobs=[plain], max_concurrent_runs=concurrency) as d:
        handle = d.register(plain)
        await handle.batch_trigger(list(range(WARM_UP)))
        await until_ended(d, WARM_UP)
        meter = Meter()
        await handle.batch_trigger(list(range(runs)))
        await until_ended(d, WARM_UP + runs)
        meter.stop()
    return {"runs_s": runs / meter.wall, "cpu_us": meter.cpu / runs * 1e6}


# -- a backlog


async def seed(db: str, pending: int, behind: int = 0, job: str = "drain") -> Result:
    """Runs that wait, written by plain SQL; ``behind`` more are parked behind a busy key."""
    async with Durably(db, worker=False):
        pass
    connection = await asyncpg.connect(db)
    now = time.time_ns() // 1_000_000 - 600_000
    await connection.execute(FILL, "p", job, None, now, pending)
    if behind:
        await connection.execute(FILL, "a-holder", job, "busy", now - 300_000, 1)
        await connection.execute(FILL, "b", job, "busy", now - 200_000, behind)
    await connection.execute(LINES)
    await connection.execute("vacuum analyze")
    await connection.close()
    if behind:
        await _hold_the_key(db, job)
    return {}


async def _hold_the_key(db: str, job: str) -> None:
    """Claim its holder, and park what is found behind it, as a worker does."""
    store = PostgresStore(db, Runtime())
    await store.open()
    connection = await asyncpg.connect(db)
    while await connection.fetchval(BEHIND):
        await store.claim([job], "holder", _now(), 3_600_000, 1, takeover=True)
    await connection.close()
    await store.close()


def _now() -> int:
    return time.time_ns() // 1_000_000


async def claim(db: str, count: int, limit: int) -> Result:
    """A claim's own transaction, rolled back each time: the time until its answer is here."""
    store = PostgresStore(db, Runtime())
    await store.open()
    statement = store._statements["claim_due"]
    connection = await store._server.connect()
    ask = {"jobs": ["drain"], "skipped": 1 << 62, "now": _now(), "owner": "me", "token": "t" * 32,
           "lease": 30_000, "limit": limit}  # fmt: skip
    took: list[float] = []
    for _ in range(count):
        transaction = connection.transaction()
        await transaction.start()
        began = time.perf_counter()
        rows = await connection.fetch(statement.text, *statement.values(ask))
        took.append(time.perf_counter() - began)
        await transaction.rollback()
        assert len(rows) == limit
    await connection.close()
    await store.close()
    return {"claim_ms": percentile(took, 50) * 1e3}


async def drain(db: str, first: int, last: int, concurrency: int) -> Result:
    """The rate between the ``first`` and the ``last`` of the runs that wait."""
    window, reached = Window(first, last), asyncio.Event()

    @job("drain")
    async def work(step: Step, i: int) -> int:
        if window.tick():
            reached.set()
        return i

    d = Durably(db, jobs=[work], max_concurrent_runs=concurrency)
    await d.init()
    await reached.wait()
    await d.stop(0)
    return {"runs_s": (last - first) / window.seconds}


# -- workers in processes of their own


async def workers(db: str, count: int, pause: float, steps: int, first: int, last: int) -> Result:
    """The rate at which that many worker processes drain a backlog, from outside."""
    asked = json.dumps({"db": db, "pause": pause, "steps": steps})
    command = (sys.executable, "-m", "benchmarks.ours_postgres", "work", asked)
    processes = [await asyncio.create_subprocess_exec(*command) for _ in range(count)]
    connection = await asyncpg.connect(db)
    try:
        began, done = await _await_ended(connection, first)
        ended, all_done = await _await_ended(connection, last)
    finally:
        for process in processes:
            process.kill()
            await process.wait()
        await connection.close()
    return {"runs_s": (all_done - done) / (ended - began)}


async def _await_ended(connection: Any, count: int) -> tuple[float, int]:
    while True:
        ended = await connection.fetchval(
            "select count(*) from durably_runs where ended_at is not null"
        )
        if ended >= count:
            return time.perf_counter(), ended
        await asyncio.sleep(0.05)


async def work(db: str, pause: float, steps: int) -> None:
    """One worker of ``workers``, until it is killed."""

    async def wait_for_others(i: int) -> int:
        await asyncio.sleep(pause)
        return i

    @job("drain")
    async def waiting(step: Step, i: int) -> int:
        for n in range(steps):
            await step.run(f"step-{n}", wait_for_others if pause else trivial, n)
        return i

    async with Durably(db, jobs=[waiting]):
        await asyncio.sleep(600)


if __name__ == "__main__":
    drive(
        (
            sequential,
            concurrent,
            latency,
            trigger_from_afar,
            plain_jobs,
            seed,
            claim,
            drain,
            workers,
            work,
        )
    )
