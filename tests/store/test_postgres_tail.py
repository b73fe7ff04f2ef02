"""Lines appear in the order of commits, which is not that of their positions; a watcher misses none."""

import asyncio
import random

import asyncpg
import pytest

from durably import Durably, Step
from durably.runtime import Runtime
from durably.state import COMPLETE
from durably.store.postgres import tail
from durably.store.postgres.store import PostgresStore
from durably.store.records import Cursor, Entry, Missing, NewRun, Settlement
from tests.tier import by_tier

ROUNDS = by_tier(quick=100, ci=400, soak=20_000)


@pytest.fixture
async def followed(postgres_url):
    """A store, and what it was told by its tail so far."""
    store = PostgresStore(postgres_url, Runtime())
    await store.open()
    await store.migrate()
    yield store
    await store.close()


async def write(connection, run_id, seq):
    await connection.execute(
        "insert into durably_journal (run_id, seq, at, type, attempt) values ($1, $2, 1, 'log:write', 1)",
        run_id, seq,
    )  # fmt: skip


async def read(store, cursor):
    lines, cursor = await store.tail(cursor)
    return [line.run_id for line in lines], cursor


async def test_a_line_that_appears_before_the_newest_is_told(followed, postgres_url):
    slow, quick = [await asyncpg.connect(postgres_url) for _ in range(2)]
    before = await followed.end_of_tail()
    transaction = slow.transaction()
    await transaction.start()
    await write(slow, "slow", 1)
    await write(quick, "quick", 1)
    told, cursor = await read(followed, before)
    assert told == ["quick"]
    assert len(cursor.missing) == 1
    end = await followed.end_of_tail()  # who begins to watch only now
    for _ in range(3):
        assert await read(followed, cursor) == ([], cursor)
    await transaction.commit()
    told, cursor = await read(followed, cursor)
    assert (told, cursor.missing) == (["slow"], ())
    assert (await read(followed, end))[0] == ["slow"]
    for connection in (slow, quick):
        await connection.close()


async def test_a_line_that_was_rolled_back_is_waited_for_no_longer(followed, postgres_url):
    one, other = [await asyncpg.connect(postgres_url) for _ in range(2)]
    cursor = await followed.end_of_tail()
    transaction = one.transaction()
    await transaction.start()
    await write(one, "undone", 1)
    await write(other, "done", 1)
    told, cursor = await read(followed, cursor)
    assert (told, len(cursor.missing)) == (["done"], 1)
    await transaction.rollback()
    told, cursor = await read(followed, cursor)  # nobody is at work: the last look
    assert (await read(followed, cursor)) == ([], cursor._replace(missing=()))
    for connection in (one, other):
        await connection.close()


async def test_many_writers_in_any_order(followed, postgres_url):
    rng = random.Random(1)
    cursor, told, written = await followed.end_of_tail(), [], []

    async def writer(name):
        connection = await asyncpg.connect(postgres_url)
        for i in range(ROUNDS):
            transaction = connection.transaction()
            await transaction.start()
            lines = [(f"{name}-{i}", n) for n in range(1, rng.randint(2, 4))]
            for run_id, n in lines:
                await write(connection, run_id, n)
                await asyncio.sleep(rng.random() * 0.003)
            if rng.random() < 0.2:
                await transaction.rollback()
            else:
                await transaction.commit()
                written.extend(lines)
        await connection.close()

    async def watch():
        nonlocal cursor
        lines, cursor = await followed.tail(cursor, 20)
        told.extend((line.run_id, line.seq) for line in lines)
        return len(lines)

    writers = asyncio.gather(*(writer(f"w{n}") for n in range(6)))
    while not writers.done():
        await watch()
        await asyncio.sleep(0.002)
    await writers
    while await watch() or cursor.missing:
        pass
    assert sorted(told) == sorted(written)
    assert cursor.missing == ()
    for run_id in {run_id for run_id, _ in told}:
        own = [seq for run, seq in told if run == run_id]
        assert own == sorted(own)


async def test_nothing_that_many_stores_write_is_missed(followed, postgres_url):
    stores = [PostgresStore(postgres_url, Runtime()) for _ in range(4)]
    for store in stores:
        await store.open()
    cursor, told, written = await followed.end_of_tail(), [], []

    async def work(store, name):
        for i in range(ROUNDS):
            job = f"{name}-{i}"
            new = [NewRun(f"{name}-{i}-{k}", job, "1", "{}", None, None) for k in range(2)]
            await store.enqueue(new, 0)
            taken = (await store.claim([job], name, 0, 30_000, 2, takeover=True)).taken
            leases = [claimed.lease for claimed in taken]
            entry = Entry("step:complete", 1, "s", 0, 1, "1")
            await asyncio.gather(*(store.record(lease, entry) for lease in leases))
            ended = Settlement(1, output="1")
            await asyncio.gather(*(store.settle(lease, COMPLETE, ended) for lease in leases))
            written.extend((run.id, seq) for run in new for seq in range(1, 5))

    async def watch():
        nonlocal cursor
        lines, cursor = await followed.tail(cursor, 50)
        told.extend((line.run_id, line.seq) for line in lines)
        return len(lines)

    working = asyncio.gather(*(work(store, f"w{n}") for n, store in enumerate(stores)))
    while not working.done():
        await watch()
        await asyncio.sleep(0.001)
    await working
    while await watch() or cursor.missing:
        pass
    assert sorted(told) == sorted(written)
    for store in stores:
        await store.close()


def test_a_gap_is_split_by_what_appears_in_it():
    at_work, nobody = frozenset({"3/7"}), frozenset()
    before = Cursor(10, (Missing(3, 8, at_work), Missing(9, 9, nobody)))
    position, gaps = tail.gaps_after(before, [5, 13])
    assert position == 13
    assert gaps == [Missing(3, 4, at_work), Missing(6, 8, at_work), Missing(11, 12, nobody)]


async def test_a_watcher_in_another_process_is_told_everything(postgres_url):
    worker, watcher = (
        Durably(postgres_url, polling_interval=0.5, max_concurrent_runs=20, worker=works)
        for works in (True, False)
    )

    async def body(step: Step, n: int) -> int:
        for i in range(n):
            await step.run(f"s{i}", asyncio.sleep, 0)
        return n

    job = worker.job("steps")(body)
    async with worker, watcher:

        async def events(run):
            return [event.sequence async for event in watcher.subscribe(run.id) if event.sequence]

        async with asyncio.timeout(60):
            runs = await job.batch_trigger([10] * 60)
            told = await asyncio.gather(*(events(run) for run in runs))
    assert told == [list(range(1, 14))] * 60
