"""A SQLite connection that can die or fail at its n-th statement, and bugs to plant.

No product code knows of it: the store's ``_open_connection`` is overridden, as its docstring says.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from durably.runtime import Runtime
from durably.store import journal
from durably.store.base import Lease, Store
from durably.store.records import DecidedSteps
from durably.store.sqlite.store import SQLiteStore
from tests.planting import rewrite

ERRORS = {
    "full": (sqlite3.SQLITE_FULL, "database or disk is full"),
    "ioerr": (sqlite3.SQLITE_IOERR, "disk I/O error"),
    "busy": (sqlite3.SQLITE_BUSY, "database is locked"),
}


@dataclass
class Fault:
    """What happens at statement ``at`` (and the ``times - 1`` that follow it)."""

    at: int
    what: str
    """exit, kill, or a name of ``ERRORS``."""
    after: bool = False
    """After the statement took effect, rather than before."""
    times: int = 1


@dataclass
class Plan:
    """Counts the statements of all connections of a store and applies faults to them."""

    fault: Fault | None = None
    reader: bool = False
    """True to count the reading connection's statements rather than the writing one's."""
    armed: bool = False
    note: Callable[[str], None] = lambda _: None
    labels: list[str] = field(default_factory=list)
    """What was executed while armed, as ``statement`` or ``commit:statement``."""
    injected: int = 0
    total: int = 0
    """All statements, of all connections, armed or not."""

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._last = ""

    def run(self, name: str, reader: bool, call: Callable[[], Any]) -> Any:
        with self._lock:
            self.total += 1
            counted = self.armed and reader == self.reader
            label = f"{name}:{self._last}" if name == "commit" else name
            if counted:
                self._last = name
                self.labels.append(label)
            number, fault = len(self.labels), self.fault
        if not counted or fault is None or not fault.at <= number < fault.at + fault.times:
            return call()
        self.injected += 1
        when = "after" if fault.after else "before"
        self.note(f"{fault.what} {when} {label} {number}")
        if fault.after:
            call()
        if fault.what == "exit":
            os._exit(137)
        if fault.what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        code, message = ERRORS[fault.what]
        error = sqlite3.OperationalError(f"{message} (injected)")
        error.sqlite_errorcode = code
        raise error


class FaultyConnection:
    """A connection, statement by statement through a plan."""

    def __init__(self, connection: sqlite3.Connection, plan: Plan, names: dict[str, str]) -> None:
        self._connection, self._plan, self._names = connection, plan, names
        self._reader = False

    @property
    def in_transaction(self) -> bool:
        return self._connection.in_transaction

    def execute(self, sql: str, parameters: Any = (), /) -> Any:
        if sql == "pragma query_only = 1":
            self._reader = True
        name = self._names.get(sql) or " ".join(sql.split()[:2]).replace(" immediate", "")
        return self._plan.run(
            name.replace(" ", "_"),
            self._reader,
            lambda: self._connection.execute(sql, parameters),
        )

    def close(self) -> None:
        self._connection.close()


class FaultyStore(SQLiteStore):
    """The product's store over connections that follow a plan."""

    def __init__(self, path: str, runtime: Runtime, plan: Plan, **options: Any) -> None:
        super().__init__(path, runtime, **options)
        self._plan = plan
        self._names = {text: name for name, text in self._statements.items()}

    def _open_connection(self) -> Any:
        return FaultyConnection(super()._open_connection(), self._plan, self._names)


# -- planted bugs: a harness that cannot see these proves nothing


def plant(bug: str | None, store: Store) -> None:
    """Break a store in a known way."""
    if bug is not None:
        PLANTS[bug](store)


def _no_fence(store: Store) -> None:
    """A worker that lost its lease may go on writing."""
    for name in ("record", "complete", "fail", "release", "progress"):
        rewrite(store, name, "and lease_token = :token", "")
    if not isinstance(store, SQLiteStore):
        for name in ("record", "complete", "fail", "release", "progress"):
            rewrite(store, f"{name}_all", "and held.lease_token = given.token", "")


def _no_renewal(store: Store) -> None:
    """Leases run out under live workers."""
    store.renew = lambda *_: None  # type: ignore[method-assign]


def _forgets_checkpoints(store: Store) -> None:
    """A resumed run starts from nothing."""

    async def decided_steps(run_id: str) -> DecidedSteps:
        return DecidedSteps({}, {})

    store.decided_steps = decided_steps  # type: ignore[method-assign]


def _replays_blindly(store: Store) -> None:
    """A step whose commit's outcome is unknown is written a second time."""
    if not isinstance(store, SQLiteStore):
        from durably.store.postgres import flush

        async def already_done(*_: Any) -> list[Any]:
            return []

        flush._already_done = already_done
    real = journal.record

    def record(lease: Lease, entry: Any, *, replay: bool = False) -> Any:
        return real(lease, entry)

    journal.record = record  # type: ignore[assignment]


def _commits_late(store: Store) -> None:
    """Steps are acknowledged before they are in the file."""
    real = store.record

    async def later(lease: Lease, entry: Any) -> None:
        import asyncio

        await asyncio.sleep(0.03)
        await real(lease, entry)

    background: set[Any] = set()

    async def record(lease: Lease, entry: Any, *, again: bool = False) -> int:
        import asyncio

        task = asyncio.create_task(later(lease, entry))
        background.add(task)
        return 1

    store.record = record  # type: ignore[method-assign,assignment]


def _loses_triggers(store: Store) -> None:
    """Runs are acknowledged before they are in the file."""
    real = store.enqueue

    async def enqueue(runs: Any, now: int) -> Any:
        import asyncio

        from durably.store.records import Enqueued

        row = await asyncio.shield(asyncio.sleep(0, result=runs[0]))
        task = asyncio.get_running_loop().call_later(
            0.05, lambda: asyncio.ensure_future(real(runs, now))
        )
        del task
        from durably.store.records import RunRow

        fake = RunRow(
            row.id, row.job, "pending", row.input, None, None, row.labels, None,
            row.idempotency_key, row.concurrency_key, now, None, None, 0, 0, now, None, None, now, row.scope,
        )  # fmt: skip
        return [Enqueued(fake, True)]

    store.enqueue = enqueue  # type: ignore[method-assign]


def _fails_for_trouble(store: Store) -> None:
    """A run is failed when its connection is lost."""
    from durably.store.postgres import flush

    flush.is_passing = lambda _: False


PLANTS: dict[str, Callable[[Store], None]] = {
    "no_fence": _no_fence,
    "no_renewal": _no_renewal,
    "fails_for_trouble": _fails_for_trouble,
    "forgets_checkpoints": _forgets_checkpoints,
    "replays_blindly": _replays_blindly,
    "commits_late": _commits_late,
    "loses_triggers": _loses_triggers,
}
