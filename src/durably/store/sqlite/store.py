"""SQLite: one writer with group commit, one reader, several processes on one file."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar, cast

from ...errors import ClosedError, ConfigurationError, SchemaError, StorageUnavailableError
from ...runtime import Runtime
from ...state import CANCEL, Transition
from ...telemetry.logs import logger
from .. import claiming, enqueuing, journal, leasing, reads, records, statements, transactions
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
from . import file
from .lend import lend
from .writer import Connection, Operation, Writer, is_damaged, is_passing

T = TypeVar("T")

DIALECT = statements.Dialect(
    name="sqlite",
    serial="integer",
    now=":now",
    moment=":?",
    for_update="",
    for_share="",
    label="json_extract(labels, '$.\"' || :label_key || '\"')",
    octets="octet_length" if sqlite3.sqlite_version_info >= (3, 43) else "length",
    escapes=True,
)
_HEAVY_BATCH = 20  # runs
_PURGE_BATCH = 50  # runs deleted in one transaction: about 5 ms for which nobody else can write
PATIENCE = 30.0  # seconds that a caller outside a run bears trouble of the storage
_CHECKPOINT_PAGES = 4000  # the net; the writer checkpoints about every thousand
_LONG_LOG = 8_000_000  # bytes: then other processes wrote more than the checkpointer did
_MOMENT = 0.1  # seconds that a claim may wait and still say nothing of the file
_LONG_WAIT = 1 / 6  # of a lease: about a heartbeat
_UNTENDED = 2.0  # seconds after which somebody else writes back a long log


class SQLiteStore(Reading):
    """The store on one SQLite file, or in memory.

    ``durability="full"`` syncs every commit to the disk: it survives a power loss.
    ``durability="process"`` leaves that to the operating system: it survives any death of the
    process, and a power loss may take the last commits with it, in order.
    ``exclusive`` keeps the file to this process alone, as the browser must.
    ``read_only`` is for looking: it makes nothing beside the file, and reads from a read-only mount.
    """

    dialect = DIALECT
    writer_type = Writer

    def __init__(
        self,
        path: str | Path,
        runtime: Runtime,
        *,
        durability: Durability = "full",
        exclusive: bool = False,
        allow_network_fs: bool = False,
        read_only: bool = False,
    ) -> None:
        # Not what the path means later: a program may change its directory at any time.
        self._named = None if str(path) == ":memory:" else Path(path).absolute()
        self.path = self._named
        """The file; once it is open, without links, as SQLite and everything beside it have it."""
        self._runtime = runtime
        self._durability = durability
        self._exclusive = exclusive or self.path is None
        self.is_alone = exclusive and self.path is not None
        self._allow_network_fs = allow_network_fs
        self._read_only = read_only
        self._statements = statements.statements(self.dialect)
        self._writer: Writer | None = None
        self._reader: Connection | None = None
        self._reading: ThreadPoolExecutor | None = None
        self._connection: Connection | None = None
        self._file: file.FileGuard | None = None
        self._checkpointer: file.Checkpointer | None = None
        self._written_back, self._long_since = 0, 0.0
        self._late_since: float | None = None

    # -- open, migrate, close

    async def open(self) -> None:
        file.check_sqlite()
        if self._named is not None:
            self.path = file.real_path(self._named)
            file.check_single_name(self.path)
            if not self._allow_network_fs:
                file.check_file_system(self.path)
            if self._read_only:
                await self._open_to_look(self.path)
                return
            file.create_private(self.path)
            if self.companion is not None:
                file.make_companion(self.companion, self.path)
        self._connection = await self._patiently(self._connect_writer)
        self._writer = self.writer_type(self._connection, self._statements, self._runtime)
        self._writer.on_commit = self._committed
        if self.path is not None:
            self._file = file.FileGuard(self.path)
            self._writer.check = self._file.check
        if self._runtime.threads and not self._exclusive:
            self._reader = await self._patiently(self._connect_reader)
            self._reading = ThreadPoolExecutor(1, "durably-reader")
        elif self.is_alone and not self._runtime.threads:
            # Between its transactions: what cannot be written keeps nobody from reading.
            self._reader = self._connection
        if self.companion is not None:
            self._checkpointer = file.Checkpointer(self.companion / "checkpointer")
        self._writer.start()
        try:
            await self.look_after()
        except BaseException:
            await self.close()
            raise

    async def _open_to_look(self, path: Path) -> None:
        connections = [await self._patiently(lambda: file.connect_to_look(path, 0)) for _ in "ab"]
        self._connection, self._reader = connections
        self._writer = self.writer_type(self._connection, self._statements, self._runtime)
        self._writer.check = self._refuse_to_write
        self._writer.start()
        self._file = file.FileGuard(path)
        self._reading = ThreadPoolExecutor(1, "durably-reader")

    def _refuse_to_write(self) -> None:
        raise StorageUnavailableError(f"{self.path} was opened to look at it only")

    def _connect_writer(self) -> Connection:
        connection = self._configure(self._open_connection())
        connection.execute("begin immediate")
        connection.execute("rollback")
        return connection

    def _connect_reader(self) -> sqlite3.Connection:
        connection = self._configure(self._open_connection())
        connection.execute("pragma query_only = 1")
        connection.execute("pragma cache_size = -2000")
        return connection

    def _open_connection(self) -> sqlite3.Connection:
        """Overridden by tests that inject faults."""
        return sqlite3.connect(
            self.path or ":memory:",
            isolation_level=None,
            check_same_thread=False,
            timeout=0.0,  # the writer waits for its turn itself, so that the loop never does
            cached_statements=256,
        )

    def _configure(self, connection: sqlite3.Connection) -> sqlite3.Connection:
        try:
            if self._exclusive:  # before WAL: then no shared memory is needed
                connection.execute("pragma locking_mode = exclusive")
            connection.execute("pragma journal_mode = wal")
            level = "full" if self._durability == "full" else "normal"
            connection.execute(f"pragma synchronous = {level}")
            pages = _CHECKPOINT_PAGES if self._exclusive else 0
            connection.execute(f"pragma wal_autocheckpoint = {pages}")
            connection.execute(f"pragma journal_size_limit = {_LONG_LOG}")
            connection.execute("pragma cache_size = -8000")  # kilobytes
            # What SQLite spills (savepoints, sorts) must not need a directory that may be read-only.
            connection.execute("pragma temp_store = memory")
        except BaseException:
            connection.close()
            raise
        return connection

    async def _patiently(self, connect: Callable[[], T]) -> T:
        """Opening needs the file for a moment, which another process may be opening too."""
        give_up = self._runtime.monotonic() + PATIENCE
        while True:
            try:
                return connect()
            except sqlite3.Error as error:
                if is_damaged(error):
                    raise file.damaged(self.path or Path(":memory:"), error) from None
                if not is_passing(error) or self._runtime.monotonic() > give_up:
                    raise StorageUnavailableError(
                        f"{self.path} cannot be opened: {error}"
                    ) from None
            await self._runtime.sleep(self._runtime.jitter(0.02, 0.9))

    async def migrate(self) -> None:
        steps = statements.migrations(self.dialect)
        await self._write(lambda _: self._migrate(steps), heavy=True, patience=PATIENCE)

    def _migrate(self, steps: dict[int, str]) -> statements.Transaction[None]:
        # The version is read under the write lock, so two processes cannot both migrate.
        version = yield from self._version()
        statements.refuse_newer(str(self.path), version, max(steps))
        for number in sorted(steps):
            if number > version:
                for statement in _split(steps[number]):
                    yield statement, {}
                yield "insert into durably_version (version) values (:version)", {"version": number}

    def _version(self) -> statements.Transaction[int]:
        yield "create table if not exists durably_version (version integer primary key)", {}
        rows = yield "select coalesce(max(version), 0) from durably_version", {}
        return int(rows[0][0])

    async def require_schema(self) -> None:
        newest = max(statements.migrations(self.dialect))
        version = await self.schema_version()
        statements.refuse_newer(str(self.path), version, newest)
        if version < newest:
            raise SchemaError(
                f"{self.path} has schema {version}, this Durably needs {newest}: call "
                "'await durably.migrate()' or run 'durably migrate'"
            )

    async def schema_version(self) -> int:
        """The number of the last migration; 0 for a file without any."""
        exists = "select 1 from sqlite_master where name = 'durably_version'"
        if not await self._read(lambda: reads.one(exists, {})):
            return 0
        newest = "select coalesce(max(version), 0) from durably_version"
        return int((await self._read(lambda: reads.one(newest, {})))[0][0])

    async def close(self) -> None:
        writer, self._writer = self._writer, None
        if writer is None:
            return
        await writer.close()
        if self._reading is not None:
            self._reading.shutdown(wait=True)
            self._reading = None
        for connection in (self._reader, self._connection):
            if connection is not None:
                connection.close()
        self._reader = self._connection = None
        if self._checkpointer is not None:
            self._checkpointer.resign()

    @property
    def companion(self) -> Path | None:
        return None if self._exclusive or self._read_only else Path(f"{self.path}-durably")

    async def look_after(self) -> None:
        if self._file is None:
            return
        self._file.check_process()
        self._file.check_file()
        if self._checkpointer is not None:
            await self._elect(self._checkpointer)
            self._mend_log()
        self.tidy()

    async def _elect(self, checkpointer: file.Checkpointer) -> None:
        """Stand for election; and make again what somebody has removed beside the file."""
        writer, companion = self._open_writer(), self.companion
        if companion is not None and self.path is not None and not companion.is_dir():
            logger.warning("the directory %s was removed; it is made again", companion)
            file.make_companion(companion, self.path)
        elected = checkpointer.elect()
        if elected is not writer.checkpoints:
            writer.checkpoints = elected
            pages = _CHECKPOINT_PAGES if elected else 0
            await self._write(lambda _: reads.one(f"pragma wal_autocheckpoint = {pages}", {}))

    def tidy(self) -> None:
        if self._writer is not None and self._writer.checkpoints:
            length = self._log_length()
            if length > _LONG_LOG:
                self._writer.tidy(length)

    def _mend_log(self) -> None:
        """A net: the one elected to write the log back may be stopped, or hang, for as long as it likes.

        The file is written to by nothing else, so its time tells whether anybody does.
        """
        writer, now = self._open_writer(), self._runtime.monotonic()
        if writer.checkpoints or self.path is None or (length := self._log_length()) <= _LONG_LOG:
            self._written_back = 0
            return
        written_back = self.path.stat().st_mtime_ns
        if written_back != self._written_back:
            self._written_back, self._long_since = written_back, now
        elif now - self._long_since > _UNTENDED:
            self._long_since = now
            writer.checkpoint(length)

    def _log_length(self) -> int:
        with suppress(OSError):
            return os.stat(f"{self.path}-wal").st_size  # noqa: PTH116 - at every ring
        return 0

    # -- driving transactions

    @property
    def trouble(self) -> str | None:
        """Why the database cannot be written at the moment, if so."""
        return self._writer.trouble if self._writer else None

    @property
    def troubled_at(self) -> float:
        if self._writer is None:
            return float("-inf")
        return self._runtime.monotonic() if self._writer.trouble else self._writer.troubled_at

    def _committed(self, notice: Notice) -> None:
        if self.on_commit:
            self.on_commit(notice)

    def _open_writer(self) -> Writer:
        if self._writer is None:
            raise ClosedError("Durably is not open: call init() first, or use 'async with durably'")
        return self._writer

    def _write(
        self,
        make: Callable[[bool], statements.Transaction[T]],
        *,
        atomic: bool = False,
        heavy: bool = False,
        notice: Notice | None = None,
        patience: float | None = None,
    ) -> asyncio.Future[T]:
        return self._open_writer().run(
            make, atomic=atomic, heavy=heavy, notice=notice, patience=patience
        )

    async def _read(
        self,
        make: Callable[[], statements.Transaction[T]],
        *,
        for_ever: bool = False,
        lists: bool = False,
    ) -> T:
        patience = None if for_ever else PATIENCE
        if self._reader is None:
            return await self._write(lambda _: make(), patience=patience)
        since = self._runtime.monotonic()
        while True:
            try:
                return await self._on_reader(make)
            except sqlite3.Error as error:
                if is_damaged(error):
                    raise file.damaged(self.path or Path(":memory:"), error) from None
                if not is_passing(error):
                    raise
                if patience is not None and self._runtime.monotonic() - since > patience:
                    raise StorageUnavailableError(f"the database cannot be read: {error}") from None
            await self._runtime.sleep(self._runtime.jitter(0.02, 0.9))

    async def _on_reader(self, make: Callable[[], statements.Transaction[T]]) -> T:
        self._open_writer()
        if self._file is not None:
            self._file.check()
        if self._reading is None:
            return self._read_between(make)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._reading, lambda: self._drive(make))

    def _read_between(self, make: Callable[[], statements.Transaction[T]]) -> T:
        if self._reader is not None and self._reader.in_transaction:  # its rollback has failed, too
            self._reader.execute("rollback")
        return self._drive(make)

    def _drive(self, make: Callable[[], statements.Transaction[T]]) -> T:
        transaction = make()
        try:
            text, params = next(transaction)
            while True:
                text, params = transaction.send(self._execute(text, params))
        except StopIteration as stop:
            return cast("T", stop.value)

    def _execute(self, text: str | statements.Call, params: Any) -> list[Any]:
        if self._reader is None:
            raise ClosedError("the database is closed")
        assert isinstance(text, str)  # users' functions write; nothing lends them the reader
        rows: list[Any] = self._reader.execute(self._statements.get(text, text), params).fetchall()
        return rows

    # -- the life of a run

    async def enqueue(self, runs: Sequence[NewRun], now: int) -> list[Enqueued]:
        heavy = len(runs) > _HEAVY_BATCH
        return await self._write(
            lambda _: enqueuing.enqueue(runs, now),
            heavy=heavy,
            notice=Notice.DUE,
            patience=PATIENCE,
        )

    async def enqueue_within(
        self, connection: Any, runs: Sequence[NewRun], now: int
    ) -> list[Enqueued]:
        raise ConfigurationError(
            "connection= is for PostgreSQL; on SQLite, where one connection writes for the whole "
            "process, trigger the run first and write in a step of it, by step.transaction"
        )

    async def any_due(self, jobs: Sequence[str], now: int) -> bool:
        return await self._read(lambda: claiming.any_due(jobs, now))

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
    ) -> asyncio.Future[Claims]:
        token = self._runtime.token()
        ask = records.ClaimRequest(jobs, owner, token, now, lease, limit, takeover, suspects)

        asked_at = self._runtime.monotonic()

        def make(replay: bool) -> statements.Transaction[Claims]:
            waited = self._runtime.monotonic() - asked_at
            late = self._is_late(replay or waited > _MOMENT, waited, lease / 1000)
            calm = not late and self.trouble is None
            claims = yield from claiming.claim(
                ask._replace(takeover=takeover and calm), replay=replay
            )
            return claims._replace(late=late and waited > _MOMENT)

        return self._write(make, notice=Notice.JOURNAL)

    def _is_late(self, had_to_wait: bool, waited: float, lease: float) -> bool:
        """Whether leases may look lapsed because nobody could write, or because we did not run.

        Claims that have had to wait a little, one after the other for a lease, have met others that
        write much, not one that keeps the file: live workers have renewed meanwhile.
        """
        now = self._runtime.monotonic()
        if not had_to_wait:
            self._late_since = None
            return False
        if self._late_since is None:
            self._late_since = now - waited
        return waited > lease * _LONG_WAIT or now - self._late_since <= lease

    def renew(
        self,
        leases: Sequence[Lease],
        now: int,
        loop: asyncio.AbstractEventLoop,
        renewed: Callable[[list[str]], None],
        failed: Callable[[Exception], None] = lambda _: None,
    ) -> None:
        def done(lost: list[str] | None, error: BaseException | None) -> None:
            if lost is not None:
                renewed(lost)
            elif isinstance(error, Exception) and not isinstance(error, ClosedError):
                failed(error)

        self._open_writer().submit_from_thread(
            Operation(lambda _: leasing.renew(leases, now), done, loop)
        )

    async def holds(self, lease: Lease, now: int) -> bool:
        return not await self._write(lambda _: leasing.renew([lease], now))

    def record(self, lease: Lease, entry: Entry, *, again: bool = False) -> asyncio.Future[int]:
        return self._write(
            lambda replay: journal.record(lease, entry, replay=replay or again),
            atomic=not again,
            notice=Notice.JOURNAL,
        )

    async def transact(
        self, lease: Lease, entry: Entry, call: Callable[[Any], Any], *, again: bool = False
    ) -> tuple[int, Any]:
        now = self._runtime.now
        return await self._write(
            lambda replay: transactions.transact(
                lease, entry, lend(call), now, replay=replay or again
            ),
            heavy=True,
            notice=Notice.JOURNAL,
        )

    async def save_progress(self, lease: Lease, progress: str, now: int) -> None:
        await self._write(
            lambda _: journal.save_progress(lease, progress, now),
            atomic=True,
            notice=Notice.JOURNAL,
        )

    async def settle(
        self, lease: Lease, transition: Transition, settlement: Settlement
    ) -> tuple[RunRow, int]:
        return await self._write(
            lambda replay: transactions.settle(lease, transition, settlement, replay=replay),
            notice=Notice.DUE if settlement.wakes else Notice.JOURNAL,
        )

    async def move(self, run_id: str, transition: Transition, now: int) -> tuple[RunRow, int]:
        tries: list[int] = []
        return await self._write(
            lambda _: transactions.move(run_id, transition, now, tries),
            notice=Notice.CANCEL if transition is CANCEL else Notice.DUE,
            patience=PATIENCE,
        )

    async def expire(self, owner: str, jobs: Sequence[str], now: int) -> list[str]:
        return await self._write(lambda _: leasing.expire(owner, jobs, now), notice=Notice.DUE)

    async def hurry(self, jobs: Sequence[str], now: int, lease: int) -> None:
        if await self._read(lambda: leasing.any_put_off(jobs, now, lease)):
            await self._write(lambda _: leasing.hurry(jobs, now, lease), notice=Notice.DUE)

    async def let_go(self, lease: Lease, now: int) -> RunRow | None:
        return await self._write(lambda _: leasing.let_go(lease, now), notice=Notice.DUE)

    async def delete(self, run_id: str, now: int) -> RunRow | None:
        return await self._write(
            lambda replay: transactions.delete(run_id, now, replay=replay),
            heavy=True,
            notice=Notice.JOURNAL,
            patience=PATIENCE,
        )

    async def purge(self, before: int, now: int, limit: int = _PURGE_BATCH) -> list[RunRow]:
        return await self._write(
            lambda _: transactions.purge(before, now, min(limit, _PURGE_BATCH)),
            heavy=True,
            notice=Notice.JOURNAL,
            patience=PATIENCE,
        )

    async def tail(self, cursor: Cursor, limit: int = 1000) -> tuple[list[JournalRow], Cursor]:
        return await self._read(lambda: reads.tail(cursor, limit))

    async def end_of_tail(self) -> Cursor:
        return Cursor(int((await self._read(lambda: reads.one("end_of_tail", {})))[0][0]))

    async def changed(self) -> int:
        return self._open_writer().data_version()


def _split(script: str) -> list[str]:
    """The statements of a script: sqlite3 runs them one by one, inside our transaction."""
    found: list[str] = []
    text = ""
    for line in script.splitlines(keepends=True):
        text += line.partition("--")[0] + "\n"
        if sqlite3.complete_statement(text):
            found.append(text.strip())
            text = ""
    return found
