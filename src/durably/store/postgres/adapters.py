"""Connections that are not ours: statements in the words of each driver, within the user's transaction.

A driver is known by the module of the connection's type; none is imported here.
"""

from __future__ import annotations

import asyncio
import inspect
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeVar, TypeVarTuple, cast

from ...errors import ConfigurationError
from .. import statements
from .driver import DriverError
from .lend import Borrowed
from .statements import Compiled

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_OPEN_ONE = "the connection is in no transaction, so that there is none for the run to be in: open one first"
_CLOSED = "the connection is closed"
_TWO_PHASE = (
    "the connection is in a two-phase transaction, which PostgreSQL cannot prepare once workers are notified "
    "in it; trigger in an ordinary transaction, or after the commit"
)
_PARAMETER = re.compile(r"%|\$(\d+)")


class Adapter(ABC):
    """A user's connection, within a transaction."""

    @abstractmethod
    def check(self) -> None:
        """Raise ``ConfigurationError`` unless a transaction is open, or is begun by a statement."""

    @abstractmethod
    async def run(self, statement: Compiled, params: Mapping[str, Any]) -> Sequence[statements.Row]:
        """The rows of a statement. Raises what the driver does."""


class AsyncpgAdapter(Adapter):
    """``asyncpg.Connection``, also from a pool."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def check(self) -> None:
        try:
            if self._connection.is_closed():
                raise ConfigurationError(_CLOSED)
        except DriverError:
            raise ConfigurationError("the connection was given back to its pool") from None
        if not self._connection.is_in_transaction():
            raise ConfigurationError(f"{_OPEN_ONE}, with 'async with connection.transaction()'")

    async def run(self, statement: Compiled, params: Mapping[str, Any]) -> Sequence[statements.Row]:
        return _rows(await self._connection.fetch(statement.text, *statement.values(params)))


class PsycopgAdapter(Adapter):
    """``psycopg.Connection``, which blocks: it is used in a thread, while its owner waits."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def check(self) -> None:
        if self._connection.closed:
            raise ConfigurationError(_CLOSED)
        status = self._connection.info.transaction_status.name
        if status == "INERROR":
            raise ConfigurationError("the connection's transaction has failed; roll it back first")
        if getattr(self._connection, "_tpc", None) is not None:
            raise ConfigurationError(_TWO_PHASE)
        if status == "IDLE" and self._connection.autocommit:
            raise ConfigurationError(f"{_OPEN_ONE}, with 'with connection.transaction()'")

    async def run(self, statement: Compiled, params: Mapping[str, Any]) -> Sequence[statements.Row]:
        return await in_thread(self._fetch, in_percent(statement), params)

    def _fetch(self, text: str, params: Mapping[str, Any]) -> Sequence[statements.Row]:
        with self._connection.cursor(row_factory=_tuples) as cursor:
            cursor.execute(text, params)
            return _rows(cursor.fetchall() if cursor.description else ())


class AsyncPsycopgAdapter(PsycopgAdapter):
    """``psycopg.AsyncConnection``."""

    async def run(self, statement: Compiled, params: Mapping[str, Any]) -> Sequence[statements.Row]:
        async with self._connection.cursor(row_factory=_tuples) as cursor:
            await cursor.execute(in_percent(statement), params)
            return _rows(await cursor.fetchall() if cursor.description else ())


def _rows(fetched: Any) -> Sequence[statements.Row]:
    return cast("Sequence[statements.Row]", fetched)


def _tuples(_cursor: object) -> type[tuple[Any, ...]]:
    """A row factory, whatever the connection's own makes."""
    return tuple


@lru_cache(100)
def in_percent(statement: Compiled) -> str:
    """A statement with psycopg's ``%(name)s`` for ``$1``."""

    def named(match: re.Match[str]) -> str:
        return f"%({statement.names[int(match[1]) - 1]})s" if match[1] else "%%"

    return _PARAMETER.sub(named, statement.text)


async def in_thread(call: Callable[[*Ts], T], *args: *Ts) -> T:
    """Call what blocks. Its connection is nobody else's before it has ended, also when we are cancelled."""
    called = asyncio.ensure_future(asyncio.to_thread(call, *args))
    try:
        return await asyncio.shield(called)
    except asyncio.CancelledError:
        await asyncio.wait([called])
        raise


# -- SQLAlchemy, which is a face of one of the drivers


class SQLAlchemyAdapter:
    """What leads from a session or a connection of SQLAlchemy's to the driver's own connection."""

    def __init__(self, connection: Any) -> None:
        if hasattr(connection, "registry") and callable(connection):
            raise ConfigurationError("pass the session itself, 'session()', not what stands for it")
        if not hasattr(connection, "exec_driver_sql") and not hasattr(connection, "connection"):
            raise _unknown(connection)
        self._connection = connection

    async def unwrap(self) -> Any:
        """The driver's connection, in SQLAlchemy's transaction, which is begun if need be."""
        if not is_async(self._connection):
            return await in_thread(self._unwrap)
        connection = self._connection
        if not hasattr(connection, "exec_driver_sql"):
            connection = await connection.connection()
        _check_sqlalchemy(connection)
        await connection.exec_driver_sql(_BEGIN)
        return (await connection.get_raw_connection()).driver_connection

    def _unwrap(self) -> Any:
        connection = self._connection
        if not hasattr(connection, "exec_driver_sql"):
            connection = connection.connection()
        _check_sqlalchemy(connection)
        connection.exec_driver_sql(_BEGIN).close()
        return connection.connection.driver_connection


_BEGIN = "select 1"  # SQLAlchemy begins with the first statement


def _check_sqlalchemy(connection: Any) -> None:
    if connection.closed:
        raise ConfigurationError(_CLOSED)
    if (
        type(getattr(connection, "sync_connection", connection).get_transaction()).__name__
        == "TwoPhaseTransaction"
    ):
        raise ConfigurationError(_TWO_PHASE)
    if connection.dialect.name != "postgresql":
        raise ConfigurationError(
            f"the connection leads to a database of another kind ({connection.dialect.name})"
        )


def is_async(connection: Any) -> bool:
    """Whether its methods are awaited."""
    return inspect.iscoroutinefunction(inspect.unwrap(getattr(connection, "execute", len)))


# -- any of them


async def adapt(connection: Any) -> Adapter:
    """The adapter of a connection, checked; ``ConfigurationError`` for what is none."""
    if isinstance(connection, Borrowed):
        return AsyncpgAdapter(connection.in_use())
    if "sqlalchemy" in _roots(connection):
        connection = await SQLAlchemyAdapter(connection).unwrap()
    adapter = _adapter(connection)
    adapter.check()
    return adapter


def _adapter(connection: Any) -> Adapter:
    roots = _roots(connection)
    if "asyncpg" in roots and hasattr(connection, "is_in_transaction"):
        return AsyncpgAdapter(connection)
    if "psycopg" in roots and hasattr(connection, "cursor") and hasattr(connection, "info"):
        make = AsyncPsycopgAdapter if is_async(connection) else PsycopgAdapter
        return make(connection)
    raise _unknown(connection)


def _roots(connection: Any) -> set[str]:
    """The packages of its type and of what that inherits from."""
    return {cls.__module__.partition(".")[0] for cls in type(connection).__mro__}


def _unknown(connection: Any) -> ConfigurationError:
    kind = cast("type[object]", type(connection))
    return ConfigurationError(
        "connection= takes a connection of asyncpg or psycopg 3, or a connection or session of "
        f"SQLAlchemy with one of these drivers, not {kind.__module__}.{kind.__qualname__}"
    )
