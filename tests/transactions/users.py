"""The user's own transactions, in the words of each driver."""

from __future__ import annotations

import contextlib

import asyncpg
import psycopg
import sqlalchemy as sa
from psycopg.rows import dict_row
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session


class User:
    """A connection as its user has it: what is given to ``trigger``, and how a transaction ends."""

    def __init__(self, given, execute, commit, rollback):
        self.given = given
        self.execute, self.commit, self.rollback = execute, commit, rollback


def awaited(call):
    async def later(*args):
        call(*args)

    return later


@contextlib.asynccontextmanager
async def of_asyncpg(url):
    connection = await asyncpg.connect(url)
    transaction = connection.transaction()
    await transaction.start()
    yield User(connection, connection.execute, transaction.commit, transaction.rollback)
    await connection.close()


@contextlib.asynccontextmanager
async def of_a_pool(url):
    async with asyncpg.create_pool(url, min_size=1, max_size=1) as pool, pool.acquire() as held:
        transaction = held.transaction()
        await transaction.start()
        yield User(held, held.execute, transaction.commit, transaction.rollback)


@contextlib.asynccontextmanager
async def of_psycopg(url):
    """With another row factory than the usual one."""
    async with await psycopg.AsyncConnection.connect(url, row_factory=dict_row) as connection:
        yield User(connection, connection.execute, connection.commit, connection.rollback)


@contextlib.asynccontextmanager
async def of_blocking_psycopg(url):
    with psycopg.connect(url) as connection:
        yield User(
            connection,
            awaited(connection.execute),
            awaited(connection.commit),
            awaited(connection.rollback),
        )


@contextlib.asynccontextmanager
async def of_an_async_engine(url, driver, kind):
    engine = create_async_engine(url.replace("postgresql:", f"postgresql+{driver}:"))
    try:
        async with kind(engine) as given:

            async def execute(text):
                await given.execute(sa.text(text))

            yield User(given, execute, given.commit, given.rollback)
    finally:
        await engine.dispose()


@contextlib.asynccontextmanager
async def of_an_engine(url, kind):
    engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    try:
        with kind(engine) as given:

            def execute(text):
                given.execute(sa.text(text))

            yield User(given, awaited(execute), awaited(given.commit), awaited(given.rollback))
    finally:
        engine.dispose()


def async_engine(driver, kind):
    return lambda url: of_an_async_engine(url, driver, kind)


USERS = {
    "asyncpg": of_asyncpg,
    "asyncpg pool": of_a_pool,
    "psycopg": of_psycopg,
    "blocking psycopg": of_blocking_psycopg,
    "sqlalchemy asyncpg connection": async_engine("asyncpg", lambda engine: engine.connect()),
    "sqlalchemy asyncpg session": async_engine("asyncpg", AsyncSession),
    "sqlalchemy psycopg connection": async_engine("psycopg", lambda engine: engine.connect()),
    "sqlalchemy psycopg session": async_engine("psycopg", AsyncSession),
    "blocking sqlalchemy connection": lambda url: of_an_engine(
        url, lambda engine: engine.connect()
    ),
    "blocking sqlalchemy session": lambda url: of_an_engine(url, Session),
}
BLOCKING = [name for name in USERS if name.startswith("blocking")]
