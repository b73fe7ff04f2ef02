"""The driver of DBOS, on PostgreSQL or on SQLite with WAL and synchronous=FULL; on its own venv.

Workflows and steps are plain functions: DBOS is faster with them than with async ones. Queues are
polled every 10 ms, not every second as by default, or the pause would be all that is measured.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from dbos import DBOS, DBOSClient, DBOSConfig
from sqlalchemy import Engine, event

from .meter import Meter, Result, Window, drive, latencies, pause, percentile, rss_mb

QUEUE = "bench"
VERSION = "bench"  # the same for every process, or one would not take up another's workflows
WARM_UP = 10


@event.listens_for(Engine, "connect")
def _set_pragmas(connection: Any, record: Any) -> None:
    if not isinstance(connection, sqlite3.Connection):
        return
    connection.execute("pragma journal_mode = wal")
    connection.execute("pragma synchronous = full")


def trivial(i: int) -> int:
    return i + 1


def _launch(db: str, concurrency: int | None = 50) -> None:
    config: DBOSConfig = {
        "name": "bench",
        "system_database_url": _url(db),
        "application_version": VERSION,
        "log_level": "ERROR",
        "run_admin_server": False,
    }
    DBOS(config=config)
    DBOS.launch()
    if concurrency is not None:
        DBOS.register_queue(QUEUE, worker_concurrency=concurrency, polling_interval_sec=0.01)


def _client(db: str) -> DBOSClient:
    return DBOSClient(system_database_url=_url(db))


def _url(db: str) -> str:
    return db if "://" in db else f"sqlite:///{os.path.abspath(db)}"


def _until_over(all_ended: Callable[[], bool]) -> None:
    while not all_ended():
        time.sleep(0.002)
    while DBOS.list_workflows(status=["PENDING", "ENQUEUED"], limit=1, load_input=False):
        time.sleep(0.001)


def sequential(db: str, steps: int) -> Result:
    took: list[float] = []
    meters: list[Meter] = []

    @DBOS.workflow(name="sequential")
    def work(count: int) -> int:
        took.clear()
        meter = Meter()
        for i in range(count):
            began = time.perf_counter()
            DBOS.run_step({"name": f"step-{i}"}, trivial, i)
            took.append(time.perf_counter() - began)
        meters.append(meter.stop())
        return count

    _launch(db, None)
    work(WARM_UP)
    work(steps)
    return {**meters[-1].per_step(steps), "p50_ms": percentile(took, 50) * 1e3}


def concurrent(db: str, runs: int, steps: int, concurrency: int) -> Result:
    lock, ended = threading.Lock(), 0

    @DBOS.workflow(name="plain")
    def plain(i: int) -> int:
        nonlocal ended
        for n in range(steps):
            DBOS.run_step({"name": f"step-{n}"}, trivial, n)
        with lock:
            ended += 1
        return i

    _launch(db, concurrency)
    time.sleep(0.2)
    idle = rss_mb()
    for i in range(WARM_UP):
        DBOS.enqueue_workflow(QUEUE, plain, i)
    _until_over(lambda: ended == WARM_UP)
    ended = 0
    meter = Meter()
    for i in range(runs):
        DBOS.enqueue_workflow(QUEUE, plain, i)
    _until_over(lambda: ended == runs)
    meter.stop()
    return {**meter.per_step(runs * steps), "rss_idle_mb": idle, "rss_after_mb": rss_mb()}


def trigger(db: str, singles: int, batches: int, size: int) -> Result:
    """Batches: there is no such call; ``enqueue_in_transaction`` of many in one is the nearest."""
    options: Any = {"workflow_name": "triggered", "queue_name": QUEUE, "app_version": VERSION}
    _launch(db, None)  # makes the schema
    client = _client(db)
    for i in range(WARM_UP):
        client.enqueue(options, i)
    one = Meter()
    for i in range(singles):
        client.enqueue(options, i)
    one.stop()
    many = Meter()
    for _ in range(batches):
        with client._sys_db.engine.begin() as connection:
            for i in range(size):
                client.enqueue_in_transaction(connection, options, i)
    many.stop()
    return {"single_s": singles / one.wall, "batch_s": batches * size / many.wall}


def latency(db: str, count: int, across: bool = False) -> Result:
    waits: list[float] = []

    @DBOS.workflow(name="latency")
    def work(triggered_at: float) -> None:
        waits.append(time.monotonic() - triggered_at)

    _launch(db)
    DBOS.enqueue_workflow(QUEUE, work, time.monotonic()).get_result()
    waits.clear()
    if across:
        options = f'{{"db": "{db}", "count": {count}}}'
        subprocess.run(
            [sys.executable, "-m", "benchmarks.dbos_driver", "trigger_from_afar", options],
            check=True,
            stdout=subprocess.DEVNULL,
        )
    else:
        for i in range(count):
            DBOS.enqueue_workflow(QUEUE, work, time.monotonic())
            time.sleep(pause(i))
    while len(waits) < count:
        time.sleep(0.005)
    return latencies(waits)


def trigger_from_afar(db: str, count: int) -> Result:
    options: Any = {"workflow_name": "latency", "queue_name": QUEUE, "app_version": VERSION}
    client = _client(db)
    time.sleep(0.3)
    for i in range(count):
        client.enqueue(options, time.monotonic())
        time.sleep(pause(i))
    return {}


def seed(db: str, pending: int, finished: int) -> Result:
    """Rows as DBOS writes them: one workflow is enqueued and its row is multiplied."""
    _launch(db, None)
    client = _client(db)
    options: Any = {"workflow_name": "drain", "queue_name": QUEUE, "app_version": VERSION}
    model_id = client.enqueue(options, 7).workflow_id
    DBOS.destroy()
    client.destroy()
    connection = sqlite3.connect(db)
    with connection:
        for table, at_column in (
            ("workflow_status", "created_at"),
            ("workflow_input", "retention_timestamp"),
        ):
            model = _take_model(connection, table, model_id)
            start = model[at_column] - 600_000
            over: dict[str, Any] = {}
            if table == "workflow_status":
                over = {"status": "SUCCESS", "executor_id": "local"}
            _multiply(connection, table, model | over, "f", finished, at_column, start - 1_000_000)
            _multiply(connection, table, model, "p", pending, at_column, start)
    connection.execute("pragma wal_checkpoint(truncate)")
    connection.close()
    return {}


def _take_model(connection: sqlite3.Connection, table: str, id: str) -> dict[str, Any]:
    cursor = connection.execute(f"select * from {table} where workflow_uuid = ?", (id,))
    model = dict(zip([c[0] for c in cursor.description], cursor.fetchone(), strict=True))
    connection.execute(f"delete from {table} where workflow_uuid = ?", (id,))
    return model


def _multiply(
    connection: sqlite3.Connection,
    table: str,
    model: dict[str, Any],
    prefix: str,
    count: int,
    at_column: str,
    start: int,
) -> None:
    connection.executemany(
        f"insert into {table} ({', '.join(model)}) values ({', '.join(':' + c for c in model)})",
        (
            {**model, "workflow_uuid": f"{prefix}{i:08}", at_column: start + i // 10}
            for i in range(count)
        ),
    )


def drain(db: str, base: str, first: int, last: int, rounds: int, concurrency: int) -> Result:
    window, reached, lock = Window(first, last), threading.Event(), threading.Lock()
    rates: list[float] = []

    @DBOS.workflow(name="drain")
    def work(i: int) -> int:
        with lock:
            if window.tick():
                reached.set()
        return i

    shutil.copyfile(base, db)
    _launch(db, concurrency)
    reached.wait()
    rates.append((last - first) / window.seconds)
    return {"runs_s": statistics.median(rates)}


def _long_run(steps: int, new_step: Callable[[], int]) -> Any:
    began: list[float] = []

    @DBOS.workflow(name="long")
    def work(i: int) -> int:
        began.append(time.perf_counter())
        for n in range(steps):
            DBOS.run_step({"name": f"step-{n}"}, trivial, n)
        return DBOS.run_step({"name": "new"}, new_step)

    return work, began


def replay_prepare(db: str, steps: int) -> None:
    def die() -> int:
        print("{}", flush=True)
        os._exit(0)

    work, _ = _long_run(steps, die)
    _launch(db, None)
    DBOS.start_workflow(work, 0)
    time.sleep(60)


def replay(db: str, steps: int) -> Result:
    ended: list[float] = []
    over = threading.Event()

    def new_step() -> int:
        ended.append(time.perf_counter())
        over.set()
        return 1

    _, began = _long_run(steps, new_step)
    _launch(db, None)
    over.wait()
    return {"replay_ms": (ended[0] - began[0]) * 1e3}


if __name__ == "__main__":
    measures = (
        sequential,
        concurrent,
        trigger,
        latency,
        trigger_from_afar,
        seed,
        drain,
        replay_prepare,
        replay,
    )
    drive(measures, linger=False)
