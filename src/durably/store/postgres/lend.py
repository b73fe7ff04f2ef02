"""Lending a connection to a user's function, for a transaction that ends with the run's checkpoint.

The run's row is locked last: after the function has returned, just before the commit. So however long
it takes, heartbeats, cancels and takeovers never wait for it; a holder that lost its lease meanwhile is
refused at the end, and all that it wrote is undone.

The connections are a pool of their own, without the limits that ours have: how long a user's statement
may take is for the user and the server's roles to say.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from ...errors import ConfigurationError, LeaseLost, StorageUnavailableError
from ...runtime import Runtime
from .. import journal, statements
from ..records import Entry, Lease
from .connection import COMMAND_TIMEOUT, Link, Server, Session
from .driver import DriverError, ServerError, create_pool, state_of
from .errors import LostConnectionError, is_conflict, is_passing

LOANS = 10  # connections lent at once; later callers wait
_MAX_LOSSES = 10  # a function whose connection is lost that often in a row is what loses it
_IDLE = 60.0  # seconds after which a connection that nobody needs is closed
_LAST_WORDS = 2.0  # seconds for a rollback, and for making a connection fit for the next one

_STATEMENTS = frozenset(
    {"execute", "executemany", "fetch", "fetchmany", "fetchrow", "fetchval", "cursor", "prepare"}
)
_LENT = _STATEMENTS | {
    "copy_from_query",
    "copy_from_table",
    "copy_records_to_table",
    "copy_to_table",
    "get_server_pid",
    "get_server_version",
    "get_settings",
    "is_closed",
    "is_in_transaction",
    "transaction",
}
_ENDS = re.compile(
    r"\A(?>\s+|--[^\n]*\n|/\*.*?\*/)*+"
    r"(?:(?:commit|end|abort|begin|start\s+transaction|prepare\s+transaction)\b"
    r"|rollback(?!\s+(?:(?:work|transaction)\s+)?to\b)\b)",
    re.IGNORECASE | re.DOTALL,
)
# The server went away, or this session's end was decided there.
_LOSSES = frozenset({"57P01", "57P02", "57P03"})
_TROUBLE = frozenset({"53", "58"})  # classes: resources, the system


class Borrowed:
    """An asyncpg connection within a transaction that is not the borrower's to end.

    What runs statements, copies, and ``transaction()`` (a savepoint here) are asyncpg's. What would end
    the transaction or outlive it is refused with ``ConfigurationError``.
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        """What asyncpg's connection has of that name."""
        value = getattr(self.in_use(), name)
        if name not in _LENT:
            raise ConfigurationError(f"step.transaction: {name} outlives the transaction")
        return partial(_checked, value) if name in _STATEMENTS else value

    def in_use(self) -> Any:
        """The connection itself, for as long as it is lent."""
        if self._connection is None:
            raise ConfigurationError("this connection was lent for one step.transaction, now over")
        return self._connection

    def give_back(self) -> None:
        """The borrower has no more to do with it."""
        self._connection = None


def _checked(method: Callable[..., Any], statement: Any, /, *args: Any, **options: Any) -> Any:
    if isinstance(statement, str) and _ENDS.match(statement):
        raise ConfigurationError(_NOT_YOURS)
    return method(statement, *args, **options)


_NOT_YOURS = "step.transaction: the transaction is committed when the step returns; do not end it"


class Refused(NamedTuple):
    """Why there is no checkpoint: what the function raised, or what it may not do."""

    error: Exception


class Written(NamedTuple):
    """A committed checkpoint: its number, and what was made for it if it was by this try."""

    seq: int
    kept: Any


class OnlyReadsError(OSError):
    """The server was demoted, or is not a primary yet. No fault of the function, which was not called."""


class Lender:
    """The connections that are lent."""

    def __init__(self, server: Server, commands: Link, runtime: Runtime) -> None:
        self.server = replace(server, lends=True)
        self.commands = commands
        self.now = runtime.now
        self._pool: Any = None

    async def open(self) -> None:
        """Nothing is connected before it is needed."""
        self._pool = await create_pool(
            min_size=0,
            max_size=LOANS,
            max_inactive_connection_lifetime=_IDLE,
            connect=self._connect,
        )

    async def _connect(self, *_: object, **__: object) -> Any:
        connection = await self.server.connect()
        _keep_alive(connection)
        return connection

    @asynccontextmanager
    async def connection(self) -> AsyncGenerator[Any, None]:
        """One of them. After an error that broke it, ``LostConnectionError`` is raised."""
        connection = await self._pool.acquire()
        try:
            yield connection
        except OnlyReadsError:
            raise
        except Exception as error:
            if _is_lost(connection) or state_of(error) in _LOSSES:
                raise LostConnectionError(f"the connection was lost: {error}") from error
            raise
        finally:
            with suppress(Exception):  # it is dropped then
                await self._pool.release(connection, timeout=_LAST_WORDS)

    async def close(self) -> None:
        """Whatever is still lent is over."""
        try:
            async with asyncio.timeout(_LAST_WORDS):
                await self._pool.close()
        except TimeoutError:
            self._pool.terminate()


