"""What the executions of one worker share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from .events import AnyEvent
from .metrics import Metrics
from .models import Progress
from .runtime import Runtime
from .store.base import Store
from .threads import Threads


@dataclass(slots=True)
class Engine:
    """The surroundings of an execution: the store, the threads, who listens, the limits."""

    runtime: Runtime
    store: Store
    wanted: Callable[[str], bool]
    """Whether anybody wants to hear of a run's events."""
    publish: Callable[[AnyEvent], None]
    max_recoveries: int
    max_output: int
    metrics: Metrics
    keep_logs: bool = False
    step_threads: Threads | None = None
    job_threads: Threads | None = None
    progress: dict[str, Progress] = field(default_factory=dict[str, Progress])
    """How far the runs are that go on here, before the database knows it."""
