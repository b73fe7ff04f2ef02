"""A caller that gives up, or a time limit of ours, leaves nothing behind in which later work gets lost.

A cancelled statement's connection is in a state that nobody knows. Whoever used it next would be told that
its work is done, in a transaction that is never committed.
"""

import asyncio
import random
from contextlib import suppress
from functools import partial
from urllib.parse import urlsplit

import asyncpg
import pytest

from durably import Durably, Step
from durably.errors import DurablyError, RunCancelled
from durably.store.postgres import leases
from durably.store.postgres.connection import Link
from tests.proxy import Proxy
from tests.tier import by_tier

from .test_postgres_faults import through

ROUNDS = by_tier(quick=40, ci=200, soak=5_000)
PATIENCE = 60  # seconds


@pytest.fixture
async def proxied(postgres_url):
    """A database, the proxy before it, and its URL through the proxy."""
    async with Proxy(urlsplit(postgres_url).port) as proxy:
        yield postgres_url, proxy, through(postgres_url, proxy)


def instance(url, **options):
    durably = Durably(url, **options)

    @durably.job("waits")
    async def waits(step: Step) -> int:
        return await step.run("s", lambda: 1)

    return durably, waits


async def status_of(connection, run_id):
    return await connection.fetchval("select status from durably_runs where id = $1", run_id)


async def give_up(task):
    task.cancel()
    with suppress(asyncio.CancelledError, DurablyError):
        await task


@pytest.mark.parametrize("command", ["cancel", "delete_run", "retry"])
async def test_a_command_after_one_that_was_given_up_is_committed(proxied, command):
    url, proxy, way = proxied
    durably, waits = instance(way, worker=False)
    await durably.init()
    first, second = await waits.batch_trigger([None, None])
    if command != "cancel":
        await durably.cancel(first.id)
    proxy.hold_at(b"BEGIN")
    given_up = asyncio.create_task(getattr(durably, command)(first.id))
    await proxy.held.wait()
    given_up.cancel()
    proxy.flow()
    with pytest.raises(asyncio.CancelledError):
        await given_up
    done = await durably.cancel(second.id)
    assert done.status == "cancelled"
    connection = await asyncpg.connect(url)
    assert await status_of(connection, second.id) == "cancelled"
    await connection.close()
    await durably.stop()


async def test_renewals_go_on_after_one_that_took_too_long(proxied, monkeypatch):
    """Its time ran out within BEGIN: what it left must not swallow the next ones."""
    monkeypatch.setattr(leases, "_TIMEOUT", 0.3)
    url, proxy, way = proxied
    ended = asyncio.Event()
    durably = Durably(way, heartbeat_interval=0.05, stale_threshold=60, polling_interval=30)

    @durably.job("long")
    async def long(step: Step) -> None:
        await ended.wait()

    await durably.init()
    run = await long.trigger()
    connection = await asyncpg.connect(url)
    async with asyncio.timeout(PATIENCE):
        while await status_of(connection, run.id) != "running":
            await asyncio.sleep(0.01)
        proxy.hold_at(b"BEGIN")  # nothing but a renewal begins a transaction now
        await proxy.held.wait()
        while durably._engine.store._leases.trouble.why is None:
            await asyncio.sleep(0.01)
        proxy.flow()
        due = "select due_at from durably_runs where id = $1"
        for _ in range(3):  # each is seen by others, so it is committed
            before = await connection.fetchval(due, run.id)
            while await connection.fetchval(due, run.id) == before:
                await asyncio.sleep(0.01)
        assert durably._engine.store._leases.trouble.why is None
        ended.set()
        await durably.wait(run)
    await connection.close()
    await durably.stop()


# -- any command, given up at any moment


async def abuse(url, proxy, way, rounds, seed):
    """How many commands were acknowledged and not committed."""
    chance = random.Random(seed)
    durably, waits = instance(way, worker=False)
    await durably.init()
    connection = await asyncpg.connect(url)
    lost = 0
    for _ in range(rounds):
        one, other = await waits.batch_trigger([None, None])
        command = chance.choice(
            [
                partial(durably.cancel, one.id),
                partial(durably.delete_run, one.id),
                partial(durably.purge_runs, older_than=0),
                partial(durably.get_runs, limit=3),
            ]
        )
        moment = proxy.chunks + chance.randrange(4)
        given_up = asyncio.create_task(command())
        while proxy.chunks < moment and not given_up.done():
            await asyncio.sleep(0)
        await give_up(given_up)
        await durably.cancel(other.id)
        lost += await status_of(connection, other.id) != "cancelled"
        if lost:
            break
    await connection.close()
    await durably.stop()
    return lost


async def test_any_command_given_up_at_any_moment(proxied):
    assert await abuse(*proxied, ROUNDS, seed=7) == 0


async def test_giving_up_finds_a_planted_bug(proxied, monkeypatch):
    """A connection is kept unless the server has answered that it is within a transaction."""

    def keep(link):
        if link._connection is not None and link._connection.is_in_transaction():
            drop(link)

    drop = Link._drop
    monkeypatch.setattr(Link, "_drop", keep)
    assert await abuse(*proxied, 400, seed=7)


async def test_a_session_that_was_refused_keeps_its_connection(postgres_url):
    """A run that there is not is nothing that a connection suffers from."""
    durably, _ = instance(postgres_url, worker=False)
    await durably.init()
    commands = durably._engine.store._commands
    before = commands._connection
    for error in (RunCancelled("an interrupt"), DurablyError("a refusal")):
        with pytest.raises(type(error)):
            async with commands.session() as session, session.transaction():
                await session.fetch("run", {"run_id": "none"})
                raise error
    assert commands._connection is before
    await durably.stop()
