"""What a store does, in the order of a run's life. A method is a transaction to its caller.

Nothing here knows a job or a task. A write by a worker carries its ``Lease`` and raises ``LeaseLost``
when the lease is no longer its own. Trouble of the storage delays a worker's write; it never fails it.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any, Generic, Literal, NamedTuple, TypeVar

from ..events import Event, RunDelete
from ..models import JournalRow, Lease, RunRow
from ..state import Status, Transition

T = TypeVar("T")

Durability = Literal["full", "process"]
"""What a commit survives: a power loss too, or any death of the process."""

SUSPECT = 2
"""A run that lapsed so often without a step in between may be what kills its workers."""


class Notice(IntEnum):
    """What a commit means to other processes, and to the other parts of this one; the most urgent counts."""

    JOURNAL = 0
    """Watchers may want to see it."""
    DUE = 1
    """A run may have become due."""
    CANCEL = 2
    """A run was cancelled: whoever executes it is to stop. Its key, too, may have become free."""


class NewRun(NamedTuple):
    """A run about to be stored."""

    id: str
    job: str
    input: str
    labels: str
    idempotency_key: str | None
    concurrency_key: str | None
    scope: str = ""
    coalesce: bool = False
    """Whether it is not stored when a run of its job that has not begun waits with its concurrency key."""


class Enqueued(NamedTuple):
    """What became of it: ``created`` is False where the idempotency key was known, or another run waits."""

    row: RunRow
    created: bool


class Claimed(NamedTuple):
    """A run that this worker holds from now on."""

    row: RunRow
    lease: Lease
    seq: int
    """The number of its run:start line."""
    resumed: bool
    """True when it ran before, so that there may be checkpoints."""
    asked_at: int
    """When it was asked for, by this host's clock: the lease lasts at least its duration from then."""
    lapsed: bool = False
    """Whether it was taken over from a worker that let its lease lapse."""


class Claims(NamedTuple):
    """What a claim took; ``more`` is True when further runs may be due."""

    taken: list[Claimed]
    more: bool
    late: bool = False
    """Whether it had to wait for the database, as the renewals of live workers had to: it took over
    nothing, and leases may look lapsed for a moment yet."""


class Entry(NamedTuple):
    """A line that the holder of a lease writes into the journal."""

    type: str
    at: int
    step: str | None = None
    step_index: int | None = None
    started_at: int | None = None
    data: str | None = None


class Checkpoint(NamedTuple):
    """A committed step."""

    step_index: int
    data: str


class DecidedSteps(NamedTuple):
    """What earlier attempts came to, and no later one changes."""

    checkpoints: dict[str, Checkpoint]
    failures: dict[str, list[str]]
    """Of each step the failures that the job has seen since the run was last retried, as JSON, in order."""


class Missing(NamedTuple):
    """Positions without a line, which somebody may be about to commit."""

    first: int
    last: int
    writers: frozenset[str]
    """Those at work who may be: once they have ended, one more look tells."""


class Cursor(NamedTuple):
    """How far the journal of all runs was read."""

    position: int
    missing: tuple[Missing, ...] = ()
    """The gaps below it. (SQLite has none: it has one writer at a time.)"""
    line: tuple[str, int] | None = None
    """The run and the number of the line at that position, by which the journal is known again."""


class JournalRewoundError(Exception):
    """The journal is not the one that a cursor was read from: a failover or a restore lost its end."""


class Page(NamedTuple, Generic[T]):
    """As many rows as were to be read at once."""

    rows: list[T]
    last: Any | None
    """After which row to go on, by its id or number; None when there is nothing more."""


@dataclass(frozen=True, slots=True)
class RunFilter:
    """Which runs to list; empty means all. ``after`` is the id of the last one seen."""

    jobs: Sequence[str] = ()
    statuses: Sequence[Status] = ()
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    limit: int = 50
    offset: int = 0
    after: str | None = None
    scope: str | None = None
    """Only the runs of this scope; '' are those without one, None all."""

    def lets_through(self, event: Event) -> bool:
        """Whether an event is of a run that may be listed, whatever its status.

        What the journal keeps of a deletion has no labels, so it is for all who list by labels.
        """
        return (
            (not self.jobs or event.job in self.jobs)
            and self.scope in (None, event.scope)
            and (self._has_labels(event) or (isinstance(event, RunDelete) and not event.labels))
        )

    def _has_labels(self, event: Event) -> bool:
        return all(event.labels.get(name) == value for name, value in self.labels.items())


class Standing(NamedTuple):
    """How a run stands, and what may keep it from moving."""

    row: RunRow
    due_in: int | None
    """Milliseconds until it is due, or until its lease ends; below 0 since then."""
    held_for: int | None
    """Milliseconds until the body of a run that moved on has ended at the latest."""
    blockers: list[tuple[str, str]]
    """The other runs that hold its concurrency key, each with its status."""
    executed: list[tuple[str, str, int]]
    """Of each worker that holds leases, how many runs of which job it executes."""