class Loan:
    """A step's transaction."""

    def __init__(
        self, lender: Lender, lease: Lease, entry: Entry, call: Callable[[Any], Awaitable[Any]]
    ) -> None:
        self._lender = lender
        self._lease, self._entry, self._call = lease, entry, call
        self._prefix = f"durably {lease.run_id} "
        self._name = f"{self._prefix}{lease.generation} {entry.step_index}"  # below 64 characters
        self._losses = 0

    async def attempt(self, replay: bool) -> Written | Refused:
        """Try it. Raises what will pass: then it may have been committed, and is to be tried again."""
        if replay and (seq := await self._recorded()) is not None:
            return Written(seq, None)
        try:
            async with self._lender.connection() as connection:
                return await self._transact(connection)
        except LostConnectionError as error:
            self._losses += 1
            if self._losses < _MAX_LOSSES:
                raise
            message = (
                f"step {self._entry.step!r}: {error}, the last {self._losses} times it was tried"
            )
            return Refused(StorageUnavailableError(message))

    async def _recorded(self) -> int | None:
        """Whether the last try was committed after all; if not, the lease must still be ours."""
        now = self._lender.now()
        return await self._lender.commands.transact(_recorded(self._lease, self._entry, now))

    async def _transact(self, connection: Any) -> Written | Refused:
        session = Session(connection, self._lender.server)
        async with _transaction(connection) as commit:
            if not await self._begin(session):
                connection.terminate()
                raise OnlyReadsError(
                    "the server only reads at the moment; there may be a successor"
                )
            try:
                kept = await self._lend(connection)
            except Exception as error:
                if _is_lost(connection) or _is_trouble(error):
                    raise
                return Refused(error)
            async with asyncio.timeout(COMMAND_TIMEOUT):
                written = await self._record(session, kept)
                if isinstance(written, Written):
                    try:
                        await commit()
                    except ServerError as error:
                        if is_passing(error):
                            raise
                        return Refused(
                            error
                        )  # a constraint of the user's that is checked at the end
                return written

    async def _begin(self, session: Session) -> bool:
        """Make it ready to be lent; False when the server would let nobody write."""
        async with asyncio.timeout(COMMAND_TIMEOUT):
            rows = await session.fetch("lend", {"lent": self._name})
            if rows[0][0] == "on":
                return False
            if (generation := self._lease.generation) > 1:
                earlier = {"prefix": self._prefix, "generation": generation}
                await session.fetch("end_lent", earlier)
        return True

    async def _lend(self, connection: Any) -> Any:
        borrowed = Borrowed(connection)
        try:
            return await self._call(borrowed)
        finally:
            borrowed.give_back()

    async def _record(self, session: Session, kept: Any) -> Written | Refused:
        """The fence, which from here to the commit keeps everybody else from the run, and the line."""
        run_id, token, *_ = self._lease
        now = self._lender.now()
        held = {"run_id": run_id, "token": token, "now": now, "lent": self._name}
        rows = await session.fetch("hold_lent", held)
        if not rows:
            raise LeaseLost(run_id)
        if not rows[0][0]:
            return Refused(ConfigurationError(f"{_NOT_YOURS}. What it wrote before is committed"))
        line = self._entry._replace(at=now, data=kept.text)
        return Written(await session.run(journal.record(self._lease, line)), kept)


@asynccontextmanager
async def _transaction(connection: Any) -> AsyncGenerator[Callable[[], Awaitable[None]], None]:
    """A transaction that is undone unless it is committed, by what this gives.

    Read committed, whatever the server's default: in a snapshot from before the function began, each
    renewal of the lease would be a conflict.
    """
    transaction = connection.transaction(isolation="read_committed")
    try:
        async with asyncio.timeout(COMMAND_TIMEOUT):
            await transaction.start()
    except BaseException:  # whether it was begun is not known
        connection.terminate()
        raise
    committed = False

    async def commit() -> None:
        nonlocal committed
        await transaction.commit()
        committed = True

    try:
        yield commit
    finally:
        if not committed and not _is_lost(connection):
            await _undo(connection, transaction)


async def _undo(connection: Any, transaction: Any) -> None:
    answered = False
    try:
        with suppress(OSError):
            async with asyncio.timeout(_LAST_WORDS):
                with suppress(ServerError, DriverError):  # as after a commit that was refused
                    await transaction.rollback()
            answered = True
    finally:
        if not _is_lost(connection) and (not answered or connection.is_in_transaction()):
            connection.terminate()


def _recorded(lease: Lease, entry: Entry, now: int) -> statements.Transaction[int | None]:
    # Before a commit is sent the row is locked: waiting for it is waiting for what is left of that try.
    yield "lock_all", {"run_id": [lease.run_id]}
    seq = yield from journal.recorded(lease, entry)
    held = {"run_id": lease.run_id, "token": lease.token, "now": now}
    if seq is None and not (yield "hold", held):
        raise LeaseLost(lease.run_id)
    return seq


def _is_lost(connection: Any) -> bool:
    try:
        return bool(connection.is_closed())
    except DriverError:  # the pool has noticed, too
        return True


def _is_trouble(error: Exception) -> bool:
    """Not the function's fault, so that it is called again. All else that a statement of its meets is
    its own: a timeout that the role has, a table that is not there, a lock that it would not wait for."""
    if not isinstance(error, ServerError):
        return False
    state = state_of(error)
    return state[:2] in _TROUBLE or state in _LOSSES or is_conflict(error)


def _keep_alive(connection: Any) -> None:
    """Notice a machine that vanished while one of its statements is waited for; there is no timeout."""
    transport = getattr(connection, "_transport", None)
    sock = transport.get_extra_info("socket") if transport is not None else None
    if sock is None or not hasattr(socket, "TCP_KEEPIDLE"):
        return
    with suppress(OSError):  # a Unix socket has none of these, and no need of them
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 3)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
