"""A connection that comes back: opened when first needed, and again after it was lost."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from ...errors import ClosedError
from .. import sql
from .driver import (
    PROTOCOL_VIOLATION,
    BrokenDriverError,
    DriverError,
    ServerError,
    connect,
    state_of,
)
from .statements import Compiled, Statements
from .trouble import LostConnectionError

logger = logging.getLogger("durably")

T = TypeVar("T")

CONNECT_TIMEOUT = 5.0  # seconds
COMMAND_TIMEOUT = 15.0  # seconds after which a connection that says nothing is given up
_CLOSE_TIMEOUT = 2.0  # seconds
# The server ends what a vanished machine left behind, so that nobody waits for its locks,
_KEEPALIVES = {
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "3",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "10000",  # milliseconds, as all without a unit
}
# and what a stopped process did.
_SETTINGS = {
    **_KEEPALIVES,
    "statement_timeout": "12000",
    "idle_in_transaction_session_timeout": "10000",
    # Every statement here is served by an index, whatever is in the tables and however old the planner's
    # idea of them is; planning anew each time costs more than most of them do.
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "jit": "off",
}


@dataclass(slots=True)
class Server:
    """How to reach the database."""

    url: str
    statements: Statements
    pooled: bool = False
    """Behind a pooler that gives each transaction another session: nothing may outlive a transaction.
    Noticed by itself when the pooler refuses our settings."""
    settings: Mapping[str, str] = field(default_factory=dict[str, str])
    """Of a session, beside those that every one has."""
    lends: bool = False
    """The connections are for users' statements, which take what time and which plans they like."""

    async def connect(self) -> Any:
        """A new connection."""
        if not self.pooled:
            try:
                usual = _KEEPALIVES if self.lends else _SETTINGS
                return await self._connect({**usual, **self.settings})
            except ServerError as error:
                if state_of(error) != PROTOCOL_VIOLATION or "startup parameter" not in str(error):
                    raise
                logger.info(
                    "there is a pooler before the database (%s); no settings are sent", error
                )
                self.pooled = True
        return await self._connect({}, statement_cache_size=0)

    async def _connect(self, settings: Mapping[str, str], **options: Any) -> Any:
        return await connect(
            self.url,
            timeout=CONNECT_TIMEOUT,
            command_timeout=None if self.lends else COMMAND_TIMEOUT,
            server_settings={"application_name": "durably", **settings},
            **options,
        )


class Session:
    """A connection in somebody's hands."""

    def __init__(self, connection: Any, server: Server) -> None:
        self._connection = connection
        self._statements = server.statements
        self._pooled = server.pooled

    async def fetch(self, name: str, params: Mapping[str, Any]) -> Sequence[sql.Row]:
        """The rows of a named statement, or of SQL that somebody put together."""
        statement = self._statements[name]
        if self._pooled and not self._connection.is_in_transaction():
            # Preparing and executing must meet the same session.
            async with self._connection.transaction():
                return await self._fetch(statement, params)
        return await self._fetch(statement, params)

    async def _fetch(self, statement: Compiled, params: Mapping[str, Any]) -> Sequence[sql.Row]:
        rows = await self._connection.fetch(statement.text, *statement.values(params))
        return cast("Sequence[sql.Row]", rows)

    async def execute(self, text: str, *, timeout: float | None = None) -> None:
        """Statements without parameters."""
        await self._connection.execute(text, timeout=timeout)

    async def run(self, transaction: sql.Transaction[T]) -> T:
        """Drive a transaction of ``store/sql.py`` to its result, within whatever is open."""
        try:
            name, params = next(transaction)
            while True:
                assert isinstance(name, str)  # users' functions are not lent this connection
                name, params = transaction.send(await self.fetch(name, params))
        except StopIteration as stop:
            return cast("T", stop.value)

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[None, None]:
        """All or nothing; within another, a savepoint."""
        async with self._connection.transaction():
            yield


class Link:
    """One connection for one purpose, used by one at a time."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._connection: Any = None
        self._turn = asyncio.Lock()
        self._closed = False

    @asynccontextmanager
    async def session(self) -> AsyncGenerator[Session, None]:
        """The connection. After an error that broke it, ``LostConnectionError`` is raised."""
        async with self._turn:
            if self._closed:
                raise ClosedError("the database is closed")
            if self._connection is None or self._connection.is_closed():
                self._connection = await self._server.connect()
            connection = self._connection
            try:
                yield Session(connection, self._server)
            except (ServerError, DriverError, BrokenDriverError, OSError) as error:
                self._examine(connection, error)
                raise
            except BaseException:
                # Cancelled, perhaps in the middle of a statement: it cannot be used again.
                if connection.is_in_transaction():
                    self._drop()
                raise

    def _examine(self, connection: Any, error: BaseException) -> None:
        lost = connection.is_closed() or isinstance(error, BrokenDriverError)
        if lost or not isinstance(error, ServerError) or connection.is_in_transaction():
            self._drop()
        elif state_of(error) == "25006" or state_of(error)[:2] in ("57", "08"):
            self._drop()  # perhaps another server is the right one now
        if lost and not isinstance(error, OSError):
            raise LostConnectionError(f"the connection was lost: {error}") from error

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()

    async def transact(self, transaction: sql.Transaction[T]) -> T:
        """Run a transaction on its own and commit it."""
        async with self.session() as session, session.transaction():
            return await session.run(transaction)

    async def close(self) -> None:
        """Finish what is under way, and disconnect."""
        async with self._turn:
            self._closed = True
            connection, self._connection = self._connection, None
        if connection is not None and not connection.is_closed():
            with suppress(Exception):  # whatever it is, it is over
                await connection.close(timeout=_CLOSE_TIMEOUT)
