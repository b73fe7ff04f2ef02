"""step.transaction under SIGKILL: database effects are exactly once, not at least once."""

import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

from tests.tier import by_tier

STEPS = 60
KILLS = by_tier(quick=8, ci=40, soak=1000)

_WORKER = """
import asyncio, sys
from durably import Durably, Step

durably = Durably(sys.argv[1], polling_interval=0.1, heartbeat_interval=0.2, stale_threshold=1.0,
                  max_recoveries=100_000)

def add(connection, n: int) -> int:
    connection.execute("insert into effects (step) values (?)", (n,))
    total = connection.execute("update account set total = total + ? returning total", (n,))
    return total.fetchone()[0]

@durably.job("pay")
async def pay(step: Step, steps: int) -> int:
    total = 0
    for n in range(steps):
        total = await step.transaction(f"pay-{n}", add, n)
        await asyncio.sleep(0.005)
    return total

async def main() -> None:
    async with durably:
        await pay.trigger_and_wait(int(sys.argv[2]), idempotency_key=sys.argv[3])

asyncio.run(main())
"""


def _query(path: Path, sql: str) -> list[tuple[int, ...]]:
    database = sqlite3.connect(path, timeout=30)
    try:
        with database:
            return database.execute(sql).fetchall()
    finally:
        database.close()


def test_every_effect_happens_once(tmp_path):
    path, chance, kills, run = tmp_path / "app.db", random.Random(7), 0, 0
    _query(path, "create table effects (step integer)")
    _query(path, "create table account (total integer)")
    _query(path, "insert into account values (0)")
    while kills < KILLS or run == 0:
        run += 1
        command = [sys.executable, "-c", _WORKER, str(path), str(STEPS), f"run-{run}"]
        done = False
        while not done:
            seen = _query(path, "select count(*) from effects")[0][0]
            worker = subprocess.Popen(command)
            while (
                worker.poll() is None
            ):  # kill it once it has come further, unless enough were killed
                if kills < KILLS and _query(path, "select count(*) from effects")[0][0] > seen:
                    time.sleep(chance.uniform(0, 0.05))
                    worker.send_signal(signal.SIGKILL)
                    kills += 1
                    break
                time.sleep(0.002)
            code = worker.wait(60)
            assert code in (0, -signal.SIGKILL)
            done = code == 0
    expected = [(n, run) for n in range(STEPS)]
    found = "select step, count(*) from effects group by step order by step"
    assert _query(path, found) == expected
    assert _query(path, "select total from account") == [(run * sum(range(STEPS)),)]
