"""What a job's step needs of its surroundings, and what it hands to them.

A ``Step`` knows no worker: it makes a ``StepCall`` of what the job wrote and gives it to a
``StepRunner``. The worker implements the runner.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol

from ..errors import Interrupt
from ..models import LogLevel
from ..runtime import Seconds
from .retry import Retry

Send = Callable[[Callable[..., Any], tuple[Any, ...]], Awaitable[Any]]
"""Calls a function with arguments in another place, such as the thread of a plain job."""


@dataclass(frozen=True, slots=True)
class StepCall:
    """A call of ``step.run`` or ``step.transaction``, as the job wrote it: nothing is checked yet."""

    name: str
    fn: Callable[..., Any]
    args: tuple[Any, ...]
    returns: Any
    retries: int | Retry
    timeout: Seconds | None = None
    in_transaction: bool = False
    send: Send | None = None
    """Runs the function where the job's body is; None lets the runner choose the place."""


class StepRunner(Protocol):
    """Runs the steps of one attempt at a run."""

    @property
    def run_id(self) -> str:
        """The id of the run."""
        ...

    @property
    def attempt(self) -> int:
        """The number of the attempt, from 1."""
        ...

    @property
    def interrupt(self) -> Interrupt | None:
        """Why the run must stop here; None while it may go on."""
        ...

    @property
    def has_threads(self) -> bool:
        """Whether plain functions run in threads; they do not in a browser."""
        ...

    def run_step(self, call: StepCall) -> Coroutine[Any, Any, Any]:
        """Return the step's result from its checkpoint, or run and commit it."""
        ...

    def track(self, name: str, call: Coroutine[Any, Any, Any]) -> Coroutine[Any, Any, Any]:
        """Remember the coroutine of an async job's step, to report one that is never awaited."""
        ...

    def start_task(
        self, coroutine: Coroutine[Any, Any, None], on_end: Callable[[object], None]
    ) -> None:
        """Run a plain job's step on the event loop; call ``on_end`` however it ends."""
        ...

    def write_log(self, level: LogLevel, message: str, data: Any) -> None:
        """Publish a log line of the run, and store it where log lines are kept."""
        ...

    def report_progress(self, current: float, total: float | None, message: str | None) -> None:
        """Publish the run's progress, and store it from time to time."""
        ...
