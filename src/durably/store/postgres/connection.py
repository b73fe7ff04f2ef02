"""A connection that comes back: opened when first needed, and again after it was lost."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from ...errors import ClosedError, ConfigurationError, DurablyError, Interrupt
from ...telemetry.background import BackgroundLogger
from ...telemetry.logs import logger
from .. import statements
from .driver import (
    PROTOCOL_VIOLATION,
    BrokenDriverError,
    DriverError,
    ServerError,
    connect,
    state_of,
)
from .errors import LostConnectionError, NoConnectionError
from .statements import Compiled, Statements

T = TypeVar("T")

NO_URL = (
    "the URL of the database is not understood; it is postgresql://user:password@host:port/name, "
    "where special characters of the password are escaped, as / by %2F"
)
CONNECT_TIMEOUT = 5.0  # seconds
COMMAND_TIMEOUT = 15.0  # seconds after which a connection that says nothing is given up
_CLOSE_TIMEOUT = 2.0  # seconds
# Classes of SQLSTATE after which a connection is as good as before: the statement was at fault, or it met
# another's transaction.
_HARMLESS = frozenset({"22", "23", "40", "42", "55"})
_PREPARED = "42P05"  # "prepared statement already exists": a pooler gave us another session
_ISOLATION = "read_committed"  # repeated at each BEGIN, since no settings reach past some poolers
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
    # A statement must see what was committed while it waited for a lock, whatever the server's default.
    "default_transaction_isolation": "read committed",
    # Every statement here is served by an index, whatever is in the tables and however old the planner's
    # idea of them is; planning again each time costs more than most of them do.
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

    log: Callable[..., None] = field(default_factory=lambda: BackgroundLogger(logger, threads=True))
    """Also from the thread that keeps the leases."""
    connected: bool = False
    """Whether this URL has led to a server before."""

    async def connect(self) -> Any:
        """A new connection. Whatever prevents it may pass (``OSError``), except a URL that never worked."""
        try:
            connection = await self._negotiate()
        except OSError:
            raise
        except (ValueError, OverflowError) as error:
            if self.connected or isinstance(
                error, UnicodeDecodeError
            ):  # the answer's, not the URL's
                raise NoConnectionError(error) from error
            raise ConfigurationError(NO_URL) from None  # the driver's message may hold the password
        except Exception as error:
            raise NoConnectionError(error) from error
        self.connected = True
        return connection

    async def _negotiate(self) -> Any:
        if not self.pooled:
            try:
                usual = _KEEPALIVES if self.lends else _SETTINGS
                return await self._connect({**usual, **self.settings})
            except ServerError as error:
                if state_of(error) != PROTOCOL_VIOLATION or "startup parameter" not in str(error):
                    raise
                self.log(
                    logging.INFO,
                    "there is a pooler before the database (%s); no settings are sent",
                    error,
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
        self.limit: float | None = None
        """Seconds for a statement, if not those of the connection."""

    async def fetch(self, name: str, params: Mapping[str, Any]) -> Sequence[statements.Row]:
        """The rows of a named statement, or of SQL that somebody put together."""
        statement = self._statements[name]
        if self._pooled and not self._connection.is_in_transaction():
            # Preparing and executing must meet the same session.
            async with self._connection.transaction(isolation=_ISOLATION):
                return await self._fetch(statement, params)
        return await self._fetch(statement, params)

    async def _fetch(
        self, statement: Compiled, params: Mapping[str, Any]
    ) -> Sequence[statements.Row]:
        values = statement.values(params)
        rows = await self._connection.fetch(statement.text, *values, timeout=self.limit)
        return cast("Sequence[statements.Row]", rows)

    async def execute(self, text: str, *, timeout: float | None = None) -> None:
        """Statements without parameters."""
        await self._connection.execute(text, timeout=timeout)

    async def run(self, transaction: statements.Transaction[T]) -> T:
        """Drive a transaction of ``store/transactions.py`` to its result, within whatever is open."""
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
        async with self._connection.transaction(isolation=_ISOLATION):
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
        """The connection. After an error that broke it, ``LostConnectionError`` is raised.

        Only a session that ended cleanly leaves its connection to the next one. What a cancelled or failed
        statement left behind is not known: a transaction may be open that nobody would commit.
        """
        async with self._turn:
            if self._closed:
                raise ClosedError("the database is closed")
            if self._connection is None or self._connection.is_closed():
                self._connection = await self._server.connect()
            connection = self._connection
            try:
                yield Session(connection, self._server)
            except BaseException as error:
                lost = connection.is_closed() or isinstance(error, BrokenDriverError)
                if lost or not _is_clean(error) or connection.is_in_transaction():
                    self._drop()
                if lost and isinstance(error, (ServerError, DriverError, BrokenDriverError)):
                    raise LostConnectionError(f"the connection was lost: {error}") from error
                raise

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()

    async def transact(self, transaction: statements.Transaction[T]) -> T:
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


def _is_clean(error: BaseException) -> bool:
    """Whether all that was sent was answered, and what was begun was rolled back."""
    if isinstance(error, ServerError):
        return state_of(error)[:2] in _HARMLESS and state_of(error) != _PREPARED
    return isinstance(error, (DurablyError, Interrupt))  # raised between statements
