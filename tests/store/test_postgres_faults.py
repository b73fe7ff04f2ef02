"""Trouble between a worker and its PostgreSQL delays a run; it never fails one, and repeats nothing."""

import asyncio
import threading
from collections import Counter
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from durably import Durably, Step
from durably.errors import LeaseLost, StorageError, StorageUnavailableError
from durably.runtime import Runtime
from durably.store import reads
from durably.store.postgres import connection
from durably.store.postgres.errors import LostConnectionError
from durably.store.postgres.leases import Leases
from durably.store.postgres.store import PostgresStore
from durably.store.records import Entry, NewRun
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
    monkeypatch.setattr("durably.store.postgres.connection.COMMAND_TIMEOUT", 0.5)
    monkeypatch.setattr("durably.store.postgres.connection.CONNECT_TIMEOUT", 0.5)
    url, proxy, way = proxied
    crew = Crew(way)
    async with crew.durably:
        runs = await crew.steps.batch_trigger([100] * 5)
        while sum(crew.effects.values()) < 50:
            await asyncio.sleep(0.005)
        proxy.hold()
        await asyncio.sleep(1.5)
        assert crew.durably._engine.store.trouble
        proxy.flow()
        proxy.cut_all()
        await crew.ended(runs, 100)
    assert set(crew.effects.values()) == {1}
    await check(url)


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("XX000", "MaxClientsInSessionMode: max clients reached"),
        ("28P01", "password authentication failed"),
        ("42501", "permission denied for database"),
        ("0A000", "not supported by this pooler"),
        ("99999", "a state that nobody has heard of"),
    ],
)
async def test_whatever_refuses_a_connection_passes(proxied, state, words):
    """A pooler or a gateway answers in the server's stead, with what it likes (P2)."""
    _, proxy, way = proxied
    crew = Crew(way)
    release = asyncio.Event()

    @crew.durably.job("long")
    async def long(step: Step) -> int:
        await step.run("wait", release.wait)
        return 1

    store = crew.durably._engine.store
    async with asyncio.timeout(60), crew.durably:
        held = await long.trigger()
        runs = await crew.steps.batch_trigger([50] * 3)
        while sum(crew.effects.values()) < 20:
            await asyncio.sleep(0.005)
        proxy.refusal = (state, words)
        proxy.cut_all()
        while store._leases.trouble.why is None:
            await asyncio.sleep(0.01)
        assert store.trouble
        with pytest.raises(StorageUnavailableError, match="leases cannot be renewed"):
            await store.claim(["steps"], "other", 0, 30_000, 1, takeover=False)
        proxy.refusal = None
        await crew.ended(runs, 50)
        release.set()
        assert (await crew.durably.wait(held)).attempt == 1
        while store._leases.trouble.why is not None:
            await asyncio.sleep(0.01)
        assert (await crew.durably.health()).database == "ok"
    assert proxy.refused
    assert set(crew.effects.values()) == {1}


async def test_no_error_ends_the_renewals(postgres_url, monkeypatch):
    """Also one that is nobody's fault but ours (P2)."""
    durably = Durably(postgres_url, heartbeat_interval=0.05, stale_threshold=20)
    release, failed = asyncio.Event(), threading.Event()

    @durably.job("long")
    async def long(step: Step) -> None:
        await release.wait()

    real = Leases._try

    async def fails(self, link, wanted):
        monkeypatch.setattr(Leases, "_try", real)
        failed.set()
        raise RuntimeError("unforeseen")

    async with asyncio.timeout(60), durably:
        monkeypatch.setattr(Leases, "_try", fails)
        run = await long.trigger()
        await asyncio.to_thread(failed.wait, 30)
        connection = await asyncpg.connect(postgres_url)
        before = await connection.fetchval("select due_at from durably_runs")
        while await connection.fetchval("select due_at from durably_runs") == before:
            await asyncio.sleep(0.01)
        await connection.close()
        release.set()
        await durably.wait(run)


async def test_nothing_is_claimed_when_no_thread_can_renew_it(postgres_url, monkeypatch):
    durably = Durably(postgres_url, polling_interval=0.05)
    refused = asyncio.Event()
    real, loop = threading.Thread.start, asyncio.get_running_loop()

    def start(thread):
        if thread.name == "durably-leases" and not refused.is_set():
            loop.call_soon_threadsafe(refused.set)
            raise RuntimeError("can't start new thread")
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", start)

    @durably.job("job")
    async def job(step: Step) -> None: ...

    async with asyncio.timeout(60), durably:
        run = await job.trigger()
        await refused.wait()
        assert (await durably.wait(run)).attempt == 1


async def test_what_the_driver_says_does_not_reach_the_caller(postgres_url):
    durably = Durably(postgres_url, worker=False)
    await durably.init()
    with pytest.raises(StorageError, match="SQLSTATE 22021") as caught:
        await durably._engine.store.run("a\0b")
    assert type(caught.value) is StorageError
    with pytest.raises(StorageError):  # refused by the driver itself
        await durably._engine.store.journal("r", 2**70)
    new = NewRun("r", "job", "1", "{}", None, "a\0b")
    with pytest.raises(StorageError, match="SQLSTATE 22021"):
        await durably._engine.store.enqueue([new], 1)
    await durably.stop()


async def test_a_slow_listing_is_no_outage(postgres_url, monkeypatch):
    """It is refused at once, keeps nobody from being taken over, and holds up no other read."""
    monkeypatch.setitem(connection._SETTINGS, "statement_timeout", "300")
    durably = Durably(postgres_url, worker=False)
    await durably.init()
    store = durably._engine.store
    monkeypatch.setattr(
        reads, "select_runs", lambda *_: ("select pg_sleep(600) from durably_version limit 1", {})
    )
    listing = asyncio.create_task(durably.get_runs())
    while not store._listings._turn.locked():
        await asyncio.sleep(0)
    assert await durably.get_run("none") is None
    assert not listing.done()
    with pytest.raises(StorageError, match="57014") as caught:
        await listing
    assert not isinstance(caught.value, StorageUnavailableError)
    assert store.trouble is None
    assert store.troubled_at == float("-inf")
    await durably.stop()


async def test_a_server_that_defaults_to_snapshots_is_told_otherwise(postgres_url):
    """In a snapshot from before it waited for a lock, a statement would not see what it waited for."""
    connection = await asyncpg.connect(postgres_url)
    name = urlsplit(postgres_url).path[1:]
    await connection.execute(
        f"alter database {name} set default_transaction_isolation = 'repeatable read'"
    )
    await connection.close()
    for pooled in (False, True):
        store = PostgresStore(postgres_url, Runtime(), pooled=pooled)
        await store.open()
        async with store._commands.session() as session:
            shown = await session.fetch("select current_setting('transaction_isolation')", {})
            assert shown[0][0] == "read committed"
            async with session.transaction(), session.transaction():
                shown = await session.fetch("select current_setting('transaction_isolation')", {})
                assert shown[0][0] == "read committed"
        await store.close()


async def test_a_worker_that_stops_within_a_transaction_is_ended_by_the_server(
    postgres_url, monkeypatch
):
    """Its locks would keep a run from everybody else for as long as it sleeps (Z2)."""
    monkeypatch.setitem(connection._SETTINGS, "idle_in_transaction_session_timeout", "300")
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
