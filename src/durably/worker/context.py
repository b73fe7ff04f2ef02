"""What the executions of one worker share."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field

from ..events import AnyEvent
from ..models import Progress
from ..runtime import Runtime
from ..store.base import Store
from ..telemetry.instruments import Instruments
from ..threads import Threads

TRANSACTION_STORE: ContextVar[Store | None] = ContextVar("durably_transaction_store", default=None)
"""The store in whose transaction a step's function runs: on SQLite, in the only thread that writes."""


@dataclass(slots=True)
class WorkerContext:
    """The store, the threads, the listeners and the limits that executions use."""

    runtime: Runtime
    store: Store
    has_listeners: Callable[[str], bool]
    """Whether the events of a run have subscribers."""
    publish: Callable[[AnyEvent], None]
    report_error: Callable[[str, BaseException, str | None], None]
    """Reports an error of the background: where it was raised, the error, and the id of its run."""
    max_recoveries: int
    max_output: int
    """Characters of JSON that the output of a run, or the result of a step, may have."""
    instruments: Instruments
    keep_logs: bool = False
    """Whether log lines are stored."""
    keep_steps: bool = True
    """Whether the results of a completed run's steps are kept."""
    step_threads: Threads | None = None
    job_threads: Threads | None = None
    stopping: bool = False
    """Whether this process is stopping: the signal may also be why a step fails from now on."""
    progress: dict[str, Progress] = field(default_factory=dict[str, Progress])
    """The progress of the runs that execute here, newer than what the database has."""
