"""What a trigger takes, and the errors of an input that does not fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypedDict

from ..errors import InvalidInputError
from ..events import AnyEvent, LogWrite, RunProgress
from ..models import I, Progress
from ..runtime import Seconds
from ..values.codec import Unstorable
from .job import (
    Job,
)


@dataclass(frozen=True, slots=True)
class Trigger(Generic[I]):
    """One item of ``batch_trigger`` with options of its own."""

    input: I
    idempotency_key: str | None = None
    concurrency_key: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    scope: str = ""
    coalesce: Literal["skip"] | None = None


class ClientTriggerOptions(TypedDict, total=False):
    """What a trigger takes beside its input, of those who trigger over HTTP as well."""

    idempotency_key: str | None
    concurrency_key: str | None
    coalesce: Literal["skip"] | None
    labels: Mapping[str, str] | None


class TriggerOptions(ClientTriggerOptions, total=False):
    """What ``trigger`` takes beside an input."""

    scope: str
    connection: Any


class ClientWaitOptions(ClientTriggerOptions, total=False):
    """What ``trigger_and_wait`` of a client takes beside an input."""

    timeout: Seconds | None
    on_progress: Callable[[Progress], object] | None
    on_log: Callable[[LogWrite], object] | None


class WaitOptions(ClientWaitOptions, total=False):
    """What ``trigger_and_wait`` takes beside an input."""

    scope: str


def missing_input(job: Job[Any, Any], how: str) -> InvalidInputError:
    """The error for a run without an input that its job needs; ``how`` to give it."""
    return InvalidInputError(
        f"job {job.name!r} needs an input for its parameter {job.parameter!r}; {how}"
    )


def bad_input(job: Job[Any, Any], problem: Unstorable) -> InvalidInputError:
    """The error for an input that does not fit its job."""
    return InvalidInputError(f"the input of job {job.name!r}: {problem}", path=problem.path)


def call_for_event(
    event: AnyEvent,
    on_progress: Callable[[Progress], object] | None,
    on_log: Callable[[LogWrite], object] | None,
) -> None:
    """Call what ``wait`` was given for an event of its run."""
    if on_progress is not None and isinstance(event, RunProgress):
        on_progress(event.progress)
    elif on_log is not None and isinstance(event, LogWrite):
        on_log(event)
