"""One attempt at a run: who may write to it, for how long, and until when its body may go on.

Three things end an attempt before the job returns, and each is checked in its own way:

- *The fence.* The database holds a token for each run that executes, and refuses every write that carries
  another. It alone decides who may write; when it refuses, ``fenced`` finds out why.
- *The lease.* It lasts for its duration from the last renewal. Two clocks measure that, as a suspended
  machine stops one and a correction moves the other. An attempt that may have outslept its lease confirms
  it before it begins anything: the fence refuses its writes anyway, but not what a step does elsewhere.
- *The interrupt.* This process wants the body to stop: the run was cancelled, its lease was lost, or it is
  handed back. Once set it stays, and no further step begins.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable
from contextvars import ContextVar
from typing import TypeVar

from ..errors import (
    DurablyError,
    Interrupt,
    InvalidOutputError,
    LeaseLost,
    RunCancelled,
    StepValueError,
)
from ..state import Status
from ..store.records import SUSPECT, Claimed, Entry
from ..telemetry.logs import RunLog
from .context import WorkerContext

R = TypeVar("R")

EXECUTING: ContextVar[Attempt | None] = ContextVar("durably_executing", default=None)
"""The attempt whose job's code this is."""


class Attempt:
    """The lease of a run, as one execution holds it."""

    def __init__(self, context: WorkerContext, claimed: Claimed) -> None:
        row = claimed.row
        self.context, self.row, self.lease = context, row, claimed.lease
        self.log = RunLog(row.id, row.job, row.generation, row.lease_owner or "", row.scope)
        self.interrupt: Interrupt | None = None
        self.is_closed = False
        """Whether the job has returned or raised: no step begins any more."""
        self.began = context.runtime.monotonic()
        self._held_until = (0, 0.0)
        self.renewed(claimed.asked_at, self.began)

    @property
    def run_id(self) -> str:
        return self.row.id

    @property
    def job_name(self) -> str:
        return self.row.job

    @property
    def number(self) -> int:
        """1 for the first attempt at the run."""
        return self.row.generation

    @property
    def is_ours(self) -> bool:
        """Whether the job's body is to go on here."""
        return self.interrupt is None and not self.is_closed

    @property
    def was_suspect(self) -> bool:
        """Whether the run may be what killed the workers that had it before."""
        return self.row.recoveries >= SUSPECT

    @property
    def description(self) -> str:
        """The run's id and job, for messages."""
        return f"run {self.run_id} ({self.row.job})"

    def log_start(self, *, lapsed: bool) -> None:
        """Log that the attempt begins; ``lapsed``: another worker let its lease lapse."""
        if lapsed:
            text = " was taken over from a worker that died or stopped responding (attempt %d)"
            self.log(logging.WARNING, text, self.number)
        elif self.number > 1:
            self.log(logging.INFO, " resumed (attempt %d)", self.number)
        else:
            self.log(logging.INFO, " started")

    # -- the lease

    def renewed(self, now: int, monotonic: float) -> None:
        """The lease was renewed by a request made at these times."""
        self._held_until = now + self.lease.duration, monotonic + self.lease.duration / 1000

    @property
    def may_have_lapsed(self) -> bool:
        """Whether the lease has ended by either clock, unless it was renewed without our knowledge."""
        runtime, (wall, monotonic) = self.context.runtime, self._held_until
        return runtime.now() >= wall or runtime.monotonic() >= monotonic

    async def confirm_lease(self) -> None:
        """Renew a lease that may have lapsed (a stopped process, a closed laptop), or raise why it is lost.

        Without this, a worker that wakes up would begin a step that another has committed meanwhile.
        """
        now, monotonic = self.context.runtime.now(), self.context.runtime.monotonic()
        if not await self.context.store.holds(self.lease, now):
            self.interrupt = self.interrupt or await self.why_lost()
        if self.interrupt is not None:
            raise self.interrupt
        self.renewed(now, monotonic)

    async def why_lost(self) -> Interrupt:
        """After a refused write: whether the run was cancelled, or another worker holds it."""
        row = await self.context.store.run(self.run_id)
        # It is cancelled, or it was and has been retried since: no other worker had it in between.
        if row is not None and row.lease_token == self.lease.token and row.status != Status.RUNNING:
            return RunCancelled(f"{self.description} was cancelled")
        return LeaseLost(f"another worker holds {self.description} now")

    # -- the fence

    async def fenced(self, write: Awaitable[R]) -> R:
        """Await a write under the lease; raise the interrupt if the lease is lost."""
        try:
            return await write
        except LeaseLost:
            if self.interrupt is None:
                self.interrupt = await self.why_lost()
            raise self.interrupt from None

    async def record(self, entry: Entry, *, again: bool = False) -> int:
        """Append a record to the run's journal; return its number."""
        return await self.fenced(self.context.store.record(self.lease, entry, again=again))

    # -- what may begin, and be kept

    def require_open(self, name: str) -> None:
        """Raise if the step ``name`` must not begin, or not be tried again."""
        if self.interrupt is not None:
            raise self.interrupt
        if self.is_closed:
            raise DurablyError(
                f"step {name!r} was started after {self.description} ended, by a task left behind; "
                "await every task before the job returns"
            )

    def check_size(
        self, text: str, what: str, kind: type[StepValueError | InvalidOutputError]
    ) -> None:
        """Raise ``kind`` if the JSON of a result is too large to keep."""
        if len(text) > self.context.max_output:
            raise kind(
                f"{what} of {self.description} has {len(text):,} bytes, over the limit of "
                f"{self.context.max_output:,} (max_output_bytes); keep it elsewhere and return a "
                "reference to it"
            )
