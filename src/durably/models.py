"""What users see of a run: frozen snapshots, and the row they are made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, Literal

from typing_extensions import TypeVar

from .display import html_table, short_repr
from .state import Status

I = TypeVar("I", default=Any)  # noqa: E741 - input, as everywhere in this house
O = TypeVar("O", default=Any)  # noqa: E741 - output

LogLevel = Literal["debug", "info", "warning", "error"]

Disposition = Literal["created", "idempotent", "coalesced"]
"""What a trigger came to: a new run, the run that has its idempotency key, or one that waits already."""


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
