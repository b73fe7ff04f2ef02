"""What a store does, in the order of a run's life. A method is a transaction to its caller.

Nothing here knows a job or a task. A write by a worker carries its ``Lease`` and raises ``LeaseLost``
when the lease is no longer its own. Trouble of the storage delays a worker's write; it never fails it.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from enum import IntEnum
from pathlib import Path
from typing import Any, TypeVar

from ..state import Transition
from .records import (
    Checkpoint,
    Claims,
    Cursor,
    DecidedSteps,
    Enqueued,
    Entry,
    JournalRow,
    Lease,
    NewRun,
    Page,
    RunFilter,
    RunRow,
    Settlement,
    Standing,
)

T = TypeVar("T")


class Notice(IntEnum):
    """What a commit means to other processes, and to the other parts of this one; the most urgent counts."""

    JOURNAL = 0
    """Watchers may want to see it."""
    DUE = 1
    """A run may have become due."""
    CANCEL = 2
    """A run was cancelled: its holder is to stop. Its key, too, may have become free."""


class JournalRewoundError(Exception):
    """The journal is not the one that a cursor was read from: a failover or a restore lost its end."""


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
        """Whether a run of these jobs waits for a worker."""

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
