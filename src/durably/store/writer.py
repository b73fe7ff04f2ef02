"""One writer, group commit: what waits is written in one transaction, then its callers go on.

Each submitted transaction runs under a savepoint of its own inside one ``begin immediate … commit``;
one that is refused leaves the others alone. Callers hear of it only after the commit. When the
database cannot be written - locked, full, unreachable - the batch waits and is tried again; a
transaction with a deadline gives up at it.

The queue is emptied by a thread of the writer's own, or inline on the event loop where there are no
threads. The batch is the same code either way.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from ..errors import ClosedError, CorruptDatabaseError, StorageError, StorageUnavailableError
from ..runtime import Runtime
from .sql import Transaction

T = TypeVar("T")

_FIRST_DELAY, _LAST_DELAY = 0.05, 2.0  # seconds between tries while the storage is in trouble
_SLOW_COMMIT = 0.001  # seconds; after a slower one, let the tasks just woken join the next
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

    __slots__ = ("atomic", "deadline", "done", "loop", "make", "tries", "wakes")

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
        self.atomic = False
        """True for a transaction of one statement: it needs no savepoint."""
        self.wakes: bool | None = None
        """Whether others want to know of the commit; True when a run may have become due."""
        self.deadline: float | None = None


class Result(NamedTuple):
    """What became of an operation."""

    operation: Operation[Any]
    value: Any
    error: BaseException | None

    def deliver(self) -> None:
        self.operation.done(self.value, self.error)


class Writer:
    """Runs transactions one batch at a time over one connection."""

    def __init__(
        self, connection: Connection, statements: dict[str, str], runtime: Runtime
    ) -> None:
        self._connection = connection
        self._statements = statements
        self._runtime = runtime
        self._queue: SimpleQueue[Operation[Any] | None] = SimpleQueue()
        self._stopping = threading.Event()
        self._regrouped = threading.Event()
        self._thread: threading.Thread | None = None
        self._waiting: list[Operation[Any]] = []
        self._scheduled = False
        self.trouble: str | None = None
        """Why the last attempt to write failed, while it is being tried again."""
        self.on_commit: Callable[[bool], None] | None = None
        self.check: Callable[[], None] | None = None
        """Called before a batch; raises when the database must not be written any more."""

    def start(self) -> None:
        if self._runtime.threads:
            self._thread = threading.Thread(target=self._work, name="durably-writer", daemon=True)
            self._thread.start()

    def submit(self, operation: Operation[Any]) -> None:
        """Hand an operation over, from any thread."""
        if self._stopping.is_set():
            raise ClosedError("the database is closed; call init() first")
        if self._thread is not None:
            self._queue.put(operation)
            return
        self._waiting.append(operation)
        if not self._scheduled:
            self._scheduled = True
            operation.loop.call_soon(self._flush)

    def run(
        self,
        make: Callable[[bool], Transaction[T]],
        *,
        atomic: bool = False,
        wakes: bool | None = None,
        patience: float | None = None,
    ) -> asyncio.Future[T]:
        """Run a transaction; the future resolves once it is committed.

        ``make`` gets True when an earlier try may have been committed after all. ``patience`` is how
        many seconds of storage trouble to bear; None bears any.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        operation = Operation(make, partial(_resolve, future), loop)
        operation.atomic, operation.wakes = atomic, wakes
        if patience is not None:
            operation.deadline = self._runtime.monotonic() + patience
        self.submit(operation)
        return future

    async def close(self) -> None:
        """Write what waits, then stop. While the storage is in trouble, what waits is given up."""
        if self._thread is None:
            while self._waiting and not self.trouble:
                self._flush()
            self._stopping.set()
            self._give_up(self._waiting)
            return
        if self.trouble:
            self._stopping.set()
        self._queue.put(None)
        while self._thread.is_alive():
            await asyncio.sleep(0.001)
        self._stopping.set()

    # -- the thread

    def _work(self) -> None:
        last = False
        while not last and (first := self._queue.get()) is not None:
            batch, last = self._gather(first)
            self._persist(batch)
        self._stopping.set()
        while not self._queue.empty():
            if left := self._queue.get():
                self._give_up([left])

    def _gather(self, first: Operation[Any]) -> tuple[list[Operation[Any]], bool]:
        batch = [first]
        while not self._queue.empty():
            operation = self._queue.get()
            if operation is None:
                return batch, True
            batch.append(operation)
        return batch, False

    def _persist(self, batch: list[Operation[Any]]) -> None:
        """Commit a batch, however long the storage needs, and tell its callers."""
        delay = _FIRST_DELAY
        while batch:
            started = self._runtime.monotonic()
            if (results := self._try(batch)) is not None:
                slow = self._runtime.monotonic() - started > _SLOW_COMMIT
                self._deliver(results, regroup=slow and len(batch) > 1)
                return
            batch, expired = self._patient(batch)
            self._deliver(expired)
            if self._stopping.wait(self._runtime.jitter(delay)):
                self._give_up(batch)
                return
            delay = min(delay * 2, _LAST_DELAY)

    def _deliver(self, results: list[Result], *, regroup: bool = False) -> None:
        """Tell the callers, with one wake-up for each event loop."""
        self._regrouped.clear()
        by_loop: dict[asyncio.AbstractEventLoop, list[Result]] = {}
        for result in results:
            by_loop.setdefault(result.operation.loop, []).append(result)
        for loop, own in by_loop.items():
            with contextlib.suppress(RuntimeError):  # that loop is closed; nobody waits any more
                loop.call_soon_threadsafe(self._tell, own, regroup)
        if regroup and by_loop:
            self._regrouped.wait(_SLOW_COMMIT)

    def _tell(self, results: list[Result], regroup: bool) -> None:
        for result in results:
            result.deliver()
        if regroup:  # after the tasks just woken have submitted their next
            asyncio.get_running_loop().call_soon(self._regrouped.set)

    # -- inline

    def _flush(self) -> None:
        self._scheduled = False
        batch, self._waiting = self._waiting, []
        if not batch:
            return
        results = self._try(batch)
        if results is not None:
            self._tell(results, regroup=False)
            return
        batch, expired = self._patient(batch)
        self._tell(expired, regroup=False)
        self._waiting = batch + self._waiting
        if self._waiting and not self._scheduled and not self._stopping.is_set():
            self._scheduled = True
            delay = self._runtime.jitter(min(_FIRST_DELAY * 2 ** batch[0].tries, _LAST_DELAY))
            self._waiting[0].loop.call_later(delay, self._flush)

    # -- a batch, on whichever thread

    def _try(self, batch: list[Operation[Any]]) -> list[Result] | None:
        """One attempt; None when the storage is in passing trouble."""
        try:
            if self.check:
                self.check()
            results = self._commit(batch)
        except sqlite3.Error as error:
            if not is_passing(error):
                return [Result(operation, None, _fatal(error)) for operation in batch]
            self.trouble = f"{error}"
            return None
        except StorageError as error:
            return [Result(operation, None, error) for operation in batch]
        self.trouble = None
        if self.on_commit:
            wakes = [
                result.operation.wakes
                for result in results
                if result.error is None and result.operation.wakes is not None
            ]
            if wakes:
                self.on_commit(any(wakes))
        return results

    def _commit(self, batch: list[Operation[Any]]) -> list[Result]:
        connection, alone = self._connection, len(batch) == 1
        connection.execute("begin immediate")
        try:
            results = [
                self._drive(operation, guarded=not (alone or operation.atomic))
                for operation in batch
            ]
            if alone and results[0].error is not None:
                connection.execute("rollback")
            else:
                connection.execute("commit")
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
                name, params = request
                request = transaction.send(execute(statements.get(name, name), params).fetchall())
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
        waiting = [op for op in batch if op.deadline is None or now < op.deadline]
        error = StorageUnavailableError(f"the database cannot be written: {self.trouble}")
        expired = [op for op in batch if op.deadline is not None and now >= op.deadline]
        return waiting, [Result(operation, None, error) for operation in expired]

    def _give_up(self, operations: list[Operation[Any]]) -> None:
        why = f"; it could not be written: {self.trouble}" if self.trouble else ""
        error = ClosedError(f"the database was closed{why}")
        results = [Result(operation, None, error) for operation in operations]
        if self._thread is None:
            self._tell(results, regroup=False)
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
        future.set_result(value)  # type: ignore[arg-type]
