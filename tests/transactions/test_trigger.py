"""trigger(connection=...): the run is there exactly if the user's transaction is committed."""

import asyncio
import contextlib
import sqlite3
import subprocess
import sys
from types import SimpleNamespace

import asyncpg
import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import scoped_session, sessionmaker

from durably import Durably, Step, SyncStep, Trigger, job
from durably.errors import ConfigurationError, InvalidInputError, RunNotFoundError
from tests import postgres
from tests.transactions.users import BLOCKING, USERS


@pytest.fixture(params=list(USERS))
async def user(request, database):
    async with USERS[request.param](database) as made:
        yield made


@pytest.fixture
async def durably(make):
    @job("ship")
    async def ship(step: Step, n: int) -> int:
        return await step.run("one", lambda: n * 2)

    return await make(ship, polling_interval=30)  # woken, or not at all


@pytest.fixture
def ship(durably):
    return durably.get_job("ship")


async def orders(url):
    connection = await asyncpg.connect(url)
    try:
        return [row[0] for row in await connection.fetch("select n from orders order by n")]
    finally:
        await connection.close()


# -- each driver


async def test_a_commit_makes_both(durably, ship, user, database):
    await user.execute("insert into orders values (1)")
    run = await ship.trigger(
        4,
        connection=user.given,
        idempotency_key="k",
        concurrency_key="c",
        labels={"of": "me"},
        scope="s",
    )
    assert (run.status, run.input, run.disposition) == ("pending", 4, "created")
    assert await durably.get_run(run.id) is None
    await user.commit()
    done = await durably.wait(run, timeout=20)  # at once: the commit wakes the worker
    assert done.output == 8
    kept = (done.idempotency_key, done.concurrency_key, done.labels, done.scope)
    assert kept == ("k", "c", {"of": "me"}, "s")
    assert done.created_at == run.created_at
    assert await orders(database) == [1]


async def test_a_rollback_makes_neither(durably, ship, user, database):
    await user.execute("insert into orders values (1)")
    run = await ship.trigger(4, connection=user.given, idempotency_key="k")
    await user.rollback()
    with pytest.raises(RunNotFoundError):
        await durably.wait(run, timeout=20)
    assert await orders(database) == []
    again = await ship.trigger(4, idempotency_key="k")
    assert again.disposition == "created"


async def test_a_batch_with_what_is_known(durably, ship, user):
    known = await ship.trigger(0, idempotency_key="known")
    runs = await ship.batch_trigger(
        [
            1,
            Trigger(2, idempotency_key="new"),
            Trigger(3, idempotency_key="known"),
            Trigger(4, idempotency_key="new"),
        ],
        connection=user.given,
    )
    assert [run.disposition for run in runs] == ["created", "created", "idempotent", "idempotent"]
    assert runs[2].id == known.id
    assert runs[3].id == runs[1].id
    await ship.trigger(5, connection=user.given)
    await user.commit()
    async with asyncio.timeout(30):
        while len(await ship.get_runs(status="completed")) < 4:
            await asyncio.sleep(0.02)


async def test_what_waits_in_a_transaction_is_waited_for(durably, ship, user):
    """Whether it comes to be is open until then."""
    skip = {"concurrency_key": "k", "coalesce": "skip"}
    first = await ship.trigger(1, connection=user.given, **skip)
    again = await ship.trigger(2, connection=user.given, **skip)
    assert (first.disposition, again.disposition) == ("created", "coalesced")
    assert again.id == first.id
    later = asyncio.create_task(ship.trigger(3, **skip))
    await asyncio.wait([later], timeout=0.2)
    assert not later.done()
    await user.rollback()
    made = await later
    assert (made.disposition, made.input) == ("created", 3)


async def test_what_is_not_valid_is_refused_before_anything_is_written(durably, ship, user):
    with pytest.raises(InvalidInputError):
        await ship.trigger("x", connection=user.given)
    with pytest.raises(InvalidInputError, match="item 1"):
        await ship.batch_trigger([1, "x"], connection=user.given)
    assert await ship.batch_trigger([], connection=user.given) == []
    await user.execute("insert into orders values (1)")
    await user.commit()
    assert await ship.get_runs() == []


