"""Several who do the same at once: none fails, and none waits for another in a circle."""

import asyncio
from contextlib import AsyncExitStack

import asyncpg
import pytest

from durably import Durably, Step
from durably.runtime import Runtime
from durably.store.postgres.store import PostgresStore
from durably.store.records import NewRun

PATIENCE = 60  # seconds
_INSERT = """
insert into durably_runs (id, job, status, input, labels, idempotency_key, due_at, created_at, updated_at)
values ($1, 'job', 'pending', '1', '{}', $1, 1, 1, 1)
"""
_WAITS = "select count(*) from pg_locks where not granted"


@pytest.fixture
async def store(postgres_url):
    store = PostgresStore(postgres_url, Runtime())
    await store.open()
    await store.migrate()
    yield store
    await store.close()


@pytest.mark.parametrize("one_by_one", [False, True], ids=["together", "one by one"])
async def test_batches_that_share_keys_in_another_order_do_not_deadlock(
    store, postgres_url, monkeypatch, one_by_one
):
    if one_by_one:  # as after a statement for all of them was refused
        monkeypatch.setattr(store._flusher, "_together", refused)
    other, look = await asyncpg.connect(postgres_url), await asyncpg.connect(postgres_url)
    await other.execute(
        "set deadlock_timeout = '10ms'"
    )  # the first to notice is the one that loses
    async with AsyncExitStack() as stack, asyncio.timeout(PATIENCE):
        stack.push_async_callback(other.close)
        stack.push_async_callback(look.close)
        await stack.enter_async_context(transaction := other.transaction())
        await other.execute(_INSERT, "a")
        runs = [NewRun(f"ours-{key}", "job", "1", "{}", key, None) for key in ("z", "a")]
        ours = asyncio.create_task(store.enqueue(runs, 1))
        while not await look.fetchval(_WAITS):
            await asyncio.sleep(0.01)
        await other.execute(_INSERT, "z")
        del transaction
    async with asyncio.timeout(PATIENCE):
        assert [(row.id, created) for row, created in await ours] == [("z", False), ("a", False)]


@pytest.mark.parametrize("one_by_one", [False, True], ids=["together", "one by one"])
async def test_of_what_two_processes_trigger_at_once_one_run_waits(
    store, postgres_url, monkeypatch, one_by_one
):
    other = PostgresStore(postgres_url, Runtime())
    await other.open()
    if one_by_one:
        for each in (store, other):
            monkeypatch.setattr(each._flusher, "_together", refused)
    plain = NewRun("", "job", "1", "{}", None, "k", coalesce=True)
    async with asyncio.timeout(PATIENCE):
        for n in range(20):
            new = plain._replace(concurrency_key=f"k{n}")
            made = await asyncio.gather(
                *(
                    each.enqueue([new._replace(id=f"{name}-{n}-{i}")], 1)
                    for i in range(5)
                    for name, each in (("one", store), ("two", other))
                )
            )
            assert len({found.row.id for (found,) in made}) == 1
            assert sum(found.created for (found,) in made) == 1
    await other.close()


async def test_batches_that_share_what_waits_in_another_order_do_not_deadlock(store, postgres_url):
    other = PostgresStore(postgres_url, Runtime())
    await other.open()
    async with asyncio.timeout(PATIENCE):
        for n in range(10):
            keys = [f"{n}-{key}" for key in range(10)]
            made = await asyncio.gather(
                *(
                    each.enqueue(
                        [
                            NewRun(f"{name}-{key}", "job", "1", "{}", None, key, coalesce=True)
                            for key in order
                        ],
                        1,
                    )
                    for name, each, order in (("one", store, keys), ("two", other, keys[::-1]))
                )
            )
            assert sum(found.created for tried in made for found in tried) == len(keys)
    await other.close()


async def refused(*_):
    raise asyncpg.DataError("not together")


async def test_two_purges_at_once_share_the_work(postgres_url):
    one, two = Durably(postgres_url, worker=False), Durably(postgres_url, worker=False)
    for durably in (one, two):

        @durably.job("job")
        async def job(step: Step) -> None: ...

        await durably.init()
    runs = await one.get_job("job").batch_trigger([None] * 300)
    for run in runs:
        await one.cancel(run.id)
    counts = await asyncio.gather(*(d.purge_runs(older_than=0) for d in (one, two)))
    assert sum(counts) == len(runs)
    for durably in (one, two):
        await durably.stop()


async def test_a_run_that_another_purge_deletes_is_nobodys_error(store, postgres_url):
    """Found by one, deleted by the other."""
    other = await asyncpg.connect(postgres_url)
    await other.execute(
        "insert into durably_runs (id, job, status, input, labels, ended_at, created_at, updated_at)"
        " select 'r' || n, 'job', 'completed', '1', '{}', n, 1, 1 from generate_series(1, 9) as n"
    )
    async with asyncio.timeout(PATIENCE):
        async with other.transaction():
            await other.execute("delete from durably_runs where id in ('r1', 'r5')")
            purging = asyncio.create_task(store.purge(10**15, 10**15))
            await asyncio.wait([purging], timeout=0.2)  # it passes by what the other holds
        assert {row.id for row in await purging} == {f"r{n}" for n in range(1, 10)} - {"r1", "r5"}
    await other.close()
