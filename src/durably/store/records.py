"""Rows and values that a store takes and returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, NamedTuple, TypeVar

from ..events import Event, RunDelete
from ..state import Status

T = TypeVar("T")


class RunRow(NamedTuple):
    """A row of ``durably_runs``, column by column in the table's order. Times in milliseconds."""

    id: str
    job: str
    status: str
    input: str
    output: str | None
    error: str | None
    labels: str
    progress: str | None
    idempotency_key: str | None
    concurrency_key: str | None
    due_at: int | None
    lease_owner: str | None
    lease_token: str | None
    generation: int
    recoveries: int
    created_at: int
    started_at: int | None
    ended_at: int | None
    updated_at: int
    scope: str
    key_slot: int | None = None
    """0 while it holds its concurrency key, -1 while it is parked behind it."""
    held_until: int | None = None
    """Until when at the latest its body may still run, though the run is not RUNNING any more."""


class JournalRow(NamedTuple):
    """A row of ``durably_journal``, with its run's job, labels, output and scope beside it."""

    position: int
    run_id: str
    seq: int
    at: int
    type: str
    step: str | None
    step_index: int | None
    attempt: int
    started_at: int | None
    data: str | None
    job: str | None
    labels: str | None
    output: str | None
    scope: str | None


class Lease(NamedTuple):
    """The right to write to a run; every write by a worker carries one."""

    run_id: str
    token: str
    generation: int
    duration: int
    """Milliseconds that a renewal lasts."""


Durability = Literal["full", "process"]
"""What a commit survives: a power loss too, or any death of the process."""


SUSPECT = 2
"""A run that lapsed so often without a step in between may be what kills its workers."""


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
    """When it was requested, by this host's clock: the lease lasts at least its duration from then."""
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


class Due(NamedTuple):
    """A row of the statement ``due``, in the order in which runs are taken."""

    due_at: int
    id: str
    status: str
    recoveries: int
    scope: str
    concurrency_key: str | None
    key_slot: int | None


class ClaimRequest(NamedTuple):
    """What a worker asks for."""

    jobs: Sequence[str]
    owner: str
    token: str
    now: int
    lease: int
    limit: int
    takeover: bool
    suspects: bool = True
