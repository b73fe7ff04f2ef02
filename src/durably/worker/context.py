"""What the executions of one worker share."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field

from ..events import AnyEvent
from ..models import Progress
from ..runtime import Runtime
from ..store.base import Store
from ..telemetry.metrics import Metrics
from ..threads import Threads

LENT: ContextVar[Store | None] = ContextVar("durably_lent", default=None)
"""The store whose connection a step's function has: on SQLite, in the only thread that writes."""


@dataclass(slots=True)
class Engine:
    """The surroundings of an execution: the store, the threads, who listens, the limits."""

    runtime: Runtime
    store: Store
    wanted: Callable[[str], bool]
    """Whether anybody wants to hear of a run's events."""
    publish: Callable[[AnyEvent], None]
    raised: Callable[[str, BaseException, str | None], None]
    """Passes on what was raised in the background: where, what, and of which run."""
    max_recoveries: int
    max_output: int
    metrics: Metrics
    keep_logs: bool = False
    keep_steps: bool = True
    """Whether the results of a completed run's steps are kept."""
    step_threads: Threads | None = None
    job_threads: Threads | None = None
    stopping: bool = False
    """Whether this process has been told to stop: a step that fails from now on may have been, too."""
    progress: dict[str, Progress] = field(default_factory=dict[str, Progress])
    """How far the runs are that go on here, before the database knows it."""
