"""What users see of a run: frozen snapshots, and the row they are made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, Literal, NamedTuple

from typing_extensions import TypeVar

from .codec import PLAIN, Codec, dump_json, load_json
from .runtime import to_datetime
from .state import Status

I = TypeVar("I", default=Any)  # noqa: E741 - input, as everywhere in this house
O = TypeVar("O", default=Any)  # noqa: E741 - output

LogLevel = Literal["debug", "info", "warning", "error"]


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


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
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
    disposition: Literal["created", "idempotent"] | None = None
    """On what ``trigger`` returns: whether the run is new, or its idempotency key was known."""

    @property
    def cursor(self) -> str:
        """Pass it as ``get_runs(cursor=...)`` to go on after this run."""
        return self.id

    @property
    def is_final(self) -> bool:
        """True for a completed, failed or cancelled run."""
        return self.status.is_final


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class LogEntry:
    """A kept log line."""

    id: str
    run_id: str
    step_name: str | None
    level: LogLevel
    message: str
    data: Any
    timestamp: datetime


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
    disposition: Literal["created", "idempotent"] | None = None,
) -> Run[I, O]:
    """The snapshot of a row; plain JSON values where no codec is given."""
    return Run(
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
        disposition=disposition,
    )


def error_from_json(text: str | None) -> RunError | None:
    """A stored error."""
    return None if text is None else RunError(**load_json(text))


def progress_from_json(text: str | None) -> Progress | None:
    """A stored progress."""
    return None if text is None else Progress(**load_json(text))


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
