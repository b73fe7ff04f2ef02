"""How little an idle worker asks of its server, and that no load keeps a busy one from renewing its leases."""

import asyncio
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from durably import Durably, Step
from durably.runtime import Runtime
from durably.store.postgres.store import PostgresStore
from tests.proxy import Proxy

IDLE = 8  # seconds
LEASE, HELD = 2.0, 4.0  # seconds


def through(url, proxy):
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{parts.username}@127.0.0.1:{proxy.port}"))


async def one() -> int:
    return 1


async def test_an_idle_worker_says_about_one_thing_a_second_however_many_its_jobs(postgres_url):
    """Counted on the wire, with every setting as it is by default: polls, probes, all there is."""
    async with Proxy(urlsplit(postgres_url).port) as proxy:
        durably = Durably(through(postgres_url, proxy))

        async def body(step: Step) -> int:
            return await step.run("one", one)

        made = [durably.job(f"job-{n}")(body) for n in range(5)]
        async with durably:
            for job in made:
                await job.trigger_and_wait(timeout=60)
            await asyncio.sleep(2)
            before = proxy.chunks
            await asyncio.sleep(IDLE)
            said = proxy.chunks - before
    assert said <= IDLE + 2, (
        "one poll a second, and now and then a probe of the connection that listens"
    )


async def test_no_load_keeps_leases_from_being_renewed(postgres_url):
    """Fifty runs whose commits wait for a lock, and a query that takes its time: nobody's lease runs out."""
    durably = Durably(
        postgres_url, max_concurrent_runs=50, stale_threshold=LEASE, heartbeat_interval=0.2
    )

    @durably.job("busy")
    async def busy(step: Step) -> int:
        return sum([await step.run(f"s{n}", one) for n in range(20)])

    async with durably:
        runs = await busy.batch_trigger([None] * 50)
        while sum(run.status == "running" for run in await busy.get_runs(limit=50)) < 50:
            await asyncio.sleep(0.01)
        thief = asyncio.create_task(steal(postgres_url))
        slow = asyncio.create_task(sleep_in(durably._engine.store._queries))
        await lock_the_journal(postgres_url)
        await slow
        assert not thief.done(), thief.exception()
        thief.cancel()
        await asyncio.wait([thief])
        async with asyncio.timeout(60):
            done = [await durably.wait(run) for run in runs]
    assert {run.attempt for run in done} == {1}


async def sleep_in(link):
    async with link.session() as session:
        await session.execute(f"select pg_sleep({HELD})")


async def lock_the_journal(url):
    """Every commit of a worker waits meanwhile; a renewal has nothing to do with the journal."""
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction():
            await connection.execute("lock table durably_journal in exclusive mode")
            await asyncio.sleep(HELD)
    finally:
        await connection.close()


async def steal(url):
    """Claim whatever can be had, as another worker would."""
    store = PostgresStore(url, Runtime())
    await store.open()
    try:
        while True:
            stolen = (await store.claim(["busy"], "thief", 0, 30_000, 5, takeover=True)).taken
            assert stolen == []
            await asyncio.sleep(0.05)
    finally:
        await store.close()
