"""T6: a plausible bug in each statement that serves transactions of users, and the test that sees it."""

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import NamedTuple

import asyncpg
import pytest

from durably.errors import ConfigurationError, LeaseLost
from tests import postgres
from tests.conftest import ManualPostgresStore
from tests.planting import rewrite
from tests.store.test_conformance import LEASE, claim_one, entry, new, put

KEPT = SimpleNamespace(text="1")  # what execution makes of a step's result


async def a_zombies_transaction_is_undone(store):
    await put(store, new(1))
    held = await claim_one(store)

    async def work(connection):
        await connection.execute("insert into effects values (1)")
        store.clock.at += 2 * LEASE
        await claim_one(store)
        return KEPT

    with pytest.raises(LeaseLost):
        await store.transact(held.lease, entry(store, "s"), work)
    assert await effects(store) == 0


async def a_transaction_that_was_changed_for_another_is_noticed(store):
    await put(store, new(1))
    held = await claim_one(store)

    async def work(connection):
        await connection.execute("select 1; commit; begin")
        return KEPT

    with pytest.raises(ConfigurationError, match="do not end it"):
        await store.transact(held.lease, entry(store, "s"), work)
    assert (await store.decided_steps(held.row.id)).checkpoints == {}


async def an_earlier_holders_locks_are_gone(store):
    await put(store, new(1))
    old = await claim_one(store)
    inside, ended = asyncio.Event(), asyncio.Event()

    async def hang(connection):
        await connection.execute("lock table effects")
        inside.set()
        await ended.wait()
        return KEPT

    async def work(connection):
        await connection.execute("insert into effects values (1)")
        return KEPT

    hanging = asyncio.create_task(store.transact(old.lease, entry(store, "s"), hang))
    try:
        await asyncio.wait_for(inside.wait(), 20)
        store.clock.at += 2 * LEASE
        held = await claim_one(store)
        async with asyncio.timeout(store.patience):
            await store.transact(held.lease, entry(store, "s"), work)
    finally:
        ended.set()
        with pytest.raises(LeaseLost):
            await hanging
    assert await effects(store) == 1


async def another_database_is_another_place(store):
    async with postgres.database() as other:
        connection = await asyncpg.connect(other)
        try:
            async with connection.transaction():
                with pytest.raises(ConfigurationError, match="another"):
                    await store.enqueue_within(connection, [new(1)], store.clock.now())
        finally:
            await connection.close()


async def a_commit_is_heard_of(store):
    heard = asyncio.Event()
    store.on_signal = lambda due: heard.set() if due else None
    while not store._signals.is_listening:
        await asyncio.sleep(0.01)
    heard.clear()
    connection = await asyncpg.connect(store.url)
    try:
        async with connection.transaction():
            await store.enqueue_within(connection, [new(1)], store.clock.now())
        await asyncio.wait_for(heard.wait(), store.patience)
    finally:
        await connection.close()
    assert await claim_one(store)


async def effects(store):
    async with store._commands.session() as session:
        return (await session.fetch("select count(*) from effects", {}))[0][0]


class Bug(NamedTuple):
    edits: list[tuple[str, str, str]]
    test: Callable[[ManualPostgresStore], Awaitable[None]]


FENCE = " and lease_token = :token and status = 'running'"
BUGS = {
    "there is no fence": Bug(
        [("hold_lent", FENCE, ""), ("record", FENCE, "")], a_zombies_transaction_is_undone),
    "the end of a transaction does not look which one it is": Bug(
        [("hold_lent", "= :lent", "<> :lent || 'x'")], a_transaction_that_was_changed_for_another_is_noticed),
    "a transaction's name outlives it": Bug(
        [("lend", "set_config('durably.lent', :lent, true)", "set_config('durably.lent', :lent, false)")],
        a_transaction_that_was_changed_for_another_is_noticed),
    "only later holders' transactions are ended": Bug(
        [("end_lent", "< :generation", "> :generation")], an_earlier_holders_locks_are_gone),
    "a server is one place": Bug(
        [("place", ", current_database(), cast(to_regclass('durably_runs') as oid)", "")],
        another_database_is_another_place),
    "nobody is told": Bug(
        [("notify", "pg_notify(:channel, :payload)", "length(:channel), length(:payload)")],
        a_commit_is_heard_of),
}  # fmt: skip


@pytest.fixture
async def plain(emptied_url, runtime):
    """A store that is not open yet."""
    connection = await asyncpg.connect(emptied_url)
    await connection.execute("create table if not exists effects (n integer); truncate effects")
    await connection.close()
    store = ManualPostgresStore(emptied_url, runtime)
    store.clock, store.patience = runtime, 20
    yield store
    await store.close()


async def start(store):
    await store.open()
    await store.migrate()


@pytest.mark.parametrize(
    "test", {bug.test: None for bug in BUGS.values()}, ids=lambda t: t.__name__
)
async def test_without_a_bug_nothing_is_caught(plain, test):
    await start(plain)
    await test(plain)


@pytest.mark.parametrize("name", BUGS)
async def test_a_bug_is_caught(plain, name):
    for edit in BUGS[name].edits:
        rewrite(plain, *edit)
    plain.patience = 2  # whatever does not come is not waited for as long
    await start(plain)
    with pytest.raises((Exception, pytest.fail.Exception)):  # however it shows
        await asyncio.wait_for(BUGS[name].test(plain), 30)
