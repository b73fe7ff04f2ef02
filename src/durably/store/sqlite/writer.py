"""One writer, group commit: what waits is written in one transaction, then its callers go on.

Each submitted transaction runs under a savepoint of its own inside one ``begin immediate … commit``;
one that is refused leaves the others alone. Callers hear of it only after the commit. When the
database cannot be written - locked, full, unreachable - the batch waits and is tried again; a
transaction with a deadline gives up at it.

A batch is committed by a thread of the writer's own. While commits take less than a millisecond the
event loop commits its batch itself at the end of the tick, which saves two thread switches; the
first slow commits, a busy file, or a heavy transaction send everything to the thread again. Where
there are no threads, all is done on the loop. The batch is the same code everywhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import threading
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from ...errors import ClosedError, CorruptDatabaseError, StorageError, StorageUnavailableError
from ...runtime import Runtime
from ...telemetry.background import BackgroundLogger
from ...telemetry.logs import logger
from ..base import Notice
from ..statements import Transaction

T = TypeVar("T")

# Seconds between tries: while others write, and while the storage is in trouble.
_FIRST_DELAY, _BUSY_DELAY, _TROUBLE_DELAY = 0.001, 0.02, 2.0
_LAST_PATIENCE = 10.0  # seconds that a close waits for others to let it write
_TROUBLE_AFTER = 5.0  # seconds for which a busy file is no trouble yet
_SLOW_COMMIT = 0.001  # seconds; after a slower one, let the tasks just woken join the next
_OPERATION_COST = 0.00005  # seconds of an operation's own work, which is not the disk's
_QUICK_COMMITS, _SLOW_COMMITS = 16, 2  # in a row: then the loop commits itself, or no longer does
_CHECKPOINT_EVERY = 250  # operations: about a thousand pages of the log
_TIDY_EVERY = 0.25  # seconds between two looks at what other processes have written
_TOO_LONG = 32_000_000  # bytes of the log
_BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_PASSING = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_INTERRUPT,
    }
)
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


class Connection(Protocol):
    """What the store asks of a SQLite driver."""

    @property
    def in_transaction(self) -> bool: ...

    def execute(self, sql: str, parameters: Any = ..., /) -> Any: ...

    def close(self) -> None: ...


class Operation(Generic[T]):
    """A transaction that somebody waits for."""

    __slots__ = (
        "atomic",
        "deadline",
        "done",
        "from_thread",
        "heavy",
        "loop",
        "make",
        "notice",
        "tries",
    )

    def __init__(
        self,
        make: Callable[[bool], Transaction[T]],
        done: Callable[[T | None, BaseException | None], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.make = make
        self.done = done
        self.loop = loop
        self.tries = 0
        self.from_thread = False
        self.atomic = False
        """True for a transaction of one statement: it needs no savepoint."""
        self.heavy = False
        """True for one that would keep the event loop from other work."""
        self.notice: Notice | None = None
        """What others want to know of the commit, if anything."""
        self.deadline: float | None = None


class Result(NamedTuple):
    """What became of an operation."""

    operation: Operation[Any]
    value: Any
    error: BaseException | None


class Writer:
    """Runs transactions one batch at a time over one connection."""

    def __init__(
        self, connection: Connection, statements: dict[str, str], runtime: Runtime
    ) -> None:
        self._connection = connection
        self._statements = statements
        self._runtime = runtime
        self._using = threading.Lock()  # who uses the connection: the thread or the loop
        self._queue: SimpleQueue[list[Operation[Any]] | None] = SimpleQueue()
        self._waiting: list[Operation[Any]] = []
        self._scheduled = False
        self._in_thread = 0  # operations handed to the thread: a later one must not overtake them
        self._stopping = threading.Event()
        self._regrouped = threading.Event()
        self._thread: threading.Thread | None = None
        self._ended: Callable[[], object] = lambda: None
        self._quick = self._slow = 0  # commits in a row
        self._inline = not runtime.threads
        self._written = self._data_version = 0
        self._trouble_at: float | None = None
        self._is_busy = True
        self._log = BackgroundLogger(logger, threads=runtime.threads)
        self._tidied_at, self._length = float("-inf"), 0
        self.checkpoints = False
        """True when this writer is the one that writes the log back into the file."""
        self.trouble: str | None = None
        """Why the last attempt to write failed, while it is being tried again."""
        self.troubled_at = float("-inf")
        """When the last trouble ended."""
        self.on_commit: Callable[[Notice], None] | None = None
        self.check: Callable[[], None] | None = None
        """Called before a batch; raises when the database must not be written any more."""

    def start(self) -> None:
        if self._runtime.threads:
            self._thread = threading.Thread(target=self._work, name="durably-writer", daemon=True)
            self._thread.start()

    def submit(self, operation: Operation[Any]) -> None:
        """Hand an operation over, on its event loop."""
        if self._stopping.is_set():
            raise ClosedError("the database is closed; call init() first")
        self._waiting.append(operation)
        if not self._scheduled:
            self._scheduled = True
            operation.loop.call_soon(self._flush)

    def submit_from_thread(self, operation: Operation[Any]) -> None:
        """Hand an operation over from another thread, past whatever keeps the loop busy."""
        if self._stopping.is_set():
            raise ClosedError("the database is closed; call init() first")
        if self._thread is None:
            self.submit(operation)
            return
        operation.from_thread = True
        self._queue.put([operation])

    def run(
        self,
        make: Callable[[bool], Transaction[T]],
        *,
        atomic: bool = False,
        heavy: bool = False,
        notice: Notice | None = None,
        patience: float | None = None,
    ) -> asyncio.Future[T]:
        """Run a transaction; the future resolves once it is committed.

        ``make`` gets True when an earlier try may have been committed after all. ``patience`` is how
        many seconds of storage trouble to bear; None bears any.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        operation = Operation(make, partial(_resolve, future), loop)
        operation.atomic, operation.heavy, operation.notice = atomic, heavy, notice
        if patience is not None:
            operation.deadline = self._runtime.monotonic() + patience
        self.submit(operation)
        return future

    def data_version(self) -> int:
        """A number that changes when another connection, not this one, commits. Never waits."""
        if self._using.acquire(blocking=False):
            try:
                rows = self._connection.execute("pragma data_version").fetchall()
                self._data_version = int(rows[0][0])
            except sqlite3.Error:
                pass  # the next look tells
            finally:
                self._using.release()
        return self._data_version

    async def close(self) -> None:
        """Write what waits, then stop. While the storage is in trouble, what waits is given up."""
        if self._thread is None:
            while self._waiting and not self.trouble:
                self._flush()
            self._stopping.set()
            self._give_up(self._waiting)
            return
        if self._waiting:
            self._hand_over(self._waiting)
            self._waiting = []
        if self.trouble:
            self._stopping.set()
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()
        self._ended = lambda: loop.call_soon_threadsafe(ended.set_result, None)
        self._queue.put(None)
        done, _ = await asyncio.wait([ended], timeout=_LAST_PATIENCE)
        if not done:
            self._stopping.set()
            await ended
        self._thread.join()

    # -- on the loop

    def _flush(self) -> None:
        """At the end of a tick: commit what it submitted, here or in the thread."""
        self._scheduled = False
        batch, self._waiting = self._waiting, []
        if not batch:
            return
        if self._thread is None:
            self._flush_alone(batch)
        elif not self._may_commit(batch) or not self._using.acquire(blocking=False):
            self._hand_over(batch)
        else:
            try:
                results = self._try(batch)
            finally:
                self._using.release()
            if results is None:
                self._hand_over(batch)
            else:
                self._tell(results)
                if self.checkpoints and self._written >= _CHECKPOINT_EVERY:
                    self._queue.put([])

    def _may_commit(self, batch: list[Operation[Any]]) -> bool:
        return self._inline and not self._in_thread and not any(op.heavy for op in batch)

    def _hand_over(self, batch: list[Operation[Any]]) -> None:
        self._in_thread += len(batch)
        self._queue.put(batch)

    def _flush_alone(self, batch: list[Operation[Any]]) -> None:
        """Where there are no threads: the batch, and in trouble the same again a little later."""
        if (results := self._try(batch)) is not None:
            self._tell(results)
            return
        batch, expired = self._patient(batch)
        self._tell(expired)
        self._waiting = batch + self._waiting
        if self._waiting and not self._scheduled and not self._stopping.is_set():
            self._scheduled = True
            delay = self._delay(_FIRST_DELAY * 2 ** min(20, self._waiting[0].tries))
            self._waiting[0].loop.call_later(delay, self._flush)

    def _tell(self, results: list[Result], *, regroup: bool = False, from_thread: int = 0) -> None:
        self._in_thread -= from_thread
        for result in results:
            result.operation.done(result.value, result.error)
        if regroup:  # after the tasks just woken have submitted their next
            loop = asyncio.get_running_loop()
            loop.call_soon(lambda: loop.call_soon(self._regrouped.set))

    # -- the thread

    def _work(self) -> None:
        last = False
        while not last and (batch := self._queue.get()) is not None:
            while not self._queue.empty():
                if (more := self._queue.get()) is None:
                    last = True
                    break
                batch = batch + more
            if batch:
                self._persist(batch)
            if self._length or (self.checkpoints and self._written >= _CHECKPOINT_EVERY):
                self._checkpoint()
        self._stopping.set()
        while not self._queue.empty():
            self._give_up(self._queue.get() or [])
        self._ended()

    def _persist(self, batch: list[Operation[Any]]) -> None:
        """Commit a batch, however long the storage needs, and tell its callers."""
        delay = _FIRST_DELAY
        while batch:
            started = self._runtime.monotonic()
            with self._using:
                results = self._try(batch)
            if results is not None:
                slow = self._runtime.monotonic() - started > _SLOW_COMMIT
                self._deliver(results, regroup=slow and len(batch) > 1)
                return
            batch, expired = self._patient(batch)
            self._deliver(expired)
            if self._stopping.wait(self._delay(delay)):
                self._give_up(batch)
                return
            delay *= 2

    def _delay(self, delay: float) -> float:
        # However long somebody keeps the file: the renewals here must not come after others' claims.
        longest = _BUSY_DELAY if self._is_busy else _TROUBLE_DELAY
        return self._runtime.jitter(min(delay, longest))

    def _deliver(self, results: list[Result], *, regroup: bool = False) -> None:
        """Tell the callers, with one wake-up for each event loop."""
        self._regrouped.clear()
        by_loop: dict[asyncio.AbstractEventLoop, list[Result]] = {}
        for result in results:
            by_loop.setdefault(result.operation.loop, []).append(result)
        for loop, own in by_loop.items():
            counted = sum(not result.operation.from_thread for result in own)
            tell = partial(self._tell, own, regroup=regroup, from_thread=counted)
            with contextlib.suppress(RuntimeError):  # that loop is closed, and with it its waiters
                loop.call_soon_threadsafe(tell)
        if regroup and by_loop:
            self._regrouped.wait(_SLOW_COMMIT)

    def tidy(self, length: int) -> None:
        """The log is long, and that by other processes' writes: write it back soon, too."""
        now = self._runtime.monotonic()
        if self.checkpoints and now - self._tidied_at >= _TIDY_EVERY:
            self._tidied_at = now
            self.checkpoint(length)

    def checkpoint(self, length: int) -> None:
        """Write a log of this many bytes back soon, whichever process does so."""
        if self._thread is not None:
            self._length = length
            self._queue.put([])

    def _checkpoint(self) -> None:
        """Write the log back into the file; the loop does not wait for it."""
        self._written = 0
        with self._using, contextlib.suppress(sqlite3.Error):
            # While others write on and on, only a pause for them lets the log start over.
            mode = "restart" if self._length > _TOO_LONG else "passive"
            self._length = 0
            self._connection.execute(f"pragma wal_checkpoint({mode})").fetchall()

    # -- a batch, wherever it is committed

    def _try(self, batch: list[Operation[Any]]) -> list[Result] | None:
        """One attempt; None when the batch must be tried again later."""
        try:
            if self.check:
                self.check()
            started = self._runtime.monotonic()
            results = self._commit(batch)
            self._measure(self._runtime.monotonic() - started, len(batch))
        except sqlite3.Error as error:
            if not is_passing(error):
                return [Result(operation, None, _fatal(error)) for operation in batch]
            self._note_trouble(error)
            return None
        except StorageError as error:
            return [Result(operation, None, error) for operation in batch]
        if self.trouble:
            self.troubled_at = self._runtime.monotonic()
            self._log(logging.INFO, "the database can be written again")
        self.trouble = self._trouble_at = None
        self._written += len(batch)
        if self.on_commit:
            notice = [
                result.operation.notice
                for result in results
                if result.error is None and result.operation.notice is not None
            ]
            if notice:
                self.on_commit(max(notice))
        return results

    def _measure(self, took: float, size: int) -> None:
        """Some quick commits in a row: the loop may commit. A few slow ones: it may not."""
        if self._thread is None:
            return
        self._quick, self._slow = (
            (self._quick + 1, 0)
            if took < _SLOW_COMMIT + size * _OPERATION_COST
            else (0, self._slow + 1)
        )
        if self._quick >= _QUICK_COMMITS:
            self._inline = True
        elif self._slow >= _SLOW_COMMITS:
            self._inline = False

    def _note_trouble(self, error: sqlite3.Error) -> None:
        now = self._runtime.monotonic()
        self._trouble_at = now if self._trouble_at is None else self._trouble_at
        self._is_busy = _code(error) in _BUSY
        if not self._is_busy or now - self._trouble_at > _TROUBLE_AFTER:
            if self.trouble is None:
                self._log(
                    logging.WARNING, "the database cannot be written: %s; trying again", error
                )
            self.trouble = str(error)

    def _commit(self, batch: list[Operation[Any]]) -> list[Result]:
        connection, alone = self._connection, len(batch) == 1
        if connection.in_transaction:  # the rollback of an earlier try has failed too
            connection.execute("rollback")
        connection.execute("begin immediate")
        try:
            results = [
                self._drive(operation, guarded=not (alone or operation.atomic))
                for operation in batch
            ]
            failed = alone and results[0].error is not None
            connection.execute("rollback" if failed else "commit")
        except BaseException:
            for operation in batch:
                operation.tries += 1
            if connection.in_transaction:
                connection.execute("rollback")
            raise
        return results

    def _drive(self, operation: Operation[Any], *, guarded: bool) -> Result:
        execute, statements = self._connection.execute, self._statements
        if guarded:
            execute("savepoint one")
        try:
            transaction = operation.make(operation.tries > 0)
            request = next(transaction)
            while True:
                what, params = request
                if isinstance(what, str):
                    answer = execute(statements.get(what, what), params).fetchall()
                else:
                    answer = what(self._connection)
                request = transaction.send(answer)
        except StopIteration as stop:
            if guarded:
                execute("release one")
            return Result(operation, stop.value, None)
        except sqlite3.Error as error:
            if is_passing(error) or is_damaged(error):
                raise
            return self._undo(operation, error, guarded=guarded)
        except BaseException as error:  # noqa: BLE001 - refusals travel to their caller
            return self._undo(operation, error, guarded=guarded)

    def _undo(self, operation: Operation[Any], error: BaseException, *, guarded: bool) -> Result:
        if guarded:
            self._connection.execute("rollback to one")
            self._connection.execute("release one")
        return Result(operation, None, error)

    def _patient(self, batch: list[Operation[Any]]) -> tuple[list[Operation[Any]], list[Result]]:
        """Who goes on waiting for the storage, and who gives up."""
        now = self._runtime.monotonic()
        why = self.trouble or "it is busy"
        error = StorageUnavailableError(f"the database cannot be written: {why}")
        late = [op for op in batch if op.deadline is not None and now >= op.deadline]
        waiting = [op for op in batch if op.deadline is None or now < op.deadline]
        return waiting, [Result(operation, None, error) for operation in late]

    def _give_up(self, operations: list[Operation[Any]]) -> None:
        why = f"; it could not be written: {self.trouble}" if self.trouble else ""
        error = ClosedError(f"the database was closed{why}")
        results = [Result(operation, None, error) for operation in operations]
        if self._thread is None:
            self._tell(results)
        else:
            self._deliver(results)


def is_passing(error: sqlite3.Error) -> bool:
    """Trouble of the storage, which may pass, rather than a fault of a statement."""
    return _code(error) in _PASSING


def is_damaged(error: sqlite3.Error) -> bool:
    """The file is no database, or a damaged one."""
    return _code(error) in _DAMAGED


def _code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _fatal(error: sqlite3.Error) -> BaseException:
    if is_damaged(error):
        return CorruptDatabaseError(
            f"the database file is damaged ({error}); stop all workers, copy the file and try "
            "sqlite3's .recover on the copy"
        )
    return error


def _resolve(future: asyncio.Future[T], value: T | None, error: BaseException | None) -> None:
    if future.done():  # its caller was cancelled meanwhile
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(value)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