async def test_another_database_is_refused_before_anything_is_written(database, ship):
    """Also one with the same tables, and also another schema of the same one."""
    async with postgres.database() as other:
        await postgres.execute(other, "create table orders (n integer)")
        for name in ("asyncpg", "psycopg", "blocking sqlalchemy session"):
            async with USERS[name](other) as user:
                with pytest.raises(ConfigurationError, match="another server, database or schema"):
                    await ship.trigger(1, connection=user.given)
                await user.execute("insert into orders values (1)")
                await user.commit()
        instance = Durably(other)
        await instance.migrate()
        await instance.stop()
        async with USERS["asyncpg"](other) as user:
            with pytest.raises(ConfigurationError, match="another server, database or schema"):
                await ship.trigger(1, connection=user.given)
        assert await orders(other) == [1, 1, 1]
    async with USERS["asyncpg"](database) as user:
        await user.execute("create schema elsewhere")
        await user.execute("set search_path to elsewhere")
        with pytest.raises(ConfigurationError, match="another server, database or schema"):
            await ship.trigger(1, connection=user.given)


async def test_a_schema_is_found_whatever_the_users_search_path(make, database):
    @job("ship")
    async def ship(step: Step, n: int) -> int:
        return n

    durably = await make(ship, schema="jobs")
    for make_user in USERS.values():
        async with make_user(database) as user:
            run = await durably.get_job("ship").trigger(1, connection=user.given)
            await user.commit()
            await durably.wait(run, timeout=20)


# -- transactions


async def test_savepoints(durably, ship, database):
    connection = await asyncpg.connect(database)
    async with connection.transaction():
        kept = await ship.trigger(1, connection=connection)
        with pytest.raises(ZeroDivisionError):
            async with connection.transaction():
                gone = await ship.trigger(2, connection=connection)
                raise ZeroDivisionError
        again = await ship.trigger(3, connection=connection)
    for run in (kept, again):
        await durably.wait(run, timeout=20)
    assert await durably.get_run(gone.id) is None
    await connection.close()


@pytest.mark.parametrize("end", ["commit", "rollback"])
@pytest.mark.parametrize("name", ["asyncpg", "psycopg", "blocking sqlalchemy session"])
async def test_a_key_that_another_transaction_is_about_to_use(ship, database, name, end):
    """Whoever comes second waits for the end of the first."""
    async with USERS["asyncpg"](database) as one, USERS[name](database) as two:
        first = await ship.trigger(1, connection=one.given, idempotency_key="k")
        waiting = asyncio.create_task(ship.trigger(2, connection=two.given, idempotency_key="k"))
        await asyncio.sleep(0.3)
        assert not waiting.done()
        await getattr(one, end)()
        second = await asyncio.wait_for(waiting, 20)
        await two.commit()
    if end == "commit":
        assert (second.id, second.disposition, second.input) == (first.id, "idempotent", 1)
    else:
        assert (second.disposition, second.input) == ("created", 2)
    assert [run.id for run in await ship.get_runs()] == [second.id]


async def test_whoever_watches_hears_of_it_after_the_commit(durably, ship, database):
    heard = []

    async def watch():
        async for event in durably.subscribe_runs():
            if event.sequence is not None:  # what is live may be faster than the journal
                heard.append(event.type)
            if event.type == "run:complete":
                return

    watching = asyncio.create_task(watch())
    while durably._engine.session.feed._cursor is None:
        await asyncio.sleep(0.02)
    async with USERS["asyncpg"](database) as user:
        await ship.trigger(1, connection=user.given)
        await asyncio.sleep(0.3)
        assert heard == []
        await user.commit()
        await asyncio.wait_for(watching, 20)
    assert heard == ["run:trigger", "run:start", "step:complete", "run:complete"]


async def test_another_processs_worker_is_woken(make, durably, database):
    """By the commit itself: the one who triggered may be gone by then."""
    outside = await make(*[handle.definition for handle in durably.jobs.values()], worker=False)
    async with USERS["asyncpg"](database) as user:
        run = await outside.get_job("ship").trigger(3, connection=user.given)
        await outside.stop()
        await user.commit()
    assert (await durably.wait(run, timeout=20)).output == 6


