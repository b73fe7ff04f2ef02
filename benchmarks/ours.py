"""The driver of Durably itself. Each measure runs in a process of its own, on a database of its own."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import sqlite3
import statistics
import sys
import time
from typing import Any, Literal

import uvicorn
from pydantic import BaseModel

from durably import Durably, Step, events, job
from durably.http import Limits
from durably.store import claiming, records, statements
from durably.store.sqlite.store import DIALECT

from .meter import Meter, Result, Window, drive, latencies, pause, percentile, rss_mb

Durability = Literal["full", "process"]
WARM_UP = 50


async def trivial(i: int) -> int:
    return i + 1


class Total(BaseModel):
    """The typed output of the measure with everything on."""

    run: int
    total: int


# -- (a) one run of many steps in sequence


async def sequential(db: str, steps: int, durability: Durability = "full") -> Result:
    took: list[float] = []
    meters: list[Meter] = []

    @job("sequential")
    async def work(step: Step, count: int) -> int:
        took.clear()
        meter = Meter()
        for i in range(count):
            began = time.perf_counter()
            await step.run(f"step-{i}", trivial, i)
            took.append(time.perf_counter() - began)
        meters.append(meter.stop())
        return count

    async with Durably(db, jobs=[work], durability=durability) as d:
        handle = d.register(work)
        await handle.trigger_and_wait(WARM_UP)
        await handle.trigger_and_wait(steps)
    return {**meters[-1].per_step(steps), "p50_ms": percentile(took, 50) * 1e3}


# -- (b) many runs of few steps, many at a time


async def concurrent(
    db: str,
    runs: int,
    steps: int,
    concurrency: int,
    durability: Durability = "full",
    everything: bool = False,
) -> Result:
    ended = heard = 0

    @job("plain")
    async def plain(step: Step, i: int) -> int:
        nonlocal ended
        for n in range(steps):
            await step.run(f"step-{n}", trivial, n)
        ended += 1
        return i

    @job("typed")
    async def typed(step: Step, i: int) -> Total:
        nonlocal ended
        total = 0
        for n in range(steps):
            total += await step.run(f"step-{n}", trivial, n)
        ended += 1
        return Total(run=i, total=total)

    def listener(event: events.StepComplete) -> None:
        nonlocal heard
        heard += 1

    chosen = typed if everything else plain
    d = Durably(db, jobs=[chosen], durability=durability, max_concurrent_runs=concurrency)
    if everything:
        d.on(events.StepComplete, listener)
    async with d:
        handle: Any = d.register(chosen)
        await asyncio.sleep(0.2)
        idle = rss_mb()
        await handle.batch_trigger(list(range(WARM_UP)))
        await _until_over(d, lambda: ended == WARM_UP)
        ended = 0
        meter = Meter()
        await handle.batch_trigger(list(range(runs)))
        await _until_over(d, lambda: ended == runs)
        meter.stop()
        after = rss_mb()
    return {**meter.per_step(runs * steps), "rss_idle_mb": idle, "rss_after_mb": after}


async def _until_over(d: Durably, all_ended: Any) -> None:
    """First every job function has returned, then every run is settled."""
    while not all_ended():
        await asyncio.sleep(0.002)
    while await d.get_runs(status=["pending", "running"], limit=1):
        await asyncio.sleep(0.001)


# -- (c) how fast runs are triggered, with no worker


async def trigger(db: str, singles: int, batches: int, size: int) -> Result:
    @job("triggered")
    async def work(step: Step, i: int) -> int:
        return i

    async with Durably(db, jobs=[work], worker=False) as d:
        handle = d.register(work)
        await handle.batch_trigger(list(range(WARM_UP)))
        for i in range(WARM_UP):
            await handle.trigger(i)
        one = Meter()
        for i in range(singles):
            await handle.trigger(i)
        one.stop()
        many = Meter()
        for _ in range(batches):
            await handle.batch_trigger(list(range(size)))
        many.stop()
    return {"single_s": singles / one.wall, "batch_s": batches * size / many.wall}


# -- (d) from a trigger to the first line of the job, the worker being idle


async def latency(db: str, count: int, across: bool = False) -> Result:
    waits: list[float] = []
    done = asyncio.Event()

    @job("latency")
    async def work(step: Step, triggered_at: float) -> None:
        waits.append(time.monotonic() - triggered_at)
        if len(waits) >= count:
            done.set()

    async with Durably(db, jobs=[work]) as d:
        handle = d.register(work)
        await handle.trigger_and_wait(time.monotonic())
        waits.clear()
        if across:
            options = f'{{"db": "{db}", "count": {count}}}'
            other = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "benchmarks.ours",
                "trigger_from_afar",
                options,
                stdout=asyncio.subprocess.DEVNULL,
            )
            await done.wait()
            await other.wait()
        else:
            for i in range(count):
                await handle.trigger(time.monotonic())
                await asyncio.sleep(pause(i))
            await done.wait()
    return latencies(waits)


async def trigger_from_afar(db: str, count: int) -> Result:
    """The other process of ``latency`` across processes."""

    @job("latency")
    async def work(step: Step, triggered_at: float) -> None: ...

    async with Durably(db, jobs=[work], worker=False) as d:
        handle = d.register(work)
        await asyncio.sleep(0.3)
        for i in range(count):
            await handle.trigger(time.monotonic())
            await asyncio.sleep(pause(i))
    return {}


# -- (e) a backlog


async def seed(db: str, pending: int, finished: int) -> Result:
    """A database with runs that wait and runs that are over, written by plain SQL."""
    async with Durably(db, worker=False):
        pass
    connection = sqlite3.connect(db)
    now = time.time_ns() // 1_000_000 - 600_000
    with connection:
        _insert_runs(connection, "f", finished, now - 1_000_000, "completed", None)
        _insert_runs(connection, "p", pending, now, "pending", None)
    connection.execute("pragma wal_checkpoint(truncate)")
    connection.close()
    return {}


def _insert_runs(
    connection: sqlite3.Connection,
    prefix: str,
    count: int,
    start: int,
    status: str,
    key: str | None,
) -> None:
    over = status == "completed"
    connection.executemany(
        "insert into durably_runs (id, job, status, input, output, labels, concurrency_key, due_at,"
        " generation, created_at, started_at, ended_at, updated_at)"
        " values (?, 'drain', ?, ?, ?, '{}', ?, ?, ?, ?, ?, ?, ?)",
        (
            (
                f"{prefix}{i:08}",
                status,
                str(i),
                str(i) if over else None,
                key,
                None if over else start + i // 10,
                int(over),
                start + i // 10,
                start + i // 10 if over else None,
                start + i // 10 if over else None,
                start + i // 10,
            )
            for i in range(count)
        ),
    )
    lines = ["run:trigger", "run:start", "run:complete"] if over else ["run:trigger"]
    connection.executemany(
        "insert into durably_journal (run_id, seq, at, type, attempt) values (?, ?, ?, ?, ?)",
        (
            (f"{prefix}{i:08}", n + 1, start + i // 10, line, min(n, 1))
            for i in range(count)
            for n, line in enumerate(lines)
        ),
    )


async def drain(db: str, base: str, first: int, last: int, rounds: int, concurrency: int) -> Result:
    """The rate between the ``first`` and the ``last`` of the pending runs of ``base``."""
    rates: list[float] = []
    for n in range(rounds):
        copy = f"{db}.{n}"
        shutil.copyfile(base, copy)
        window, reached = Window(first, last), asyncio.Event()
        d = Durably(copy, jobs=[_counting(window, reached)], max_concurrent_runs=concurrency)
        await d.init()
        await reached.wait()
        await d.stop(0)
        rates.append((last - first) / window.seconds)
    return {"runs_s": statistics.median(rates)}


def _counting(window: Window, reached: asyncio.Event) -> Any:
    @job("drain")
    async def work(step: Step, i: int) -> int:
        if window.tick():
            reached.set()
        return i

    return work


async def blocked(db: str, behind: int, others: int, concurrency: int) -> Result:
    """Runs without a key, due after many runs that wait behind one busy key."""
    held, release, drained = asyncio.Event(), asyncio.Event(), asyncio.Event()
    count = 0

    @job("hold")
    async def hold(step: Step, i: int) -> int:
        held.set()
        await release.wait()
        return i

    @job("drain")
    async def work(step: Step, i: int) -> int:
        nonlocal count
        count += 1
        if count == others:
            drained.set()
        return i

    async with Durably(
        db, jobs=[hold, work], max_concurrent_runs=concurrency, polling_interval=60
    ) as d:
        await d.register(hold).trigger(0, concurrency_key="busy")
        await held.wait()
        connection = sqlite3.connect(db)
        now = time.time_ns() // 1_000_000 - 600_000
        with connection:
            _insert_runs(connection, "b", behind, now, "pending", "busy")
            _insert_runs(connection, "o", others - 1, now + 300_000, "pending", None)
        connection.close()
        meter = Meter()
        await d.register(work).trigger(0)
        await drained.wait()
        meter.stop()
        await d.stop(0)
    return {"runs_s": others / meter.wall}


async def claim(db: str, base: str, count: int, limit: int) -> Result:
    """A claim's statements, driven without the engine and rolled back each time: only CPU."""
    shutil.copyfile(base, db)
    connection = sqlite3.connect(db, isolation_level=None, cached_statements=256)
    connection.execute("pragma cache_size = -16000")
    texts = statements.statements(DIALECT)
    took: list[float] = []
    now = time.time_ns() // 1_000_000
    for _ in range(count):
        ask = records.ClaimRequest(["drain"], "me", "token", now, 30_000, limit, True)
        connection.execute("begin immediate")
        began = time.thread_time()
        transaction = claiming.claim(ask)
        try:
            name, params = next(transaction)
            while True:
                rows = connection.execute(texts.get(name, name), params).fetchall()
                name, params = transaction.send(rows)
        except StopIteration as stop:
            taken = stop.value.taken
        took.append(time.thread_time() - began)
        connection.execute("rollback")
        assert len(taken) == limit
    connection.close()
    return {"claim_ms": percentile(took, 50) * 1e3}


