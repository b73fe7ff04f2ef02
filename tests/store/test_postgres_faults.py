"""Trouble between a worker and its PostgreSQL delays a run; it never fails one, and repeats nothing."""

import asyncio
from collections import Counter
from urllib.parse import urlsplit, urlunsplit

import pytest

from durably import Durably, Step
from durably.errors import LeaseLost
from durably.runtime import Runtime
from durably.store.base import Entry, NewRun
from durably.store.postgres import link
from durably.store.postgres.store import PostgresStore
from durably.store.postgres.trouble import LostConnectionError
from tests import postgres
from tests.oracle import check_journal
from tests.proxy import Cut, Proxy
from tests.tier import by_tier

CUTS = by_tier(quick=20, ci=120, soak=10_000)
RESTARTS = by_tier(quick=1, ci=3, soak=30)


class Crew:
    """An instance whose steps count how often they ran."""

    def __init__(self, url, **options):
        settings = {
            "polling_interval": 0.05,
            "heartbeat_interval": 1,
            "stale_threshold": 20,
            **options,
        }
        self.durably = Durably(url, **settings)
        self.effects = Counter()

        @self.durably.job("steps")
        async def steps(step: Step, n: int) -> int:
            total = 0
            for i in range(n):
                total += await step.run(f"s{i}", self.effect, step.run_id, i)
            return total

        self.steps = steps

    async def effect(self, run_id: str, i: int) -> int:
        self.effects[run_id, i] += 1
        await asyncio.sleep(0)
        return i

    async def ended(self, runs, n):
        async with asyncio.timeout(60):
            for run in runs:
                done = await self.durably.wait(run)
                assert done.output == sum(range(n))
                assert done.attempt == 1


async def check(url):
    assert check_journal(await postgres.as_sqlite(url), fifo=False) == []


def through(url, proxy):
    parts = urlsplit(url)
    netloc = f"{parts.username}@127.0.0.1:{proxy.port}"
    return urlunsplit(parts._replace(netloc=netloc))


@pytest.fixture
async def proxied(postgres_url):
    """A database, the proxy before it, and its URL through the proxy."""
    async with Proxy(urlsplit(postgres_url).port) as proxy:
        yield postgres_url, proxy, through(postgres_url, proxy)


async def test_terminated_backends_are_not_noticed_by_runs(postgres_url):
    crew = Crew(postgres_url, max_concurrent_runs=20)
    async with crew.durably:
        runs = await crew.steps.batch_trigger([30] * 40)
        ended = asyncio.create_task(crew.ended(runs, 30))
        killed = 0
        while not ended.done():
            killed += await postgres.terminate_backends(postgres_url)
            await asyncio.sleep(0.3)
        await ended
        assert killed
    assert set(crew.effects.values()) == {1}
    await check(postgres_url)


async def test_an_immediate_restart_in_mid_run(request):
    server = postgres.Server()
    try:
        url = server.url
        crew = Crew(url, max_concurrent_runs=10)
        async with crew.durably:
            for _ in range(RESTARTS):
                runs = await crew.steps.batch_trigger([200] * 10)
                while sum(crew.effects.values()) % 2000 < 300:
                    await asyncio.sleep(0.005)
                await asyncio.to_thread(server.restart)
                await crew.ended(runs, 200)
        assert set(crew.effects.values()) == {1}
        await check(url)
    finally:
        server.close()


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_a_cut_at_any_message_of_a_run(proxied, after):
    """Also after the commit was sent and before it was answered: the outcome is unknown (K10)."""
    url, proxy, way = proxied
    crew = Crew(way)
    async with crew.durably:
        await crew.ended([await crew.steps.trigger(3)], 3)
        before = proxy.chunks
        await crew.ended([await crew.steps.trigger(3)], 3)
        messages = proxy.chunks - before
        for n in range(CUTS // 2):
            proxy.arm(Cut(n % messages, after))
            run = await crew.steps.trigger(3, idempotency_key=f"{n}")
            await crew.ended([run], 3)
        assert proxy.cuts > CUTS // 4
    assert set(crew.effects.values()) == {1}
    await check(url)


async def test_a_pulled_cable(proxied, monkeypatch):
    """Nothing arrives and nothing ends: only a limit of our own tells (D2)."""
    monkeypatch.setattr("durably.store.postgres.link.COMMAND_TIMEOUT", 0.5)
    monkeypatch.setattr("durably.store.postgres.link.CONNECT_TIMEOUT", 0.5)
    url, proxy, way = proxied
    crew = Crew(way)
    async with crew.durably:
        runs = await crew.steps.batch_trigger([100] * 5)
        while sum(crew.effects.values()) < 50:
            await asyncio.sleep(0.005)
        proxy.hold()
        await asyncio.sleep(1.5)
        assert crew.durably._store.trouble
        proxy.flow()
        proxy.cut_all()
        await crew.ended(runs, 100)
    assert set(crew.effects.values()) == {1}
    await check(url)


async def test_a_worker_that_stops_within_a_transaction_is_ended_by_the_server(
    postgres_url, monkeypatch
):
    """Its locks would keep a run from everybody else for as long as it sleeps (Z2)."""
    monkeypatch.setitem(link._SETTINGS, "idle_in_transaction_session_timeout", "300")
    asleep, awake = (PostgresStore(postgres_url, Runtime()) for _ in range(2))
    for store in (asleep, awake):
        await store.open()
    await awake.migrate()
    await awake.enqueue([NewRun("r", "job", "1", "{}", None, None)], 0)
    (held,) = (await asleep.claim(["job"], "asleep", 0, 100, 1, takeover=True)).taken
    with pytest.raises(LostConnectionError):
        async with asleep._commits.session() as session, session.transaction():
            await session.fetch("lock_all", {"run_id": ["r"]})
            await asyncio.sleep(0.2)  # the lease runs out
            assert (await awake.claim(["job"], "awake", 0, 30_000, 1, takeover=True)).taken == []
            async with asyncio.timeout(20):
                while not (
                    taken := (await awake.claim(["job"], "b", 0, 30_000, 1, takeover=True)).taken
                ):
                    await asyncio.sleep(0.05)
            await session.fetch("run", {"run_id": "r"})
    assert taken[0].lease.generation == 2
    with pytest.raises(LeaseLost):
        await asleep.record(held.lease, Entry("step:complete", 1, "s", 0, 1, "1"))
    for store in (asleep, awake):
        await store.close()
