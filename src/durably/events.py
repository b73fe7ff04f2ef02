"""What happened, as typed values. A change of state and the event that tells of it are one act.

Journaled events carry ``sequence``, their number in the run's journal. Live ones (``run:progress``,
``step:start``, ``log:write`` without log persistence) carry None and are not kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar

from .models import LogLevel, Progress, RunError


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What all events tell."""

    type: ClassVar[str]
    is_final: ClassVar[bool] = False
    """True when the run is over with it."""

    run_id: str
    job: str
    labels: Mapping[str, str]
    timestamp: datetime
    sequence: int | None = None
    scope: str = ""
    """The run's scope, such as a tenant; '' is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunTrigger(Event):
    """A run was created."""

    type = "run:trigger"
    input: Any = None
    """Plain JSON; None in events of lists, and from a server that does not send it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCoalesced(Event):
    """A trigger with ``coalesce="skip"`` found that this run already waits. Live only."""

    type = "run:coalesced"
    skipped_input: Any = None
    """What the trigger gave, as plain JSON. (None in events of lists.)"""
    skipped_labels: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStart(Event):
    """A worker took the run up, for the first time or again."""

    type = "run:start"
    attempt: int
    input: Any = None
    """As ``RunTrigger.input``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunProgress(Event):
    """The job called ``step.progress``. Live only; the last one is kept with the run."""

    type = "run:progress"
    progress: Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class RunWait(Event):
    """The run went to sleep."""

    type = "run:wait"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRelease(Event):
    """A stopping worker handed the run back."""

    type = "run:release"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunComplete(Event):
    """The job returned."""

    type = "run:complete"
    is_final = True
    output: Any
    duration: float
    """Seconds since the run was first started."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFail(Event):
    """The job raised."""

    type = "run:fail"
    is_final = True
    error: RunError

    @property
    def failed_step_name(self) -> str | None:
        """The step that raised, if one did."""
        return self.error.step


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCancel(Event):
    """Somebody cancelled the run."""

    type = "run:cancel"
    is_final = True


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRetry(Event):
    """A failed or cancelled run went back to pending, with its checkpoints."""

    type = "run:retry"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunDelete(Event):
    """The run and all that was kept of it are gone."""

    type = "run:delete"
    is_final = True


@dataclass(frozen=True, slots=True, kw_only=True)
class _StepEvent(Event):
    step_name: str
    step_index: int
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StepStart(_StepEvent):
    """A step's function is about to be called. Live only."""

    type = "step:start"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepComplete(_StepEvent):
    """A step's result is committed."""

    type = "step:complete"
    output: Any
    duration: float
    """Seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFail(_StepEvent):
    """A step raised, after all its retries."""

    type = "step:fail"
    error: RunError


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCancel(_StepEvent):
    """A step that had started came to nothing: its run was stopped, or the job cancelled it. Live only."""

    type = "step:cancel"


@dataclass(frozen=True, slots=True, kw_only=True)
class LogWrite(Event):
    """The job logged a line."""

    type = "log:write"
    step_name: str | None
    level: LogLevel
    message: str
    data: Any


AnyEvent = (
    RunTrigger
    | RunCoalesced
    | RunStart
    | RunProgress
    | RunWait
    | RunRelease
    | RunComplete
    | RunFail
    | RunCancel
    | RunRetry
    | RunDelete
    | StepStart
    | StepComplete
    | StepFail
    | StepCancel
    | LogWrite
)


@dataclass(frozen=True, slots=True)
class Resync:
    """Not an event of a run: a watcher of many runs was too slow or away. Read the list again."""

    type: ClassVar[str] = "runs:resync"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerError:
    """Not an event of a run: a listener, or what works in the background, raised. It goes to this
    instance's listeners only: no journal and no stream has it."""

    type: ClassVar[str] = "worker:error"
    where: str
    """What raised: ``listener``, ``claim``, ``settle``, ``heartbeat``, ``purge`` or ``upkeep``."""
    error: BaseException
    run_id: str | None = None
    """The run that it was about, if it was about one."""


EVENT_TYPES: Mapping[str, type[AnyEvent]] = {
    cls.type: cls
    for cls in (
        RunTrigger,
        RunCoalesced,
        RunStart,
        RunProgress,
        RunWait,
        RunRelease,
        RunComplete,
        RunFail,
        RunCancel,
        RunRetry,
        RunDelete,
        StepStart,
        StepComplete,
        StepFail,
        StepCancel,
        LogWrite,
    )
}
