"""Tables that came without their sequence, as by logical replication, COPY or a restore of the data alone."""

import asyncio
from collections import Counter
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from durably import Durably, Step
from durably.errors import StorageUnavailableError
from durably.store.postgres import store as postgres_store

PATIENCE = 60  # seconds
BEHIND = "alter sequence durably_journal_position_seq restart 1"


@pytest.fixture
async def server(postgres_url):
    connection = await asyncpg.connect(postgres_url)
    yield connection
    await connection.close()


def instance(url, effects=None, **options):
    durably = Durably(url, polling_interval=0.05, **options)
    effects = Counter() if effects is None else effects

    @durably.job("job")
    async def job(step: Step) -> int:
        for n in range(3):
            await step.run(f"s{n}", lambda n=n: effects.update([(step.run_id, n)]))
        return 3

    @durably.job("writes")
    async def writes(step: Step) -> int:
        async def write(connection):
            return await connection.fetchval("select 7")

        return await step.transaction("t", write)

    return durably


async def some_lines(url):
    async with instance(url) as durably:
        runs = await durably.get_job("job").batch_trigger([None] * 20)
        for run in runs:
            await durably.wait(run)


async def test_the_sequence_is_set_when_an_instance_is_opened(postgres_url, server):
    await some_lines(postgres_url)
    newest = await server.fetchval("select max(position) from durably_journal")
    for opens in ("init", "start"):
        await server.execute(BEHIND)
        durably = instance(postgres_url)
        await getattr(durably, opens)()
        assert (
            await server.fetchval("select last_value from durably_journal_position_seq") == newest
        )
        await durably.stop()


async def test_a_sequence_that_is_ahead_is_left_alone(postgres_url, server):
    await some_lines(postgres_url)
    await server.execute("select setval('durably_journal_position_seq', 1000000)")
    async with instance(postgres_url):
        pass
    assert await server.fetchval("select last_value from durably_journal_position_seq") == 1000000


@pytest.mark.parametrize("job", ["job", "writes"])
async def test_a_position_that_is_taken_fails_nothing(postgres_url, server, job):
    """At any moment: a trigger, a claim, a step, an end, a cancel, a retry."""
    await some_lines(postgres_url)
    effects = Counter()
    durably = instance(postgres_url, effects)
    async with asyncio.timeout(PATIENCE), durably:
        for ahead in range(1, 12):  # so many lines from now on meets one that is taken
            await server.execute(
                "insert into durably_journal (position, run_id, seq, at, type, attempt)"
                " select last_value + $1, 'none', $1, 1, 'log:write', 1"
                "  from durably_journal_position_seq",
                ahead,
            )
            run = await durably.get_job(job).trigger()
            done = await durably.wait(run)
            assert done.attempt == 1
            other = await durably.get_job("job").trigger(concurrency_key="k")
            await durably.wait(other)
    assert set(effects.values()) == {1}


async def test_a_role_that_may_not_set_it_is_told_who_must(postgres_url, server, monkeypatch):
    monkeypatch.setattr(postgres_store, "PATIENCE", 0.3)
    await some_lines(postgres_url)
    name = urlsplit(postgres_url).path[1:].replace("durably_test", "role")
    tables = "durably_runs, durably_journal, durably_version"
    await server.execute(f"create role {name} login")
    try:
        await server.execute(f"grant select, insert, update, delete on {tables} to {name}")
        parts = urlsplit(postgres_url)
        as_role = urlunsplit(parts._replace(netloc=f"{name}@127.0.0.1:{parts.port}"))
        async with instance(as_role, worker=False) as durably:
            await durably.get_job("job").trigger()  # all is well
            await server.execute(BEHIND)
            with pytest.raises(StorageUnavailableError, match="select setval"):
                await durably.get_job("job").trigger()
            await server.execute("select setval('durably_journal_position_seq', 100000)")
            await durably.get_job("job").trigger()
    finally:
        await server.execute(f"drop owned by {name}; drop role {name}")
