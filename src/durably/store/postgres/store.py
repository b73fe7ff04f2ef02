"""The store on PostgreSQL: connections of its own for each purpose, so that none starves another."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from ssl import SSLCertVerificationError
from typing import Any, TypeVar

from ...errors import (
    ClosedError,
    ForkedError,
    SchemaError,
    StorageError,
    StorageUnavailableError,
)
from ...runtime import Runtime
from ...state import CANCEL, Transition
from .. import leasing, reads, records, statements, transactions
from ..base import Notice
from ..reader import Reading
from ..records import (
    Claims,
    Cursor,
    Durability,
    Enqueued,
    Entry,
    JournalRow,
    Lease,
    NewRun,
    RunRow,
    Settlement,
)
from . import positions, tail, user_transaction
from .claim import claim
from .connection import Link, Server
from .driver import ServerError, state_of
from .encoding import Encoding
from .errors import Backoff, Trouble, describe, is_passing, is_slow, raise_translated
from .flush import Flusher
from .leases import Leases, Renewal
from .lend import Lender, Loan, Refused
from .migrate import installed_version, migrate, newest_version
from .notifier import DUE_BY_OTHERS, Signals
from .statements import DIALECT, Statements
from .writes import Enqueue, Record, SaveProgress, Settle, columns

T = TypeVar("T")

_NEVER = float("-inf")
PATIENCE = 30.0  # seconds that a caller outside a run bears trouble of the storage
# Seconds between two looks of watchers at the journal: while signals arrive, while they do not, and
# while a line is awaited whose number is taken already.
_LOOK, _LOOK_DEAF, _LOOK_CLOSELY = 1.0, 0.25, 0.05
_UNUSABLE = "the database cannot be used: "
_PROMPT = 1.0  # seconds after which a claim takes over nothing: renewals may have had to wait, too
_TOO_SLOW = "reading took longer than the database lets a statement take; read fewer runs, or by fewer filters"
# States that no wait at the start will mend: refused logins, no such database or schema, no rights, and a
# server that only reads.
_HOPELESS = frozenset({"28000", "28P01", "3D000", "3F000", "42501", "25006"})


class PostgresStore(Reading):
    """The store on a PostgreSQL database (13 or newer).

    ``schema``: where the tables are; by default wherever the role's search path leads.
    ``listen_url``: for LISTEN, where ``url`` leads to a pooler in transaction mode.
    ``pooled``: ``url`` leads to such a pooler. Most are noticed without this option.
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
        self._journal = self._statements.qualify("durably_journal")
        self._encoding = Encoding()
        self._place = ""  # as it was when we last looked
        self._server = Server(url, self._statements, pooled, settings)
        self.url = url
        self._listen_url = listen_url
        self._trouble = Trouble(runtime.monotonic)
        self._opened = False
        self._pid = 0
        self._behind = False
        self._links: list[Link] = []
        self._closers = AsyncExitStack()

    # -- open, migrate, close

    async def open(self) -> None:
        self._pid = os.getpid()
        self._links = [Link(self._server) for _ in range(5)]
        self._commits, self._claims, self._commands, self._queries, self._listings = self._links
        self._leases = Leases(self._server, self._runtime)
        self._opened = True
        async with (
            AsyncExitStack() as opened
        ):  # what an error or a cancellation finds open is closed
            opened.callback(setattr, self, "_opened", False)
            for link in self._links:
                opened.push_async_callback(link.close)
            await self._connect()
            listen_on, listens = (
                self._server,
                self._listen_url is not None or not self._server.pooled,
            )
            if self._listen_url is not None:
                listen_on = Server(self._listen_url, self._statements)
            self._signals = Signals(listen_on, self._runtime, self._heard, listens=listens)
            opened.push_async_callback(self._signals.close)
            opened.push_async_callback(self._leases.close)
            self._lender = Lender(self._server, self._commands, self._runtime)
            opened.push_async_callback(self._lender.close)
            await self._lender.open()
            self._flusher = Flusher(self._commits, self._runtime, self._trouble, self._journal)
            opened.push_async_callback(self._flusher.close)
            self._flusher.on_commit = lambda wakes: self._committed(Notice(wakes))
            self._closers = opened.pop_all()

    async def _connect(self) -> None:
        """The server may be starting, too."""
        try:
            await self._hopefully(self._first_look)
            self._encoding.warn()
        except StorageUnavailableError as error:
            reason = str(error).removeprefix(_UNUSABLE)
            raise StorageUnavailableError(f"the database cannot be reached: {reason}") from None

    async def _first_look(self, _: bool) -> None:
        async with self._commits.session() as session:
            # Known from now on: a user's transaction need not wait for a second connection.
            self._place = await session.run(user_transaction.place())
            rows = await session.fetch("select current_setting('server_encoding')", {})
        self._encoding = Encoding(str(rows[0][0]))

    async def _hopefully(self, attempt: Callable[[bool], Awaitable[T]]) -> T:
        """As ``_patiently``, at the start: what no wait will mend is raised at once."""

        async def look(again: bool) -> T:
            try:
                return await attempt(again)
            except Exception as error:
                if _is_hopeless(error):
                    raise StorageUnavailableError(describe(error)) from None
                raise

        return await self._patiently(look)

    async def close(self) -> None:
        if not self._opened:
            return
        self._opened = False
        if self._pid != os.getpid():
            return  # the connections are the parent's
        await self._closers.aclose()  # all of them, also when one fails or this is cancelled

    async def migrate(self) -> None:
        async def make(_: bool) -> None:
            async with self._commands.session() as session:
                await migrate(session, self._statements)
                self._place = await session.run(user_transaction.place())
            await positions.set_if_behind(self._commands)

        await self._hopefully(make)

    async def require_schema(self) -> None:
        version, newest = await self.schema_version(), newest_version(self._statements)
        if version < newest:
            raise SchemaError(
                f"the database has schema {version}, this Durably needs {newest}: call "
                "'await durably.migrate()' or run 'durably migrate'"
            )
        await self._hopefully(lambda _: positions.set_if_behind(self._commands))

    async def schema_version(self) -> int:
        """The number of the last migration; 0 for a database without any."""

        async def make(_: bool) -> int:
            async with self._queries.session() as session:
                return await installed_version(session, self._statements)

        return await self._hopefully(make)

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
                f"{os.getpid()}; make another Durably there, or open this one after the fork"
            )

    def storable(self, jobs: Sequence[str]) -> Sequence[str]:
        return self._encoding.storable(jobs)

    # -- trouble, and who hears of what

    @property
    def trouble(self) -> str | None:
        return self._trouble.why or (self._leases.trouble.why if self._opened else None)

    @property
    def troubled_at(self) -> float:
        renewals = self._leases.trouble.last_at if self._opened else _NEVER
        return max(self._trouble.last_at, renewals)

    def _committed(self, notice: Notice) -> None:
        self._signals.send(notice)
        if self.on_commit:
            self.on_commit(notice)

    def _heard(self, notice: Notice) -> None:
        if self.on_signal:
            self.on_signal(notice)

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
            except Exception as failed:  # noqa: BLE001 - raised as the caller gets it
                error = await positions.after(self._commands, failed, self._journal)
                if not is_passing(error):
                    raise_translated(error)
                self._trouble.note(error)
                if patience is not None and self._runtime.monotonic() - since > patience:
                    message = f"{_UNUSABLE}{describe(error)}"
                    raise StorageUnavailableError(message) from None
                await backoff.pause(error)
                self._check_open()
                again = True
            else:
                self._trouble.clear()
                return result

    async def _read(
        self,
        make: Callable[[], statements.Transaction[T]],
        *,
        for_ever: bool = False,
        lists: bool = False,
    ) -> T:
        link = self._listings if lists else self._queries

        async def attempt(_: bool) -> T:
            try:
                async with link.session() as session:
                    return await session.run(make())
            except ServerError as error:
                if (
                    is_slow(error) and not for_ever
                ):  # no outage: to repeat it would only take as long
                    raise StorageError(f"{_TOO_SLOW} ({error}, SQLSTATE 57014)") from error
                raise

        return await self._patiently(attempt, None if for_ever else PATIENCE)

    async def _command(
        self,
        make: Callable[[bool], statements.Transaction[T]],
        *,
        notice: Notice,
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
        self._committed(notice)
        return result

    # -- the life of a run

    async def enqueue(self, runs: Sequence[NewRun], now: int) -> list[Enqueued]:
        self._check_open()
        return await self._flusher.submit(Enqueue(runs, now), patience=PATIENCE) if runs else []

    async def enqueue_within(
        self, connection: Any, runs: Sequence[NewRun], now: int
    ) -> list[Enqueued]:
        self._check_open()
        joined = await user_transaction.join(connection, self._statements)
        if not runs:
            return []
        place = await joined.run(user_transaction.place())
        if (
            place != self._place
        ):  # ours may be another since we looked, as after a restart of the server
            self._place = await self._read(user_transaction.place)
        if place != self._place:
            raise user_transaction.elsewhere()
        channel = self._signals.channel
        return await joined.run(user_transaction.enqueue(runs, now, channel, DUE_BY_OTHERS))

    async def any_due(self, jobs: Sequence[str], now: int) -> bool:
        params = {"jobs": list(self.storable(jobs)), "now": now}
        return bool(await self._read(lambda: reads.one("any_due", params)))

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
        jobs = self.storable(jobs)
        ask = records.ClaimRequest(jobs, owner, token, now, lease, limit, takeover, suspects)
        why_not = self._leases.why_not(asyncio.get_running_loop()) if self._opened else None
        if self._opened and why_not is None and (joined := self._flusher.join(ask)) is not None:
            return joined
        asked_at = self._runtime.monotonic()

        async def attempt(replay: bool) -> Claims:
            async with self._claims.session() as session:
                # What could not be written meanwhile includes the renewals of live workers.
                late = replay or self._runtime.monotonic() - asked_at > _PROMPT
                now = ask._replace(takeover=takeover and not late)
                return (await claim(session, now, replay=replay))._replace(late=late)

        return self._claim(attempt, why_not)

    async def _claim(
        self, attempt: Callable[[bool], Awaitable[Claims]], why_not: str | None
    ) -> Claims:
        if why_not is not None:  # what is claimed could not be kept
            raise StorageUnavailableError(f"leases cannot be renewed: {why_not}")
        claims = await self._patiently(attempt, None)
        if claims.taken:
            self._committed(Notice.JOURNAL)
        return claims

    def renew(
        self,
        leases: Sequence[Lease],
        now: int,
        loop: asyncio.AbstractEventLoop,
        renewed: Callable[[list[str]], None],
        failed: Callable[[Exception], None] = lambda _: None,
    ) -> None:
        if not self._opened:
            raise ClosedError("the database is closed")
        self._leases.renew(Renewal(leases, now, loop, renewed, failed))

    async def no_longer_ours(self, leases: Sequence[Lease]) -> list[str]:
        params = columns(("run_id", "token"), [lease[:2] for lease in leases])
        return [row[0] for row in await self._read(lambda: reads.one("no_longer_ours", params))]

    async def holds(self, lease: Lease, now: int) -> bool:
        async def attempt(_: bool) -> list[str]:
            return await self._commands.transact(leasing.renew([lease], now))

        return not await self._patiently(attempt, None)

    def record(self, lease: Lease, entry: Entry, *, again: bool = False) -> asyncio.Future[int]:
        self._check_open()
        write = Record(lease, entry)
        write.tries = int(again)
        return self._flusher.submit(write)

    async def transact(
        self, lease: Lease, entry: Entry, call: Callable[[Any], Any], *, again: bool = False
    ) -> tuple[int, Any]:
        loan = Loan(self._lender, lease, entry, call)
        outcome = await self._patiently(lambda replay: loan.attempt(replay or again), None)
        if isinstance(outcome, Refused):
            raise outcome.error from outcome.error.__cause__
        self._committed(Notice.JOURNAL)
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
            lambda _: transactions.move(run_id, transition, now, tries),
            notice=Notice.CANCEL if transition is CANCEL else Notice.DUE,
            run_id=run_id,
        )

    async def expire(self, owner: str, jobs: Sequence[str], now: int) -> list[str]:
        return await self._command(
            lambda _: leasing.expire(owner, self.storable(jobs), now),
            notice=Notice.DUE,
            for_ever=True,
        )

    async def hurry(self, jobs: Sequence[str], now: int, lease: int) -> None:
        jobs = self.storable(jobs)
        if await self._read(lambda: leasing.any_put_off(jobs, now, lease)):
            await self._command(lambda _: leasing.hurry(jobs, now, lease), notice=Notice.DUE)

    async def let_go(self, lease: Lease, now: int) -> RunRow | None:
        return await self._command(
            lambda _: leasing.let_go(lease, now),
            notice=Notice.DUE,
            run_id=lease.run_id,
            for_ever=True,
        )

    # -- the end

    async def delete(self, run_id: str, now: int) -> RunRow | None:
        return await self._command(
            lambda replay: transactions.delete(run_id, now, replay=replay),
            notice=Notice.JOURNAL,
            run_id=run_id,
        )

    async def purge(self, before: int, now: int, limit: int = 500) -> list[RunRow]:
        return await self._command(
            lambda _: transactions.purge(before, now, limit), notice=Notice.JOURNAL
        )

    # -- following

    async def tail(self, cursor: Cursor, limit: int = 1000) -> tuple[list[JournalRow], Cursor]:
        look = await self._read(lambda: tail.tail(cursor, limit))
        self._behind = bool(look.cursor.missing)
        return look

    async def end_of_tail(self) -> Cursor:
        return await self._read(tail.end_of_tail)

    async def changed(self) -> int:
        self._check_open()
        period = _LOOK if self._signals.is_listening else _LOOK_DEAF
        if self._behind:
            period = _LOOK_CLOSELY
        return self._signals.received + int(self._runtime.monotonic() / period)


def _is_hopeless(error: Exception) -> bool:
    # The driver has no state for a server without SSL.
    no_ssl = isinstance(error, ConnectionError) and "rejected SSL upgrade" in str(error)
    return state_of(error) in _HOPELESS or no_ssl or isinstance(error, SSLCertVerificationError)


def _after_lock(run_id: str, transaction: statements.Transaction[T]) -> statements.Transaction[T]:
    """Wait for what may be left of a lost connection, then look."""
    yield "lock_all", {"run_id": [run_id]}
    return (yield from transaction)
