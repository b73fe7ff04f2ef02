"""step.transaction under SIGKILL: database effects are exactly once, not at least once."""

import asyncio
import random
import signal
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import asyncpg
import pytest

from tests import postgres
from tests.tier import by_tier

STEPS = 40
RUNS = 2  # side by side
KILLS = {
    "sqlite": by_tier(quick=5, ci=25, soak=1000),
    "postgres": by_tier(quick=3, ci=8, soak=1000),
}

_WORKER = """
import asyncio, sys
from durably import Durably, Step

durably = Durably(sys.argv[1], polling_interval=0.1, heartbeat_interval=0.2, stale_threshold=1.0,
                  max_recoveries=100_000)

def add(connection, n: int) -> int:
    connection.execute("insert into effects (step) values (?)", (n,))
    total = connection.execute("update account set total = total + ? returning total", (n,))
    return total.fetchone()[0]

async def add_there(connection, n: int) -> int:
    await connection.execute("insert into effects (step) values ($1)", n)
    return await connection.fetchval("update account set total = total + $1 returning total", n)

@durably.job("pay")
async def pay(step: Step, steps: int) -> int:
    total = 0
    for n in range(steps):
        lent = add_there if sys.argv[1].startswith("postgresql:") else add
        total = await step.transaction(f"pay-{n}", lent, n, returns=int)
        await asyncio.sleep(0.005)
    return total

async def main() -> None:
    async with durably:
        steps, name, runs = int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
        await asyncio.gather(
            *(pay.trigger_and_wait(steps, idempotency_key=f"{name}-{i}") for i in range(runs))
        )

asyncio.run(main())
"""


class File:
    """A SQLite file."""

    def __init__(self, path):
        self.name = str(path / "app.db")

    def query(self, sql):
        database = sqlite3.connect(self.name, timeout=30)
        try:
            with database:
                return database.execute(sql).fetchall()
        finally:
            database.close()

    def close(self):
        pass


class Server:
    """A database on a server."""

    def __init__(self):
        self._loop = asyncio.new_event_loop()
        self._thread = ThreadPoolExecutor(1)  # where no loop of pytest's is
        self.name = self._run(postgres.create_database())
        self._connection = self._run(asyncpg.connect(self.name))

    def _run(self, coroutine):
        return self._thread.submit(self._loop.run_until_complete, coroutine).result(60)

    def query(self, sql):
        return [tuple(row) for row in self._run(self._connection.fetch(sql))]

    def close(self):
        self._run(self._connection.close())
        self._run(postgres.drop_database(self.name))
        self._loop.close()
        self._thread.shutdown()


@pytest.fixture(params=["sqlite", "postgres"])
def database(request, tmp_path):
    made = File(tmp_path) if request.param == "sqlite" else Server()
    made.kills = KILLS[request.param]
    yield made
    made.close()


def test_every_effect_happens_once(database):
    query = database.query
    chance, kills, run = random.Random(7), 0, 0
    query("create table effects (step integer)")
    query("create table account (total integer)")
    query("insert into account values (0)")
    while kills < database.kills or run == 0:
        run += 1
        command = [sys.executable, "-c", _WORKER, database.name, str(STEPS), f"{run}", str(RUNS)]
        done = False
        while not done:
            seen = query("select count(*) from effects")[0][0]
            worker = subprocess.Popen(command)
            while (
                worker.poll() is None
            ):  # kill it once it has come further, unless enough were killed
                if kills < database.kills and query("select count(*) from effects")[0][0] > seen:
                    time.sleep(chance.uniform(0, 0.05))
                    worker.send_signal(signal.SIGKILL)
                    kills += 1
                    break
                time.sleep(0.002)
            code = worker.wait(60)
            assert code in (0, -signal.SIGKILL)
            done = code == 0
    runs = run * RUNS
    expected = [(n, runs) for n in range(STEPS)]
    found = "select step, count(*) from effects group by step order by step"
    assert query(found) == expected
    assert query("select total from account") == [(runs * sum(range(STEPS)),)]
