"""A real PgBouncer in transaction mode between the workers and their PostgreSQL (D5)."""

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from durably import Durably, Step
from tests import debian, postgres
from tests.crash import cuts, kill_loop
from tests.crash.place import POSTGRES
from tests.oracle import check_journal
from tests.pooler import pooler
from tests.tier import TIER, by_tier

RUNS = by_tier(quick=20, ci=60, soak=2000)
# What PgBouncer is often told to let through, and then nothing tells that it is one.
SILENT = {
    "ignore_startup_parameters": "statement_timeout,idle_in_transaction_session_timeout,tcp_keepalives_idle,"
    "tcp_keepalives_interval,tcp_keepalives_count,tcp_user_timeout,plan_cache_mode,enable_seqscan,jit,"
    "synchronous_commit"
}


@pytest.fixture(scope="module", autouse=True)
def pgbouncer():
    """Where a person works without it, leave these tests out; in CI that would hide that nothing was tested."""
    try:
        debian.program("pgbouncer", "usr/sbin/pgbouncer")
    except debian.Unavailable as why:
        if TIER != "quick":
            pytest.fail(str(why))
        pytest.skip(str(why))


class Crew:
    """Two workers on a database, and what their steps did."""

    def __init__(self, url, **options):
        self.effects = Counter()
        self.workers = [
            Durably(url, polling_interval=0.1, max_concurrent_runs=10, **options) for _ in range(2)
        ]
        self.jobs = [worker.job("job")(self.body) for worker in self.workers]

    async def body(self, step: Step, n: int) -> int:
        for i in range(n):
            await step.run(f"s{i}", self.effect, step.run_id, i)
            step.progress(i, n)
        return n

    async def effect(self, run_id: str, i: int) -> int:
        self.effects[run_id, i] += 1
        return i

    async def work(self):
        async with AsyncExitStack() as stack:
            for worker in self.workers:
                await stack.enter_async_context(worker)
            runs = [run for job in self.jobs for run in await job.batch_trigger([5] * RUNS)]
            async with asyncio.timeout(120):
                done = [await self.workers[0].wait(run) for run in runs]
            assert {run.attempt for run in done} == {1}
            listening = {worker._engine.store._signals.is_listening for worker in self.workers}
        assert set(self.effects.values()) == {1}
        assert len(self.effects) == 5 * 2 * RUNS
        return listening


async def check(url):
    assert check_journal(await postgres.as_sqlite(url), fifo=False) == []


async def test_a_pooler_is_noticed_and_polled_through(postgres_url):
    with pooler(postgres_url) as url:
        assert await Crew(url).work() == {False}
    await check(postgres_url)


async def test_listening_goes_past_the_pooler(postgres_url):
    with pooler(postgres_url) as url:
        assert await Crew(url, listen_url=postgres_url).work() == {True}
    await check(postgres_url)


async def test_a_pooler_that_swallows_settings_must_be_named(postgres_url):
    with pooler(postgres_url, **SILENT) as url:
        assert await Crew(url, pooled=True).work() == {False}
    await check(postgres_url)


async def test_what_a_pooler_gives_is_another_session_each_time(postgres_url):
    """Otherwise these tests would show nothing."""
    with pooler(postgres_url) as url:
        connections = [await asyncpg.connect(url, statement_cache_size=0) for _ in range(3)]
        seen = set()
        for _ in range(5):
            for connection in connections:
                async with connection.transaction():
                    seen.add((connection, await connection.fetchval("select pg_backend_pid()")))
            await asyncio.gather(*(c.execute("select pg_sleep(0.01)") for c in connections))
        for connection in connections:
            await connection.close()
    assert len(seen) > len(connections)


def past(pooler_url):
    """The same database of a server, through its pooler."""
    netloc = urlsplit(pooler_url).netloc
    return lambda url: urlunsplit(urlsplit(url)._replace(netloc=netloc))


def test_workers_behind_a_pooler_are_killed():
    with pooler(postgres.server_url()) as url:
        kills = by_tier(quick=2, ci=5, soak=300)
        kill_loop.run(kills=kills, seed=3, database=POSTGRES, way=past(url)).check()


def test_connections_to_a_pooler_are_cut():
    with pooler(postgres.server_url()) as url:
        cut = by_tier(quick=6, ci=20, soak=1000)
        cuts.run(cuts=cut, seed=3, way=past(url)).check()
