"""Helpers of the client: inputs as JSON, runs that are waited for, and how they ended."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, Generic

from ..errors import (
    InvalidInputError,
    RunCancelledError,
    RunFailedError,
    WaitTimeoutError,
)
from ..events import AnyEvent, RunProgress
from ..jobs.job import NO_INPUT, Job
from ..jobs.trigger import bad_input, missing_input
from ..models import CompletedRun, I, O, Run
from ..options import text
from ..state import Status
from ..terminal import Show
from ..values.codec import PLAIN, Unstorable
from ..values.text import load_json
from .connection import Connection
from .errors import ServerError, ServerUnavailableError
from .server import Server

_LAST_READ = 2.0  # seconds to read a run once more when waiting for it took too long


class Waiting(Generic[I, O]):
    """A run that is waited for, as it was last read."""

    def __init__(self, run: Run[I, O] | str, job: Job[Any, Any] | None) -> None:
        self.run_id = run.id if isinstance(run, Run) else text("run_id", run)
        self.seen: Run[I, O] | None = run if isinstance(run, Run) else None
        self.job = job

    async def read_after_timeout(
        self, server: Server, connection: Connection, waited: float
    ) -> None:
        """Read the run after a timeout: it may have finished in time."""
        if not connection.disconnected:
            with suppress(TimeoutError, ServerError):
                async with asyncio.timeout(_LAST_READ):
                    self.seen = await server.run(self.run_id, self.job)
        if self.seen is None:
            url = connection.url
            message = f"no answer from {url} about run {self.run_id} within {waited:g} s"
            raise ServerUnavailableError(message, url=url)
        if not self.seen.is_final:
            late = f"run {self.run_id} is still {self.seen.status} after {waited:g} s"
            raise WaitTimeoutError(late, self.seen)


def encode_input(name: str, job: Job[Any, Any] | None, input: Any) -> Any:
    """Encode an input as JSON: by its job, or as plain JSON if only the name of the job is known."""
    if input is NO_INPUT:
        if job is not None and job.default is not None:
            return load_json(job.default)
        if job is not None and job.takes_input:
            raise missing_input(job, "pass one, or give the parameter a default")
        input = None
    try:
        if job is not None:
            return load_json(job.input.accept(input).text)
        return load_json(PLAIN.accept(input).text)
    except Unstorable as problem:
        if job is not None:
            raise bad_input(job, problem) from None
        text = f"the input of job {name!r}: {problem}; pass the Job instead of its name for typed inputs"
        raise InvalidInputError(text, path=problem.path) from None


def completed_or_raise(run: Run[I, O]) -> CompletedRun[I, O]:
    """Return a completed run; raise, for another final status, what ``wait`` raises."""
    if run.status == Status.FAILED:
        raise RunFailedError(f"run {run.id} ({run.job}) failed: {run.error}", run)
    if run.status == Status.CANCELLED:
        raise RunCancelledError(f"run {run.id} ({run.job}) was cancelled", run)
    assert isinstance(run, CompletedRun)
    return run


def draw_progress(event: AnyEvent, draw: Show) -> None:
    if isinstance(event, RunProgress):
        draw(event.progress)
