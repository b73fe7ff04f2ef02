"""What users see of a run: frozen snapshots, and the row they are made from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Generic, Literal, NamedTuple

from typing_extensions import TypeVar

from .codec import PLAIN, Codec, dump_json, load_json
from .display import html_table, short_repr
from .runtime import to_datetime
from .state import Status

I = TypeVar("I", default=Any)  # noqa: E741 - input, as everywhere in this house
O = TypeVar("O", default=Any)  # noqa: E741 - output

LogLevel = Literal["debug", "info", "warning", "error"]

Disposition = Literal["created", "idempotent", "coalesced"]
"""What a trigger came to: a new run, the run that has its idempotency key, or one that waits already."""


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


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run says it is."""

    current: float
    total: float | None = None
    message: str | None = None

    def __str__(self) -> str:
        far = f"{self.current:g}" + ("" if self.total is None else f"/{self.total:g}")
        return f"{far} {self.message}" if self.message else far


@dataclass(frozen=True, slots=True, repr=False)
class RunError:
    """Why a run or a step failed."""

    type: str
    """The exception's class name, or ``poisoned`` for a run that kept killing its worker."""
    message: str
    step: str | None = None
    """The step that raised, if one did."""
    traceback: str | None = None

    def __str__(self) -> str:
        return f"{self.type}: {self.message}" if self.message else self.type

    def __repr__(self) -> str:
        return short_repr(self, "type", "message", "step")


@dataclass(frozen=True, slots=True, repr=False)
class Run(Generic[I, O]):
    """One execution of a job, as it stood when it was read."""

    id: str
    job: str
    status: Status
    input: I
    output: O | None
    error: RunError | None
    progress: Progress | None
    labels: Mapping[str, str]
    idempotency_key: str | None
    concurrency_key: str | None
    attempt: int
    """How often a worker has taken it up; 0 before the first time."""
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    updated_at: datetime
    scope: str = ""
    """The scope, such as a tenant, that it was triggered in; '' is none."""
    stopping: bool = False
    """True while a run that is over still has a body that runs: a worker is stopping it. Until then it
    cannot be deleted, ``retry`` waits for it, and its concurrency key is held."""
    disposition: Disposition | None = None
    """On what ``trigger`` returns: whether the run is new, its idempotency key was known, or
    ``coalesce="skip"`` found that it already waits."""
    steps_done: int = 0
    """How many of its steps are committed."""

    @property
    def cursor(self) -> str:
        """Pass it as ``get_runs(cursor=...)`` to go on after this run."""
        return self.id

    @property
    def is_final(self) -> bool:
        """True for a completed, failed or cancelled run."""
        return self.status.is_final

    def __repr__(self) -> str:
        outcome = () if self.status != Status.COMPLETED else ("output",)
        return short_repr(self, "id", "job", "status", "progress", *outcome, "error")

    def _repr_html_(self) -> str:
        """The run as a table, for notebooks."""
        rows = [
            ("run", self.id),
            ("job", self.job),
            ("status", f"{self.status}, and its body is being stopped" if self.stopping else str(self.status)),
            ("progress", self.progress and str(self.progress)),
            ("input", self.input),
            ("output", self.output),
            ("error", self.error and str(self.error)),
            ("failed in step", self.error and self.error.step),
            ("labels", dict(self.labels) or None),
            ("attempt", self.attempt),
            ("steps done", self.steps_done),
            ("created", str(self.created_at)),
            ("ended", self.ended_at and str(self.ended_at)),
        ]  # fmt: skip
        return html_table(rows, self.error.traceback if self.error else None)


@dataclass(frozen=True, slots=True, repr=False)
class CompletedRun(Run[I, O]):
    """A run that completed, so that its output is there: what ``wait`` returns.

    Every run that is read with status completed is one: ``isinstance(run, CompletedRun)`` narrows.
    """

    output: O


@dataclass(frozen=True, slots=True, repr=False)
class StepRecord:
    """A step of a run that completed or failed."""

    name: str
    index: int
    """Its place in the order of the job's ``step.run`` calls, from 0."""
    status: Literal["completed", "failed"]
    output: Any
    error: RunError | None
    attempt: int
    """The run's attempt that ran it."""
    started_at: datetime
    completed_at: datetime

    def __repr__(self) -> str:
        return short_repr(self, "index", "name", "status", "output", "error")


