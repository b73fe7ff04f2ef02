"""One attempt at a run, in stages: load its checkpoints, call the job, settle the outcome.

Read ``execute`` first, then ``_run``: they are the whole story. Each part of it has a module:

- ``attempt``: the lease, the fence, the interrupt
- ``body``: the job's function and what it started
- ``ledger``: what is known of each step
- ``steps``: what ``step.run`` does; ``tries``: the tries of one step
- ``report``: events, progress and log lines
- ``settle``: writes the outcome

Outcomes are values; faults are exceptions; what must stop the run here (its lease is lost, it was
cancelled, or is handed back) is an ``Interrupt``.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable
from typing import Generic

from .. import events
from ..errors import (
    ClosedError,
    Interrupt,
    InvalidInputError,
    InvalidOutputError,
    LeaseLost,
    UnawaitedStepError,
)
from ..jobs.job import Job
from ..models import I, O, RunError
from ..store.records import Claimed
from ..telemetry.logs import CURRENT_RUN
from ..values.codec import Kept, Unstorable
from ..values.text import load_json
from .attempt import EXECUTING, Attempt
from .body import Body
from .context import WorkerContext
from .failure import error_info
from .ledger import Ledger
from .report import Reporter
from .settle import Completed, Failed, Outcome, Released, Settler, outcome_of_interrupt
from .steps import Steps


class Execution(Generic[I, O]):
    """Executes one claimed run."""

    def __init__(self, context: WorkerContext, job: Job[I, O], claimed: Claimed) -> None:
        self._context, self._job, self._claimed = context, job, claimed
        attempt = self.attempt = Attempt(context, claimed)
        self._reporter = Reporter(attempt)
        self._body = Body(attempt)
        self._ledger = Ledger(attempt)
        self._steps = Steps(attempt, self._body, self._ledger, self._reporter)
        self._settler = Settler(attempt, self._body, self._ledger, self._reporter)
        self.settled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done once the outcome is written, or cannot be; functions in threads may still run."""
        self.shutdown: KeyboardInterrupt | None = None
        """A KeyboardInterrupt that the job's code got: the process must end, after the hand-back."""

    @property
    def run_id(self) -> str:
        return self.attempt.run_id

    @property
    def is_suspect(self) -> bool:
        """Whether the run may be what killed earlier workers: until it commits a step."""
        return self.attempt.was_suspect and not self._ledger.committed

    # -- the stages

    async def execute(self, on_body_end: Callable[[], None]) -> None:
        """Run the job from its checkpoints and settle its outcome. Raises nothing.

        ``on_body_end`` is called once no code of the run executes any more.
        """
        self._begin()
        outcome = await self._run()
        body_has_ended = self._close()
        if body_has_ended:
            on_body_end()
        is_settled = await self._settler.settle(outcome)
        self.settled.set_result(None)
        self._context.progress.pop(self.run_id, None)
        if not body_has_ended:
            await self._body.wait_until_ended()
            on_body_end()
        if not (is_settled and body_has_ended):
            await self._let_go()

    def _begin(self) -> None:
        self._body.begin()
        CURRENT_RUN.set(self.attempt.log.fields)
        self.attempt.log_start(lapsed=self._claimed.lapsed)
        if self._reporter.has_listeners:
            row = self.attempt.row
            details = {"attempt": self.attempt.number, "input": load_json(row.input)}
            self._reporter.publish(events.RunStart, row.updated_at, self._claimed.seq, **details)

    async def _run(self) -> Outcome:
        """Load, call, encode; whatever is raised becomes an outcome."""
        attempt = self.attempt
        if attempt.interrupt is not None:  # stopped between the claim and our first tick
            return outcome_of_interrupt(attempt.interrupt)
        if attempt.row.recoveries > self._context.max_recoveries:
            return Failed(self._poisoned())
        try:
            if self._claimed.resumed:
                await self._ledger.load()
            EXECUTING.set(attempt)
            value = await self._body.call(self._job, self._steps, self._read_input())
            self._require_all_awaited()
            kept = self._encode_output(value)
        except BaseException as error:
            if isinstance(error, GeneratorExit) and not self._body.is_own_task:
                raise  # the task is being destroyed with its event loop
            self._note_unawaited(error)
            return self._outcome_of(error)
        if attempt.interrupt is not None:
            return outcome_of_interrupt(attempt.interrupt)
        self._warn_of_unused_checkpoints()
        return Completed(kept.text)

    def _close(self) -> bool:
        """No step begins any more, and nothing is reported. True if no code of the run executes."""
        self.attempt.is_closed = True
        self._body.cancel_steps()
        self._reporter.close()
        return not self._body.is_running

    async def _let_go(self) -> None:
        """The run is settled and its body has ended, later: nothing holds it or its key any longer."""
        if isinstance(self.attempt.interrupt, LeaseLost):
            return
        try:
            await self._context.store.let_go(self.attempt.lease, self._context.runtime.now())
        except ClosedError as error:  # the hold ends by itself, as a lease does
            self.attempt.log(logging.DEBUG, " is held until its lease ends: %s", error)
        except Exception as error:  # noqa: BLE001 - whatever it is, the worker counts on the task's end
            self.attempt.log(logging.WARNING, " is held until its lease ends: %s", error)
            self._context.report_error("settle", error, self.run_id)

    # -- from outside

    def stop(self, interrupt: Interrupt) -> None:
        """Interrupt the run: what it awaits is cancelled, and no further step begins."""
        self._body.stop(interrupt)

    async def hand_back(self) -> None:
        """Give the run back though its body does not end: it is held for as long as its lease."""
        if not self._settler.has_begun:
            self.attempt.log(
                logging.WARNING,
                ", %s, does not end when cancelled; it is handed back, and another worker takes it "
                "when its lease ends", self._steps.position,
            )  # fmt: skip
            await self._settler.settle(Released())

    def announce(self) -> None:
        """Log and print where the run is, for a person who waits."""
        self.attempt.log.announce(" is %s", self._steps.position)

    # -- input and output

    def _read_input(self) -> I:
        try:
            return self._job.input.decode(self.attempt.row.input)
        except Unstorable as problem:
            raise InvalidInputError(
                f"the stored input of {self.attempt.description} does not fit job {self._job.name!r} any "
                f"more: {problem}",
                path=problem.path,
            ) from None

    def _encode_output(self, value: O) -> Kept[O]:
        if inspect.isawaitable(value):
            self._refuse_awaitable(value)
        try:
            kept = self._job.output.keep(value)
        except Unstorable as problem:
            raise InvalidOutputError(
                f"{self.attempt.description} returned {problem.problem} at {problem.path}, which does not "
                f"fit job {self._job.name!r}'s return annotation or cannot be kept as JSON",
                path=problem.path,
            ) from None
        self.attempt.check_size(kept.text, "the output", InvalidOutputError)
        return kept

    def _refuse_awaitable(self, value: object) -> None:
        """A function that calls an ``async def`` and returns its coroutine has done nothing yet."""
        if inspect.iscoroutine(value):
            value.close()
        how = "make the job 'async def' and await it" if self._job.is_sync else "await it"
        raise InvalidOutputError(
            f"{self.attempt.description} returned a {type(value).__name__}, which is not awaited; {how}"
        )

    # -- outcomes

    def _outcome_of(self, error: BaseException) -> Outcome:
        if self.attempt.interrupt is not None:
            return outcome_of_interrupt(self.attempt.interrupt)
        if isinstance(error, KeyboardInterrupt):
            self.shutdown = error
            return Released()
        if isinstance(error, Interrupt):
            return outcome_of_interrupt(error)
        if isinstance(error, asyncio.CancelledError) and self._body.is_cancelled:
            return Released()  # the event loop is shutting down
        return Failed(error_info(error, self._ledger.step_of(error)), error)

    def _require_all_awaited(self) -> None:
        if (name := self._body.discard_unawaited()) is not None:
            raise UnawaitedStepError(
                f"step {name!r} of {self.attempt.description} did not run, for it was never awaited; write "
                f"'await step.run({name!r}, ...)', and await every task before the job returns"
            )

    def _note_unawaited(self, error: BaseException) -> None:
        """A step that was never awaited may be why the job failed."""
        if (name := self._body.discard_unawaited()) is not None:
            error.add_note(
                f"step {name!r} did not run, for it was never awaited; write 'await step.run({name!r}, ...)'"
            )

    def _poisoned(self) -> RunError:
        deaths = self.attempt.row.recoveries
        return RunError(
            "poisoned",
            f"{self.attempt.description} was taken over {deaths} times from workers that died or hung "
            f"without committing a step (max_recoveries is {self._context.max_recoveries}); find out what "
            "kills them, then retry it",
        )

    def _warn_of_unused_checkpoints(self) -> None:
        if unused := self._ledger.unused:
            self.attempt.log(
                logging.WARNING,
                " completed without using its checkpoints %s: were steps renamed or removed?",
                sorted(unused),
            )
