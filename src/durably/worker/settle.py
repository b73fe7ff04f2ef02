"""The end of an attempt: its outcome, written in one transition, then counted, published and logged.

Outcomes are values. The store refuses the transition when this worker no longer holds the run; then nothing is
published, and the log has the reason.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from .. import events
from ..errors import DurablyError, HandedBack, Interrupt, LeaseLost, RunCancelled
from ..models import RunError
from ..state import COMPLETE, FAIL, RELEASE, Transition
from ..store.records import RunRow, Settlement
from ..telemetry.logs import count, format_duration, one_line, runs_logger
from ..values.text import load_json
from .attempt import Attempt
from .body import Body
from .failure import error_to_json
from .ledger import Ledger
from .report import Reporter


@dataclass(frozen=True, slots=True)
class Completed:
    """The job returned; ``output`` is the JSON to store."""

    output: str


@dataclass(frozen=True, slots=True)
class Failed:
    """The job raised."""

    error: RunError
    raised: BaseException | None = None


@dataclass(frozen=True, slots=True)
class Released:
    """This worker stops; the run goes back."""


@dataclass(frozen=True, slots=True)
class Gone:
    """The run was cancelled, or another worker holds it: there is nothing for us to write."""


Outcome = Completed | Failed | Released | Gone


def outcome_of_interrupt(interrupt: Interrupt) -> Outcome:
    """What becomes of a run that is interrupted."""
    return Released() if isinstance(interrupt, HandedBack) else Gone()


class Settler:
    """Writes the outcome of one attempt, once."""

    def __init__(self, attempt: Attempt, body: Body, ledger: Ledger, reporter: Reporter) -> None:
        self._attempt, self._body, self._ledger = attempt, body, ledger
        self._reporter = reporter
        self._context = attempt.context
        self.has_begun = False

    async def settle(self, outcome: Outcome) -> bool:
        """Write the outcome; False if the run was cancelled or taken over first. Raises nothing."""
        if self.has_begun:  # handed back before its body ended
            return False
        self.has_begun = True
        try:
            return await self._write(outcome, self._context.runtime.now())
        except LeaseLost:
            await self._log_refusal()
        except Exception as error:  # noqa: BLE001 - whatever it is: the task must end, for the worker to count on it
            fault = None if isinstance(error, DurablyError) else error
            text = " could not be settled: %s"
            self._attempt.log(logging.ERROR, text, one_line(str(error)), error=fault)
            self._context.report_error("settle", error, self._attempt.run_id)
        return False

    async def _write(self, outcome: Outcome, now: int) -> bool:
        match outcome:
            case Completed(output):
                forgets = not self._context.keep_steps
                new = Settlement(now, output=output, forget_steps=forgets)
                row, seq = await self._move(COMPLETE, new)
                self._context.instruments.run_ended(row.job, "completed")
                self._publish_completion(row, seq, output)
                self._log_end(logging.INFO, "completed", "completed")
            case Failed(error, raised):
                row, seq = await self._move(FAIL, Settlement(now, error=error_to_json(error)))
                self._context.instruments.run_ended(row.job, "failed")
                self._reporter.publish(events.RunFail, row.updated_at, seq, error=error)
                self._log_failure(error, raised)
            case Released():
                row, seq = await self._move(RELEASE, Settlement(now))
                self._reporter.publish(events.RunRelease, row.updated_at, seq)
                self._log_end(logging.INFO, "pending", "was handed back")
            case Gone():
                self._log_loss(self._attempt.interrupt)
                return False
        return True

    async def _move(self, transition: Transition, settlement: Settlement) -> tuple[RunRow, int]:
        wakes = self._attempt.row.concurrency_key is not None or transition is RELEASE
        settlement = settlement._replace(
            progress=self._reporter.last_progress,
            wakes=wakes,
            body_runs=not self._attempt.is_closed or self._body.is_running,
        )
        return await self._context.store.settle(self._attempt.lease, transition, settlement)

    def _publish_completion(self, row: RunRow, seq: int, output: str) -> None:
        now = row.updated_at
        duration = (now - (row.started_at or now)) / 1000
        if self._reporter.has_listeners:
            self._reporter.publish(
                events.RunComplete, now, seq, output=load_json(output), duration=duration
            )

    # -- the log

    async def _log_refusal(self) -> None:
        """The outcome was refused: log why the run is not ours."""
        try:
            self._log_loss(self._attempt.interrupt or await self._attempt.why_lost())
        except Exception as error:  # noqa: BLE001 - it is only the reason
            self._log_loss(LeaseLost(f"the reason cannot be read from the database: {error}"))

    def _log_loss(self, interrupt: Interrupt | None) -> None:
        if isinstance(interrupt, RunCancelled):
            self._log_end(logging.INFO, "cancelled", "was cancelled")
        else:
            self._context.instruments.lease_lost(self._attempt.job_name)
            self._log_end(logging.WARNING, "lost", "was lost", interrupt)

    def _log_failure(self, error: RunError, raised: BaseException | None) -> None:
        verb = "failed" if error.step is None else f"failed in step {error.step!r}"
        fields = {"step": error.step, "error_type": error.type, "error": raised}
        fields["traceback"] = error.traceback
        self._log_end(logging.ERROR, "failed", verb, one_line(str(error)), **fields)

    def _log_end(
        self, level: int, status: str, verb: str, why: object = None, **fields: Any
    ) -> None:
        """Log the end of this attempt, with its duration and how many steps it has."""
        if not runs_logger.isEnabledFor(level):
            return
        duration = self._context.runtime.monotonic() - self._attempt.began
        replayed = self._ledger.replayed
        steps = self._ledger.committed + replayed
        done = count(steps, "step") + (f", {replayed:,} from checkpoints" if replayed else "")
        fields = {"status": status, "duration": round(duration, 3), "steps": steps, **fields}
        text, args = " %s after %s (%s)", (verb, format_duration(duration), done)
        if why is None:
            self._attempt.log(level, text, *args, **fields)
        else:
            self._attempt.log(level, text + ": %s", *args, why, **fields)