class Settlement(NamedTuple):
    """What a transition writes beside the status."""

    now: int
    due_at: int | None = None
    """When the run wakes. (What is released keeps its place instead.)"""
    output: str | None = None
    error: str | None = None
    progress: str | None = None
    wakes: bool = True
    """Whether another run may become due by it."""
    body_runs: bool = False
    """Whether the run's body has yet to end: until then nobody else gets the run or its key."""
    forget_steps: bool = False
    """Whether the results of its steps are deleted; that they were done is kept."""


class Store(ABC):
    """Where runs and journals rest."""

    on_commit: Callable[[Notice], None] | None = None
    """Called after every commit that watchers may want to see, on any thread."""

    on_signal: Callable[[Notice], None] | None = None
    """Called on the event loop when another process has committed something, by stores that learn of it."""

    lends_async = False
    """Whether what ``transact`` calls is awaited."""

    is_alone = False
    """Whether nobody else can have the database open: then every other owner of a run is dead."""

    @abstractmethod
    def tidy(self) -> None:
        """Others have written: do what is this process's part in the upkeep. Must not wait."""

    @abstractmethod
    async def open(self) -> None:
        """Connect, and check that the database can be used."""

    @abstractmethod
    async def migrate(self) -> None:
        """Bring the schema up to date; several processes may do so at once."""

    @abstractmethod
    async def require_schema(self) -> None:
        """Raise ``SchemaError`` unless the schema is the one this version needs."""

    @abstractmethod
    async def close(self) -> None:
        """Finish what is under way and disconnect."""

    @abstractmethod
    async def enqueue(self, runs: Sequence[NewRun], now: int) -> list[Enqueued]:
        """Store new runs, all or none."""

    @abstractmethod
    async def enqueue_within(
        self, connection: Any, runs: Sequence[NewRun], now: int
    ) -> list[Enqueued]:
        """As ``enqueue``, as a part of the transaction that a caller's own connection is in; what its
        driver raises is raised."""

    @abstractmethod
    async def any_due(self, jobs: Sequence[str], now: int) -> bool:
        """Whether a worker that knows these jobs is wanted."""

    @abstractmethod
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
        """Take up to ``limit`` due runs for ``lease`` milliseconds; lapsed ones only if ``takeover``.

        Of those that lapsed twice without a step, one at most, and only if ``suspects``.
        """

    @abstractmethod
    def renew(
        self,
        leases: Sequence[Lease],
        now: int,
        loop: asyncio.AbstractEventLoop,
        renewed: Callable[[list[str]], None],
        failed: Callable[[Exception], None] = lambda _: None,
    ) -> None:
        """Prolong leases, from any thread; ``renewed`` gets the ids of those gone, on the loop, and
        ``failed`` each error after which it is tried again."""

    @abstractmethod
    async def holds(self, lease: Lease, now: int) -> bool:
        """Prolong one lease; False when it is lost."""

    @abstractmethod
    async def no_longer_ours(self, leases: Sequence[Lease]) -> list[str]:
        """The ids of those runs that were cancelled, or taken over, under their holder."""

    @abstractmethod
    async def let_go(self, lease: Lease, now: int) -> RunRow | None:
        """The body has ended of a run that was moved on while it ran: its key and the run itself are
        free. None if it is not held for this lease."""

    @abstractmethod
    def record(self, lease: Lease, entry: Entry, *, again: bool = False) -> Awaitable[int]:
        """Write a line of the holder's into the journal; its number.

        ``again``: this step's result may have been written by a call that was cancelled.
        """

    @abstractmethod
    async def transact(
        self, lease: Lease, entry: Entry, call: Callable[[Any], Any], *, again: bool = False
    ) -> tuple[int, Any]:
        """Commit what ``call(connection)`` writes together with the holder's line, whose data is the
        ``text`` of what it returns. The number and that; or, when an earlier try turns out to have
        been committed, the number and None. What it raises undoes all. ``again`` as for ``record``."""

    @abstractmethod
    async def save_progress(self, lease: Lease, progress: str, now: int) -> None:
        """Write the live progress of a run."""

    @abstractmethod
    async def settle(
        self, lease: Lease, transition: Transition, settlement: Settlement
    ) -> tuple[RunRow, int]:
        """Move the run along a fenced row of the table; the row and the line's number."""

    @abstractmethod
    async def move(self, run_id: str, transition: Transition, now: int) -> tuple[RunRow, int]:
        """Move a run along an unfenced row; ``RunConflictError`` or ``RunNotFoundError`` if refused."""

    @abstractmethod
    async def expire(self, owner: str, jobs: Sequence[str], now: int) -> list[str]:
        """End the leases of an owner that is known to be dead; the ids of its runs."""

    @abstractmethod
    async def hurry(self, jobs: Sequence[str], now: int, lease: int) -> None:
        """If the clock was set back: what it has put off is due now, and leases end soon."""

    @abstractmethod
    async def owners(self, jobs: Sequence[str], now: int) -> list[str]:
        """Who holds leases of these jobs' runs."""

    @abstractmethod
    async def run(self, run_id: str) -> RunRow | None:
        """One run."""

    @abstractmethod
    async def state(self, run_id: str) -> tuple[RunRow, int] | None:
        """One run and the number of its newest line, as of one moment."""

    @abstractmethod
    async def in_progress(self, owner: str) -> list[RunRow]:
        """The runs that others execute and that say how far they are; without their inputs."""

    @abstractmethod
    async def count_steps(self, run_ids: Sequence[str]) -> list[int]:
        """How many steps of each run are committed."""

    @abstractmethod
    async def count_runs(self) -> list[tuple[str, str, int]]:
        """How many runs there are of each job in each status. Reads them all: not for every second."""

    @abstractmethod
    async def oldest_due(self, jobs: Sequence[str], now: int) -> dict[str, int]:
        """Of each job that has due runs nobody executes, since when the first one is."""

    @abstractmethod
    async def runs(self, filter: RunFilter) -> list[RunRow]:
        """Runs, newest first."""

    @abstractmethod
    async def decided_steps(self, run_id: str) -> DecidedSteps:
        """A run's committed steps by name, and the failures of steps that its job has seen."""

    @abstractmethod
    async def checkpoint(self, run_id: str, step: str) -> Checkpoint | None:
        """One committed step."""

    @abstractmethod
    async def page_of_runs(self, filter: RunFilter, size: int) -> Page[RunRow]:
        """As ``runs``, but no more than hold ``size`` bytes together; one at least."""

    @abstractmethod
    async def journal(self, run_id: str, after: int = 0, limit: int = 500) -> list[JournalRow]:
        """A run's history after a number."""

    @abstractmethod
    async def steps(self, run_id: str) -> list[JournalRow]:
        """A run's step:complete and step:fail lines."""

    @abstractmethod
    async def logs(self, run_id: str, after: int = 0, limit: int = 1000) -> list[JournalRow]:
        """A run's log:write lines."""

    @abstractmethod
    async def page_of_steps(self, run_id: str, after: int, size: int) -> Page[JournalRow]:
        """As ``steps``, after a number, but no more than hold ``size`` bytes together; one at least."""

    @abstractmethod
    async def page_of_logs(
        self, run_id: str, after: int, limit: int, size: int
    ) -> Page[JournalRow]:
        """As ``logs``, but no more than hold ``size`` bytes together; one at least."""

    @abstractmethod
    async def last_but_lines(self, run_id: str, newest: int) -> int:
        """The number of a run's newest journal line up to ``newest`` that is no log line."""

    @abstractmethod
    async def delete(self, run_id: str, now: int) -> RunRow | None:
        """Delete a final run and its journal, leaving one line that tells of it."""

    @abstractmethod
    async def purge(self, before: int, now: int, limit: int = 500) -> list[RunRow]:
        """Delete final runs that ended before a time, at most ``limit`` at once."""

    @abstractmethod
    async def standing(self, run_id: str, now: int) -> Standing | None:
        """How a run stands."""

    @abstractmethod
    async def quiet_for(self, now: int) -> int:
        """How many milliseconds ago the last thing happened to any run; 0 if nothing ever did."""

    @abstractmethod
    async def look_after(self) -> None:
        """Now and then: raise if the database is no longer ours, and do its chores."""

    @property
    @abstractmethod
    def troubled_at(self) -> float:
        """When the database could last not be written, on the monotonic clock; -inf for never."""

    @property
    @abstractmethod
    def trouble(self) -> str | None:
        """Why the database cannot be written at the moment, if so."""

    @property
    @abstractmethod
    def companion(self) -> Path | None:
        """A directory that all processes on this database share, where there is one."""

    @abstractmethod
    async def tail(self, cursor: Cursor, limit: int = 1000) -> tuple[list[JournalRow], Cursor]:
        """Lines over all runs after a cursor, without outputs, and the cursor after them; at least
        ``limit`` of them if there are more. ``JournalRewoundError`` if the cursor's own line was lost."""

    @abstractmethod
    async def end_of_tail(self) -> Cursor:
        """Where the journal ends now."""

    @abstractmethod
    async def changed(self) -> int:
        """A number that differs when another process committed something."""