# -- (f) the resume of a long run


def _long_run(steps: int, new_step: Any) -> Any:
    @job("long")
    async def work(step: Step, i: int) -> int:
        for n in range(steps):
            await step.run(f"step-{n}", trivial, n)
        return await step.run("new", new_step)

    return work


async def replay_prepare(db: str, steps: int) -> None:
    """Dies after that many steps."""

    async def die() -> int:
        print("{}", flush=True)
        os._exit(0)

    work = _long_run(steps, die)
    async with Durably(db, jobs=[work]) as d:
        await d.register(work).trigger_and_wait(0)


async def replay(db: str, steps: int) -> Result:
    """From the run's start, before its checkpoints are loaded, to its first new step."""
    began = ended = 0.0
    over = asyncio.Event()

    async def new_step() -> int:
        nonlocal ended
        ended = time.perf_counter()
        over.set()
        return 1

    def started(event: events.RunStart) -> None:
        nonlocal began
        began = time.perf_counter()

    d = Durably(db, jobs=[_long_run(steps, new_step)])
    d.on(events.RunStart, started)
    async with d:
        await over.wait()
    return {"replay_ms": (ended - began) * 1e3}


# -- (h) a server


async def serve(db: str, worker: bool = True) -> None:
    """Serve until we are killed; ``POST /go`` lets the job "burst" begin its steps."""
    go = asyncio.Event()

    @job("quick")
    async def quick(step: Step, i: int) -> int:
        return await step.run("step", trivial, i)

    @job("burst")
    async def burst(step: Step, count: int) -> int:
        await go.wait()
        go.clear()
        for i in range(count):
            await step.run(f"step-{i}", trivial, i)
        return count

    d = Durably(db, jobs=[quick, burst], worker=worker)
    api = d.asgi(limits=Limits(streams=10_000))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope.get("path") != "/go":
            await api(scope, receive, send)
            return
        go.set()
        headers = [(b"content-length", b"0")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    # Of TCP by name: else asyncio does not know it and leaves Nagle's algorithm on.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen(2048)
    config = uvicorn.Config(app, log_level="error", access_log=False)
    print(json.dumps({"port": listener.getsockname()[1]}), flush=True)
    await uvicorn.Server(config).serve(sockets=[listener])


if __name__ == "__main__":
    measures = (
        sequential,
        concurrent,
        trigger,
        latency,
        trigger_from_afar,
        seed,
        drain,
        blocked,
        claim,
        replay_prepare,
        replay,
        serve,
    )
    drive(measures)