async def test_within_the_transaction_of_a_step(make, database):
    """What is written, the step's checkpoint and the next run: all three or none."""

    @job("ship")
    async def ship(step: Step, n: int) -> int:
        return n

    async def order(connection, n: int) -> str:
        await connection.execute("insert into orders values ($1)", n)
        run = await durably.get_job("ship").trigger(n, connection=connection)
        if n == 13:
            raise ValueError(run.id)
        return run.id

    @job("order")
    async def ordered(step: Step, n: int) -> str:
        return await step.transaction("order", order, n, returns=str)

    durably = await make(ship, ordered)
    done = await durably.get_job("order").trigger_and_wait(7, timeout=20)
    assert (await durably.wait(done.output, timeout=20)).output == 7
    failed = await durably.get_job("order").trigger(13)
    async with asyncio.timeout(20):
        while (await durably.get_run(failed.id)).status != "failed":
            await asyncio.sleep(0.02)
    assert await orders(database) == [7]
    assert len(await durably.get_runs(job="ship")) == 1


# -- without await


@pytest.mark.parametrize("name", BLOCKING)
async def test_from_blocking_code(database, name):
    @job("ship")
    def ship(step: SyncStep, n: int) -> int:
        return n + 1

    def use(user):
        with Durably(database, jobs=[ship]).sync() as d:
            kept = d.trigger(ship, 1, connection=user.given)
            more = d.handle(ship).batch_trigger([2, 3], connection=user.given)
            assert d.get_run(kept.id) is None
            asyncio.run(user.commit())
            return [d.wait(run, timeout=20).output for run in (kept, *more)]

    async with USERS[name](database) as user:
        assert await asyncio.to_thread(use, user) == [2, 3, 4]


DJANGO = """
import sys
from urllib.parse import urlsplit
import django
from django.conf import settings
from django.db import connection, transaction
from durably import Durably, SyncStep, job

url = urlsplit(sys.argv[1])
settings.configure(DATABASES={"default": {
    "ENGINE": "django.db.backends.postgresql", "HOST": url.hostname, "PORT": url.port,
    "USER": url.username, "NAME": url.path[1:]}})
django.setup()

@job("ship")
def ship(step: SyncStep, n: int) -> int:
    return n + 1

def order(n):
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("insert into orders values (%s)", [n])
        run = d.trigger(ship, n, connection=connection.connection)
        assert d.get_run(run.id) is None
        if n == 13:
            raise RuntimeError
    return run

with Durably(sys.argv[1], jobs=[ship]).sync() as d:
    print(d.wait(order(1), timeout=30).output)
    try:
        order(13)
    except RuntimeError:
        print(len(d.get_runs()))
connection.close()
"""


async def test_django(database):
    command = [sys.executable, "-W", "error", "-c", DJANGO, database]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True)
    assert done.stdout.split() == ["2", "1"], done.stderr
    assert await orders(database) == [1]


async def test_an_asynchronous_connection_from_blocking_code(database):
    @job("ship")
    def ship(step: SyncStep, n: int) -> int:
        return n

    def use(given):
        with Durably(database, jobs=[ship]).sync() as d:
            with pytest.raises(ConfigurationError, match="use one that blocks"):
                d.trigger(ship, 1, connection=given)
            with pytest.raises(ConfigurationError, match="use one that blocks"):
                d.handle(ship).batch_trigger([1], connection=given)

    for name in USERS.keys() - set(BLOCKING):
        async with USERS[name](database) as user:
            await asyncio.to_thread(use, user.given)


async def test_a_blocking_connection_blocks_nobody_else(durably, ship, database):
    async with USERS["asyncpg"](database) as one, USERS["blocking psycopg"](database) as two:
        await ship.trigger(1, connection=one.given, idempotency_key="k")
        waiting = asyncio.create_task(ship.trigger(2, connection=two.given, idempotency_key="k"))
        await ship.trigger_and_wait(3, timeout=20)
        waiting.cancel()  # it does not end before its statement does: the connection is in use
        await asyncio.sleep(0.2)
        assert not waiting.done()
        await one.commit()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(waiting, 20)
        await two.rollback()


# -- what cannot be used


async def test_what_is_no_connection(ship):
    for given in (1, "x", SimpleNamespace(), asyncpg, sqlite3.connect(":memory:"), object()):
        with pytest.raises(
            ConfigurationError, match="connection= takes a connection of asyncpg or"
        ):
            await ship.trigger(1, connection=given)
        if hasattr(given, "close"):
            given.close()