@dataclass(frozen=True, slots=True, repr=False)
class LogEntry:
    """A kept log line."""

    id: str
    run_id: str
    step_name: str | None
    level: LogLevel
    message: str
    data: Any
    timestamp: datetime

    def __repr__(self) -> str:
        return short_repr(self, "level", "message", "step_name", "data")


@dataclass(frozen=True, slots=True)
class Health:
    """How an instance is, for what watches over it."""

    database: Literal["ok", "unavailable", "closed"]
    worker: Literal["working", "stopped", "none"]
    """``none``: this instance was made not to work."""

    @property
    def is_alive(self) -> bool:
        """Whether the process does what it is there for; else a restart may help."""
        return self.database != "closed" and self.worker != "stopped"

    @property
    def is_ready(self) -> bool:
        """Whether it can be given work at the moment."""
        return self.is_alive and self.database == "ok"

    @property
    def status(self) -> Literal["ok", "degraded", "down"]:
        """All in one word."""
        if not self.is_alive:
            return "down"
        return "ok" if self.is_ready else "degraded"


def run_from_row(
    row: RunRow,
    input_codec: Codec[I] | None = None,
    output_codec: Codec[O] | None = None,
    disposition: Disposition | None = None,
    now: int | None = None,
    steps_done: int = 0,
) -> Run[I, O]:
    """The snapshot of a row, as of ``now``; plain JSON values where no codec is given."""
    return run_class(row.status)(
        id=row.id,
        job=row.job,
        status=Status(row.status),
        input=(input_codec or PLAIN).decode(row.input),
        output=None if row.output is None else (output_codec or PLAIN).decode(row.output),
        error=error_from_json(row.error),
        progress=progress_from_json(row.progress),
        labels=load_json(row.labels),
        idempotency_key=row.idempotency_key,
        concurrency_key=row.concurrency_key,
        attempt=row.generation,
        created_at=to_datetime(row.created_at),
        started_at=None if row.started_at is None else to_datetime(row.started_at),
        ended_at=None if row.ended_at is None else to_datetime(row.ended_at),
        updated_at=to_datetime(row.updated_at),
        scope=row.scope,
        stopping=is_stopping(row, now),
        disposition=disposition,
        steps_done=steps_done,
    )


def run_class(status: str) -> type[Run[Any, Any]]:
    """The class of a run with that status."""
    return CompletedRun if status == Status.COMPLETED else Run


def is_stopping(row: RunRow, now: int | None) -> bool:
    """Whether the body of a run that is over may still run. (A holder that died says nothing more.)"""
    return row.held_until is not None and (now is None or row.held_until > now)


def error_from_json(text: str | None) -> RunError | None:
    """A stored error."""
    return None if text is None else RunError(**_known(RunError, text))


def progress_from_json(text: str | None) -> Progress | None:
    """A stored progress."""
    return None if text is None else Progress(**_known(Progress, text))


def _known(cls: type[RunError | Progress], text: str) -> dict[str, Any]:
    """What this version knows of a stored value, which a newer one may have written."""
    value: dict[str, Any] = load_json(text)
    return {field.name: value[field.name] for field in fields(cls) if field.name in value}


def progress_to_json(progress: Progress) -> str:
    """The text that a progress is kept as."""
    return dump_json(
        {"current": progress.current, "total": progress.total, "message": progress.message}
    )


def step_from_row(row: JournalRow) -> StepRecord:
    """A journaled step."""
    failed = row.type == "step:fail"
    return StepRecord(
        name=row.step or "",
        index=row.step_index or 0,
        status="failed" if failed else "completed",
        output=None if failed else load_json(row.data),
        error=error_from_json(row.data) if failed else None,
        attempt=row.attempt,
        started_at=to_datetime(row.at if row.started_at is None else row.started_at),
        completed_at=to_datetime(row.at),
    )


def steps_from_rows(rows: Iterable[JournalRow]) -> list[StepRecord]:
    """The steps that journaled lines describe, in the order of their calls."""
    found: dict[str, StepRecord] = {}
    for row in rows:
        record = step_from_row(row)
        found[record.name] = record  # a later attempt's end of a step replaces its failure
    return sorted(found.values(), key=lambda record: record.index)


def log_from_row(row: JournalRow) -> LogEntry:
    """A journaled log line."""
    data = load_json(row.data)
    return LogEntry(
        id=f"{row.run_id}:{row.seq}",
        run_id=row.run_id,
        step_name=row.step,
        level=data["level"],
        message=data["message"],
        data=data["data"],
        timestamp=to_datetime(row.at),
    )
