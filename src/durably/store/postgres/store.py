"""The store on PostgreSQL: connections of its own for each purpose, so that none starves another."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ...errors import (
    ClosedError,
    ConfigurationError,
    ForkedError,
    SchemaError,
    StorageUnavailableError,
)
from ...models import JournalRow, Lease, RunRow
from ...runtime import Runtime
from ...state import Transition
from .. import sql
from ..base import (
    Claims,
    Cursor,
    Durability,
    Enqueued,
    Entry,
    NewRun,
    Settlement,
)
from ..reading import Reading
from . import follow, join
from .batch import Flusher
from .claims import claim
from .leases import Leases, Renewal
from .lend import Lender, Loan, Refused
from .link import Link, Server
from .migrating import installed_version, migrate, newest_version
from .signals import DUE_BY_OTHERS, Signals
from .statements import DIALECT, Statements
from .trouble import Backoff, Trouble, describe, is_passing
from .writes import Enqueue, Record, SaveProgress, Settle

T = TypeVar("T")

PATIENCE = 30.0  # seconds that a caller outside a run bears trouble of the storage
# Seconds between two looks of watchers at the journal: while signals arrive, while they do not, and
# while a line is awaited whose number is taken already.
_LOOK, _LOOK_DEAF, _LOOK_CLOSELY = 1.0, 0.25, 0.05
NO_URL = (
    "the URL of the database is not understood; it is postgresql://user:password@host:port/name, "
    "where special characters of the password are escaped, as / by %2F"
)
_HOPELESS = frozenset({"28000", "28P01", "3D000"})  # states that no wait at the start will mend


class PostgresStore(Reading):
    """The store on a PostgreSQL database (13 or newer).

    ``schema``: where the tables are; by default wherever the role's search path leads.
    ``listen_url``: for LISTEN, where ``url`` leads to a pooler in transaction mode.
    ``pooled``: ``url`` leads to such a pooler. Most are noticed without being told.
    ``durability``: "full" leaves it to the server's synchronous_commit; "process" turns that off.
    """

    dialect = DIALECT
    lends_async = True

    def __init__(
        self,
        url: str,
        runtime: Runtime,
        *,
        schema: str = "",
        listen_url: str | None = None,
        pooled: bool = False,
        durability: Durability = "full",
    ) -> None:
        self._runtime = runtime
        self._statements = Statements(schema, self.dialect)
        settings = {} if durability == "full" else {"synchronous_commit": "off"}
        self._server = Server(url, self._statements, pooled, settings)
        self.url = url
        self._listen_url = listen_url
        self._trouble = Trouble(runtime.monotonic)
        self._opened = False
        self._pid = 0
        self._behind = False
        self._links: list[Link] = []

    # -- open, migrate, close

    async def open(self) -> None:
        self._pid = os.getpid()
        self._links = [Link(self._server) for _ in range(4)]
        self._commits, self._claims, self._commands, self._queries = self._links
        self._opened = True
        try:
            await self._connect()
        except BaseException:
            self._opened = False
            raise
        self._flusher = Flusher(self._commits, self._runtime, self._trouble)
        self._flusher.on_commit = self._committed
        self._leases = Leases(self._server, self._runtime)
        self._lender = Lender(self._server, self._commands, self._runtime)
        await self._lender.open()
        listen_on, listens = self._server, self._listen_url is not None or not self._server.pooled
        if self._listen_url is not None:
            listen_on = Server(self._listen_url, self._statements)
        self._signals = Signals(listen_on, self._runtime, self._heard, listens=listens)

    async def _connect(self) -> None:
        """The server may be starting, too."""
        try:
            await self._patiently(self._first_look)
        except StorageUnavailableError as error:
            raise StorageUnavailableError(f"the database cannot be reached: {error}") from None

    async def _first_look(self, _: bool) -> None:
        try:
            async with self._commits.session() as session:
                await session.execute("select 1")
        except Exception as error:
            if getattr(error, "sqlstate", None) in _HOPELESS:
                raise StorageUnavailableError(describe(error)) from None
            if isinstance(error, (ValueError, OverflowError)):  # its words may tell the password
                raise ConfigurationError(NO_URL) from None
            raise

    async def close(self) -> None:
        if not self._opened:
            return
        self._opened = False
        if self._pid != os.getpid():
            return  # the connections are the parent's
        await self._flusher.close()
        await self._lender.close()
        await self._leases.close()
        await self._signals.close()
        for link in self._links:
            await link.close()

    async def migrate(self) -> None:
        async def make(_: bool) -> None:
            async with self._commands.session() as session:
                await migrate(session, self._statements)

        await self._patiently(make)

    async def require_schema(self) -> None:
        version, newest = await self.schema_version(), newest_version(self._statements)
        if version < newest:
            raise SchemaError(
                f"the database has schema {version}, this Durably needs {newest}: call "
                "'await durably.migrate()' or run 'durably migrate'"
            )

    async def schema_version(self) -> int:
        """The number of the last migration; 0 for a database without any."""

        async def make(_: bool) -> int:
            async with self._queries.session() as session:
                return await installed_version(session, self._statements)

        return await self._patiently(make)

    @property
    def companion(self) -> Path | None:
        return None

    def tidy(self) -> None:
        pass

    async def look_after(self) -> None:
        self._check_open()

    def _check_open(self) -> None:
        if not self._opened:
            raise ClosedError("Durably is not open: call init() first, or use 'async with durably'")
        if os.getpid() != self._pid:
            raise ForkedError(
                f"this Durably was opened by process {self._pid} and is used in its fork "
                f"{os.getpid()}; call init() after the fork, in each process"
            )

    # -- trouble, and who hears of what

    @property
    def trouble(self) -> str | None:
        return self._trouble.why

    @property
    def troubled_at(self) -> float:
        return self._trouble.last_at

    def _committed(self, wakes: bool) -> None:
        self._signals.send(wakes)
        if self.on_commit:
            self.on_commit(wakes)

    def _heard(self, due: bool) -> None:
        if self.on_signal:
            self.on_signal(due)

    async def _patiently(
        self, attempt: Callable[[bool], Awaitable[T]], patience: float | None = PATIENCE
    ) -> T:
        """Make an attempt until it is not trouble of the storage that ends it.

        ``attempt`` gets True when an earlier one may have been committed after all.
        """
        self._check_open()
        since, backoff, again = self._runtime.monotonic(), Backoff(self._runtime), False
        while True:
            try:
                result = await attempt(again)
            except Exception as error:
                if not is_passing(error):
                    raise
                self._trouble.note(error)
                if patience is not None and self._runtime.monotonic() - since > patience:
                    told = f"the database cannot be used: {describe(error)}"
                    raise StorageUnavailableError(told) from None
                await backoff.pause(error)
                self._check_open()
                again = True
            else:
                self._trouble.clear()
                return result

    async def _read(self, make: Callable[[], sql.Transaction[T]], *, for_ever: bool = False) -> T:
        async def attempt(_: bool) -> T:
            async with self._queries.session() as session:
                return await session.run(make())

        return await self._patiently(attempt, None if for_ever else PATIENCE)

    async def _command(
        self,
        make: Callable[[bool], sql.Transaction[T]],
        *,
        wakes: bool,
        run_id: str | None = None,
        for_ever: bool = False,
    ) -> T:
        """A transaction that does not wait for others, of a caller outside the runs."""

        async def attempt(replay: bool) -> T:
            transaction = make(replay)
            if replay and run_id is not None:
                transaction = _after_lock(run_id, transaction)
            return await self._commands.transact(transaction)

        result = await self._patiently(attempt, None if for_ever else PATIENCE)
        self._committed(wakes)
        return result

    # -- the life of a run

    async def enqueue(self, runs: Sequence[NewRun], now: int) -> list[Enqueued]:
        self._check_open()
        return await self._flusher.submit(Enqueue(runs, now), patience=PATIENCE) if runs else []

    async def enqueue_within(
        self, connection: Any, runs: Sequence[NewRun], now: int
    ) -> list[Enqueued]:
        self._check_open()
        joined = await join.join(connection, self._statements)
        if not runs:
            return []
        if await joined.run(join.place()) != await self._read(join.place):
            raise join.elsewhere()
        channel = self._signals.channel
        return await joined.run(join.enqueue(runs, now, channel, DUE_BY_OTHERS))

    async def any_due(self, jobs: Sequence[str], now: int) -> bool:
        params = {"jobs": list(jobs), "now": now}
        return bool(await self._read(lambda: sql.one("any_due", params)))

    def claim(
        self,
        jobs: Sequence[str],
        owner: str,
        now: int,
        lease: int,
        limit: int,
        *,
        takeover: bool,
        suspects: bool = True,
    ) -> Awaitable[Claims]:
        token = self._runtime.token()
        ask = sql.ClaimRequest(jobs, owner, token, now, lease, limit, takeover, suspects)
        if self._opened and (joined := self._flusher.join(ask)) is not None:
            return joined

        async def attempt(replay: bool) -> Claims:
            # After a failed try: what could not be written includes the renewals of live workers.
            now = ask._replace(takeover=False) if replay else ask
            async with self._claims.session() as session:
                return await claim(session, now, replay=replay)

        return self._claim(attempt)

    async def _claim(self, attempt: Callable[[bool], Awaitable[Claims]]) -> Claims:
        claims = await self._patiently(attempt, None)
        if claims.taken:
            self._committed(False)
        return claims

    def renew(
        self,
        leases: Sequence[Lease],
        now: int,
        loop: asyncio.AbstractEventLoop,
        renewed: Callable[[list[str]], None],
    ) -> None:
        if not self._opened:
            raise ClosedError("the database is closed")
        self._leases.renew(Renewal(leases, now, loop, renewed))

    async def holds(self, lease: Lease, now: int) -> bool:
        async def attempt(_: bool) -> list[str]:
            return await self._commands.transact(sql.renew([lease], now))

        return not await self._patiently(attempt, None)

    def record(self, lease: Lease, entry: Entry) -> asyncio.Future[int]:
        self._check_open()
        return self._flusher.submit(Record(lease, entry))

    async def transact(
        self, lease: Lease, entry: Entry, call: Callable[[Any], Any]
    ) -> tuple[int, Any]:
        loan = Loan(self._lender, lease, entry, call)
        outcome = await self._patiently(loan.attempt, None)
        if isinstance(outcome, Refused):
            raise outcome.error from outcome.error.__cause__
        self._committed(False)
        return outcome

    async def save_progress(self, lease: Lease, progress: str, now: int) -> None:
        self._check_open()
        await self._flusher.submit(SaveProgress(lease, progress, now))

    async def settle(
        self, lease: Lease, transition: Transition, settlement: Settlement
    ) -> tuple[RunRow, int]:
        self._check_open()
        return await self._flusher.submit(Settle(lease, transition, settlement))

    async def move(self, run_id: str, transition: Transition, now: int) -> tuple[RunRow, int]:
        tries: list[int] = []
        return await self._command(
            lambda _: sql.move(run_id, transition, now, tries),
            wakes=True,
            run_id=run_id,
        )

    async def expire(self, owner: str, jobs: Sequence[str], now: int) -> list[str]:
        return await self._command(
            lambda _: sql.expire(owner, jobs, now), wakes=True, for_ever=True
        )

    async def hurry(self, jobs: Sequence[str], now: int, lease: int) -> None:
        if await self._read(lambda: sql.any_put_off(jobs, now)):
            await self._command(lambda _: sql.hurry(jobs, now, lease), wakes=True)

    # -- the end

    async def delete(self, run_id: str, now: int) -> RunRow | None:
        return await self._command(
            lambda replay: sql.delete(run_id, now, replay=replay), wakes=False, run_id=run_id
        )

    async def purge(self, before: int, now: int, limit: int = 500) -> list[RunRow]:
        return await self._command(lambda _: sql.purge(before, now, limit), wakes=False)

    # -- following

    async def tail(self, cursor: Cursor, limit: int = 1000) -> tuple[list[JournalRow], Cursor]:
        look = await self._read(lambda: follow.tail(cursor, limit))
        self._behind = bool(look.cursor.missing)
        return look

    async def end_of_tail(self) -> Cursor:
        return await self._read(follow.end_of_tail)

    async def changed(self) -> int:
        self._check_open()
        period = _LOOK if self._signals.is_listening else _LOOK_DEAF
        if self._behind:
            period = _LOOK_CLOSELY
        return self._signals.heard + int(self._runtime.monotonic() / period)


def _after_lock(run_id: str, transaction: sql.Transaction[T]) -> sql.Transaction[T]:
    """Wait for what may be left of a lost connection, then look."""
    yield "lock_all", {"run_id": [run_id]}
    return (yield from transaction)