async def test_without_a_transaction(ship, database):
    connection = await asyncpg.connect(database)
    with pytest.raises(ConfigurationError, match="in no transaction"):
        await ship.trigger(1, connection=connection)
    await connection.close()
    with pytest.raises(ConfigurationError, match="is closed"):
        await ship.trigger(1, connection=connection)
    async with asyncpg.create_pool(database, min_size=0) as pool:
        async with pool.acquire() as held:
            pass
        with pytest.raises(ConfigurationError, match="given back"):
            await ship.trigger(1, connection=held)


async def test_psycopg_that_commits_by_itself(durably, ship, database):
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as connection:
        with pytest.raises(ConfigurationError, match="in no transaction"):
            await ship.trigger(1, connection=connection)
        async with connection.transaction():
            run = await ship.trigger(1, connection=connection)
            assert await durably.get_run(run.id) is None
        await durably.wait(run, timeout=20)
    with pytest.raises(ConfigurationError, match="is closed"):
        await ship.trigger(1, connection=connection)


async def test_a_transaction_that_has_failed(ship, database):
    with psycopg.connect(database) as connection:
        with pytest.raises(psycopg.errors.UndefinedTable):
            connection.execute("select * from missing")
        with pytest.raises(ConfigurationError, match="has failed"):
            await ship.trigger(1, connection=connection)
    connection = await asyncpg.connect(database)
    with pytest.raises(asyncpg.InFailedSQLTransactionError):
        async with connection.transaction():
            with pytest.raises(asyncpg.UndefinedTableError):
                await connection.execute("select * from missing")
            await ship.trigger(1, connection=connection)
    await connection.close()


async def test_a_two_phase_transaction_is_refused(ship, database):
    """PostgreSQL would refuse to prepare it, and say nothing that helps."""
    with psycopg.connect(database) as connection:
        connection.tpc_begin(connection.xid(1, "a", "b"))
        with pytest.raises(ConfigurationError, match="two-phase"):
            await ship.trigger(1, connection=connection)
        connection.tpc_rollback()
    engine = sa.create_engine(database.replace("postgresql:", "postgresql+psycopg:"))
    with (
        sessionmaker(engine, twophase=True)() as session,
        pytest.raises(ConfigurationError, match="two-phase"),
    ):
        await ship.trigger(1, connection=session)
    engine.dispose()


async def test_no_second_connection_is_needed_while_one_is_held(durably, ship, user):
    """A pooler may have none left: then all who hold one would wait for each other."""
    async with contextlib.AsyncExitStack() as busy, asyncio.timeout(60):
        for link in durably._engine.store._links:
            await busy.enter_async_context(link._turn)
        await ship.trigger(1, connection=user.given)
        await user.rollback()


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_sqlalchemy_that_commits_by_itself(ship, database, driver):
    engine = create_async_engine(
        database.replace("postgresql:", f"postgresql+{driver}:"), isolation_level="AUTOCOMMIT"
    )
    async with engine.connect() as connection:
        with pytest.raises(ConfigurationError, match="in no transaction"):
            await ship.trigger(1, connection=connection)
    with pytest.raises(ConfigurationError, match="is closed"):
        await ship.trigger(1, connection=connection)
    await engine.dispose()
    assert await ship.get_runs() == []


async def test_other_things_of_sqlalchemys(ship, database):
    engine = sa.create_engine("sqlite://")
    with (
        engine.connect() as connection,
        pytest.raises(ConfigurationError, match="of another kind \\(sqlite\\)"),
    ):
        await ship.trigger(1, connection=connection)
    for given in (engine, sa.text("select 1")):
        with pytest.raises(ConfigurationError, match="connection= takes"):
            await ship.trigger(1, connection=given)
    registry = scoped_session(sessionmaker(engine))
    with pytest.raises(ConfigurationError, match="pass the session itself"):
        await ship.trigger(1, connection=registry)
    engine.dispose()


async def test_on_sqlite_it_is_refused(tmp_path):
    @job("ship")
    async def ship(step: Step, n: int) -> int:
        return n

    with sqlite3.connect(tmp_path / "app.db") as connection:
        async with Durably(tmp_path / "app.db", jobs=[ship]) as durably:
            with pytest.raises(ConfigurationError, match=r"by step\.transaction"):
                await durably.get_job("ship").trigger(1, connection=connection)
    connection.close()
