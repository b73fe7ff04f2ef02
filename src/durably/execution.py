"""One attempt at a run: load its checkpoints, call the job, settle the outcome.

Read ``execute`` first: it is the whole story in four lines. Outcomes are values; faults are
exceptions; what must stop the run here (lease lost, cancelled, handed back) is an ``Interrupt``.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

from . import events
from .codec import (
    Codec,
    Kept,
    Unstorable,
    check_name,
    codec_for,
    codec_of_returns,
    load_json,
)
from .engine import Engine
from .errors import (
    ConfigurationError,
    DuplicateStepError,
    DurablyError,
    HandedBack,
    Interrupt,
    InvalidInputError,
    InvalidOutputError,
    LeaseLost,
    RunCancelled,
    StepFailedError,
    StepTimeoutError,
    StepValueError,
)
from .failure import describe, error_to_json
from .job import Job
from .models import I, O, RunError, RunRow
from .report import CURRENT_STEP, Reporter
from .runtime import Seconds, seconds
from .state import COMPLETE, FAIL, RELEASE, Status, Transition
from .step import Retry, Step, SyncStep
from .store.base import SUSPECT, Checkpoint, Claimed, Entry, Settlement
from .threads import run_body

R = TypeVar("R")
logger = logging.getLogger("durably")

_NO_RETRY = Retry(0)


@dataclass(frozen=True, slots=True)
class Completed:
    """The job returned; ``output`` is the text to keep."""

    output: str


@dataclass(frozen=True, slots=True)
class Failed:
    """The job raised."""

    error: RunError


@dataclass(frozen=True, slots=True)
class Released:
    """This worker stops; the run goes back."""


@dataclass(frozen=True, slots=True)
class Gone:
    """Cancelled, or somebody else's by now: there is nothing for us to write."""


Outcome = Completed | Failed | Released | Gone


class Execution(Generic[I, O]):
    """An attempt at a run, and all that its ``Step`` does."""

    def __init__(self, engine: Engine, job: Job[I, O], claimed: Claimed) -> None:
        self._engine = engine
        self._job = job
        self._row, self.lease = claimed.row, claimed.lease
        self._claimed = claimed
        self._checkpoints: dict[str, Checkpoint] = {}
        self._indexes: dict[str, int] = {}
        self._failed_steps: set[str] = set()
        self._failures: list[tuple[BaseException, str]] = []
        self._held_until = (0, 0.0)
        self.renewed(claimed.asked_at, engine.runtime.monotonic())
        self._closed = self._has_committed = False
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[Any] | None = None
        self.interrupt: Interrupt | None = None
        self.report = Reporter(
            engine, claimed.row, claimed.lease, self._named(), lambda: self.interrupt is not None
        )
        self.shutdown: KeyboardInterrupt | None = None
        """A KeyboardInterrupt that a step met: the process is to end, after the hand-back."""

    @property
    def run_id(self) -> str:
        return self._row.id

    @property
    def attempt(self) -> int:
        return self._row.generation

    @property
    def is_over(self) -> bool:
        """True once the job's body ended; what is left is to write the outcome."""
        return self._closed

    @property
    def was_suspect(self) -> bool:
        """Whether it may be what killed the workers that had it before."""
        return self._row.recoveries >= SUSPECT

    @property
    def is_suspect(self) -> bool:
        """The same, until it commits a step."""
        return self.was_suspect and not self._has_committed

    @property
    def has_threads(self) -> bool:
        return self._engine.step_threads is not None

    # -- the stages

    async def execute(self, body_done: Callable[[], None]) -> None:
        """Run the job from its checkpoints and settle what came of it. Raises nothing."""
        self._task = asyncio.current_task()
        self.report.tell(
            events.RunStart, self._row.updated_at, self._claimed.seq, attempt=self.attempt
        )
        outcome = await self._outcome()
        self._closed = True
        self.report.close()
        body_done()
        await self.settle(outcome)
        self._engine.progress.pop(self.run_id, None)

    async def _outcome(self) -> Outcome:
        if self.interrupt is not None:  # stopped between the claim and our first tick
            return self._interrupted(self.interrupt)
        if self._row.recoveries > self._engine.max_recoveries:
            return Failed(self._poisoned())
        try:
            if self._claimed.resumed:
                self._checkpoints = await self._engine.store.checkpoints(self.run_id)
            kept = self._keep_output(await self._call(self._read_input()))
        except BaseException as error:
            if isinstance(error, GeneratorExit) and _current_task() is not self._task:
                raise  # the task is being destroyed with its event loop
            return self._outcome_of(error)
        if self.interrupt is not None:
            return self._interrupted(self.interrupt)
        self._warn_of_orphans()
        return Completed(kept.text)

    def _read_input(self) -> I:
        try:
            return self._job.input.decode(self._row.input)
        except Unstorable as problem:
            raise InvalidInputError(
                f"the stored input of {self._named()} does not fit job {self._job.name!r} any more: "
                f"{problem}",
                path=problem.path,
            ) from None

    def _call(self, value: I) -> Awaitable[O]:
        args = (value,) if self._job.takes_input else ()
        if not self._job.is_sync:
            body: Awaitable[O] = self._job.fn(Step(self), *args)
            return body
        step = SyncStep(self, self._loop)
        if self._engine.job_threads is not None:
            return self._engine.job_threads.call(self._job.fn, step, *args)
        return run_body(self._job.fn, (step, *args), None)

    def _keep_output(self, value: O) -> Kept[O]:
        try:
            kept = self._job.output.keep(value)
        except Unstorable as problem:
            raise InvalidOutputError(
                f"{self._named()} returned {problem.problem} at {problem.path}, which does not fit "
                f"job {self._job.name!r}'s return annotation or cannot be kept as JSON",
                path=problem.path,
            ) from None
        self._check_size(kept.text, "the output", InvalidOutputError)
        return kept

    def _outcome_of(self, error: BaseException) -> Outcome:
        if self.interrupt is not None:
            return self._interrupted(self.interrupt)
        if isinstance(error, KeyboardInterrupt):
            self.shutdown = error
            return Released()
        if isinstance(error, Interrupt):
            return self._interrupted(error)
        if isinstance(error, asyncio.CancelledError) and self._task and self._task.cancelling():
            return Released()  # the event loop is shutting down
        return Failed(describe(error, self._step_of(error)))

    def _interrupted(self, interrupt: Interrupt) -> Outcome:
        return Released() if isinstance(interrupt, HandedBack) else Gone()

    async def settle(self, outcome: Outcome) -> None:
        """Write the outcome, in one transition. The run is not ours any more? Then say so and go."""
        now = self._engine.runtime.now()
        try:
            match outcome:
                case Completed(output):
                    row, seq = await self._move(COMPLETE, Settlement(now, output=output))
                    self._engine.metrics.ended[self._row.job, "completed"] += 1
                    self._tell_completed(row, seq, output)
                case Failed(error):
                    text = error_to_json(error)
                    row, seq = await self._move(FAIL, Settlement(now, error=text))
                    self._engine.metrics.ended[self._row.job, "failed"] += 1
                    self.report.tell(events.RunFail, row.updated_at, seq, error=error)
                case Released():
                    row, seq = await self._move(RELEASE, Settlement(now))
                    self.report.tell(events.RunRelease, row.updated_at, seq)
                case Gone():
                    logger.info("%s is not ours any more: %r", self._named(), self.interrupt)
                    if isinstance(self.interrupt, LeaseLost):
                        self._engine.metrics.lost[self._row.job] += 1
        except LeaseLost:
            self._engine.metrics.lost[self._row.job] += 1
            logger.warning("%s was taken over or cancelled before it was settled", self._named())
        except DurablyError as error:
            logger.error("%s could not be settled: %s", self._named(), error)

    async def _move(self, transition: Transition, settlement: Settlement) -> tuple[RunRow, int]:
        wakes = self._row.concurrency_key is not None or transition is RELEASE
        kept = settlement._replace(progress=self.report.last_progress, wakes=wakes)
        return await self._engine.store.settle(self.lease, transition, kept)

    def stop(self, interrupt: Interrupt) -> None:
        """Interrupt the run: whatever it awaits is cancelled, and no further step begins."""
        if self.interrupt is None and not self._closed:
            self.interrupt = interrupt
            if self._task is not None:
                self._task.cancel()

    # -- a step

    async def step(
        self,
        name: str,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        returns: Any,
        retries: int | Retry,
        timeout: Seconds | None,
        call: Callable[..., Awaitable[Any]] | None = None,
        *,
        in_transaction: bool = False,
    ) -> Any:
        """A step of the job: from its checkpoint if it has one, else run and committed."""
        index = self._begin(name)
        codec = codec_of_returns(fn) if returns is None else codec_for(returns)
        if (checkpoint := self._checkpoints.get(name)) is not None:
            return self._replay(name, checkpoint, codec)
        retry = _NO_RETRY if retries == 0 else _as_retry(retries)
        started_at = self._engine.runtime.now()
        at = {"step_name": name, "step_index": index, "attempt": self.attempt}
        self.report.tell(events.StepStart, started_at, None, **at)
        task, outer = asyncio.current_task(), CURRENT_STEP.get()
        CURRENT_STEP.set(name)
        seq: int | None = None
        try:
            if in_transaction:
                entry = Entry("step:complete", started_at, name, index, started_at)
                kept, seq = await self._transact(entry, fn, args, codec, retry)
            else:
                kept = await self._try(name, fn, args, codec, retry, timeout, call)
        except BaseException as error:
            if isinstance(error, GeneratorExit) and _current_task() is not task:
                raise  # the coroutine itself is being closed; nothing can be awaited any more
            raise await self._fail_step(name, index, started_at, error) from error.__cause__
        finally:
            CURRENT_STEP.set(outer)
        now = self._engine.runtime.now()
        if seq is None:
            entry = Entry("step:complete", now, name, index, started_at, kept.text)
            seq = await self._record(entry)
        self._has_committed = True
        took = (now - started_at) / 1000
        self._engine.metrics.steps[self._row.job].observe(took)
        if self._engine.wanted(self.run_id):
            output = load_json(kept.text)
            self.report.tell(events.StepComplete, now, seq, **at, output=output, duration=took)
        return kept.value

    def _begin(self, name: str) -> int:
        if self.interrupt is not None:
            raise self.interrupt
        if self._closed:
            raise DurablyError(
                f"step {name!r} was started after {self._named()} ended, by a task left behind; "
                "await every task before the job returns"
            )
        check_name("a step's name", name)
        if (index := self._indexes.get(name)) is not None:
            if name not in self._failed_steps:
                raise DuplicateStepError(
                    f"step {name!r} is used twice in {self._named()}; a step's name is its "
                    "identity, so give each its own, as f'save-{i}'"
                )
            self._failed_steps.discard(name)
            return index
        self._indexes[name] = index = len(self._indexes)
        return index

    def _replay(self, name: str, checkpoint: Checkpoint, codec: Codec[Any]) -> Any:
        try:
            return codec.decode(checkpoint.data)
        except Unstorable as problem:
            raise StepValueError(
                f"the checkpoint of step {name!r} of {self._named()} does not fit its type any "
                f"more: {problem}",
                path=problem.path,
            ) from None

    async def _try(
        self,
        name: str,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        codec: Codec[Any],
        retry: Retry,
        timeout: Seconds | None,
        call: Callable[..., Awaitable[Any]] | None,
    ) -> Kept[Any]:
        failures = 0
        while True:
            if self._may_have_lapsed():
                await self._make_sure()
            try:
                if timeout is None:
                    value = await run_body(fn, args, self._engine.step_threads, call)
                else:
                    value = await self._run_in_time(name, fn, args, call, seconds(timeout))
                break
            except retry.on as error:
                failures += 1
                await self._pause(name, retry, failures, error)
        return self._keep(name, codec, value)

    async def _pause(self, name: str, retry: Retry, failures: int, error: BaseException) -> None:
        """Wait before the next try of a step; raise the error when there is none."""
        if failures > retry.times or isinstance(error, Interrupt):
            raise error
        pause = self._engine.runtime.jitter(retry.pause(failures))
        logger.warning(
            "step %r of %s failed (try %d of %d), next in %.1f s: %r",
            name, self._named(), failures, retry.times + 1, pause, describe(error).message,
        )  # fmt: skip
        await self._engine.runtime.sleep(pause)

    async def _transact(
        self,
        entry: Entry,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        codec: Codec[Any],
        retry: Retry,
    ) -> tuple[Kept[Any], int]:
        """Run a step's function within the transaction that commits its result."""
        name, context = entry.step or "", copy_context()

        def call(connection: Any) -> Any:
            value = context.copy().run(fn, connection, *args)
            self._check_awaitable(name, value)
            if inspect.isawaitable(value):
                return self._keep_later(name, codec, value)
            return self._keep(name, codec, value)

        failures = 0
        while True:
            if self._may_have_lapsed():
                await self._make_sure()
            try:
                write = self._engine.store.transact(self.lease, entry, call)
                seq, kept = await self._fenced(write)
                break
            except retry.on as error:
                failures += 1
                await self._pause(name, retry, failures, error)
        if kept is None:  # the first try was committed after all: what it made is its checkpoint
            checkpoint = (await self._engine.store.checkpoints(self.run_id))[name]
            kept = Kept(checkpoint.data, self._replay(name, checkpoint, codec))
        return kept, seq

    def _check_awaitable(self, name: str, value: object) -> None:
        """A function of the wrong colour would write nothing, or after the commit."""
        if inspect.isawaitable(value) == self._engine.store.lends_async:
            return
        if inspect.iscoroutine(value):
            value.close()
            raise ConfigurationError(
                f"step.transaction {name!r}: on SQLite the function is a plain one, not async"
            )
        raise ConfigurationError(
            f"step.transaction {name!r}: on PostgreSQL the function is 'async def', also in a plain "
            "job: its connection's methods are awaited"
        )

    async def _keep_later(self, name: str, codec: Codec[Any], value: Awaitable[Any]) -> Kept[Any]:
        return self._keep(name, codec, await value)

    def _keep(self, name: str, codec: Codec[Any], value: Any) -> Kept[Any]:
        """A step's result as it is kept, or why it cannot be."""
        try:
            kept = codec.keep(value)
        except Unstorable as problem:
            raise StepValueError(
                f"step {name!r} of {self._named()} returned {problem.problem} at {problem.path}; "
                "annotate the function or pass returns=",
                path=problem.path,
            ) from None
        self._check_size(kept.text, f"the result of step {name!r}", StepValueError)
        return kept

    async def _run_in_time(
        self,
        name: str,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        call: Callable[..., Awaitable[Any]] | None,
        limit: float,
    ) -> Any:
        clock = asyncio.timeout(limit)
        try:
            async with clock:
                return await run_body(fn, args, self._engine.step_threads, call)
        except TimeoutError:
            if not clock.expired():
                raise
            raise StepTimeoutError(
                f"step {name!r} of {self._named()} took longer than {limit:g} s"
            ) from None

    async def _fail_step(
        self, name: str, index: int, started_at: int, error: BaseException
    ) -> BaseException:
        """Journal a step's failure; what the job is to be told of it."""
        if self.interrupt is not None:
            return self.interrupt
        if isinstance(error, KeyboardInterrupt | Interrupt):
            return error
        if not isinstance(error, Exception):
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task and task.cancelling():
                return error  # somebody cancels the task around us
            failed = StepFailedError(f"step {name!r} of {self._named()} raised {error!r}")
            failed.__cause__ = error
            error = failed
        now = self._engine.runtime.now()
        described = describe(error, name)
        entry = Entry("step:fail", now, name, index, started_at, error_to_json(described))
        seq = await self._record(entry)
        self._failed_steps.add(name)
        self._failures.append((error, name))
        at = {"step_name": name, "step_index": index, "attempt": self.attempt}
        self.report.tell(events.StepFail, now, seq, **at, error=described)
        return error

    def renewed(self, now: int, monotonic: float) -> None:
        """The lease was prolonged by a request made then."""
        self._held_until = now + self.lease.duration, monotonic + self.lease.duration / 1000

    def _may_have_lapsed(self) -> bool:
        # By either clock: a suspended machine stops the one, a corrected clock moves the other.
        runtime, (wall, monotonic) = self._engine.runtime, self._held_until
        return runtime.now() >= wall or runtime.monotonic() >= monotonic

    async def _make_sure(self) -> None:
        """We slept through our lease (a stopped process, a closed laptop): is the run still ours?

        Without this, a worker that wakes would begin a step that another has committed meanwhile.
        """
        now, since = self._engine.runtime.now(), self._engine.runtime.monotonic()
        if not await self._engine.store.holds(self.lease, now):
            self.interrupt = self.interrupt or await self.why_lost()
        if self.interrupt is not None:
            raise self.interrupt
        self.renewed(now, since)

    async def _record(self, entry: Entry) -> int:
        return await self._fenced(self._engine.store.record(self.lease, entry))

    async def _fenced(self, write: Awaitable[R]) -> R:
        """A write under the lease; if that is lost, why it is."""
        try:
            return await write
        except LeaseLost:
            if self.interrupt is None:
                self.interrupt = await self.why_lost()
            raise self.interrupt from None

    async def why_lost(self) -> Interrupt:
        """A write was refused: was the run cancelled, or is it somebody else's?"""
        row = await self._engine.store.run(self.run_id)
        if row is not None and row.status == Status.CANCELLED:
            return RunCancelled(f"{self._named()} was cancelled")
        return LeaseLost(f"another worker holds {self._named()} now")

    # -- small things

    def _tell_completed(self, row: RunRow, seq: int, output: str) -> None:
        now = row.updated_at
        took = (now - (row.started_at or now)) / 1000
        if self._engine.wanted(self.run_id):
            self.report.tell(events.RunComplete, now, seq, output=load_json(output), duration=took)

    def _check_size(
        self, text: str, what: str, kind: type[StepValueError | InvalidOutputError]
    ) -> None:
        if len(text) > self._engine.max_output:
            raise kind(
                f"{what} of {self._named()} has {len(text):,} bytes, over the limit of "
                f"{self._engine.max_output:,} (max_output_bytes); keep it elsewhere and return a "
                "reference to it"
            )

    def _poisoned(self) -> RunError:
        deaths = self._row.recoveries
        return RunError(
            "poisoned",
            f"{self._named()} was taken over {deaths} times from workers that died or hung without "
            f"committing a step (max_recoveries is {self._engine.max_recoveries}); find out what "
            "kills them, then retry it",
        )

    def _warn_of_orphans(self) -> None:
        if orphans := self._checkpoints.keys() - self._indexes.keys():
            logger.warning(
                "%s completed without asking for its checkpoints %s: were steps renamed or removed?",
                self._named(), sorted(orphans),
            )  # fmt: skip

    def _step_of(self, error: BaseException) -> str | None:
        for failed, name in reversed(self._failures):
            if any(leaf is failed for leaf in _leaves(error)):
                return name
        return None

    def _named(self) -> str:
        return f"run {self.run_id} ({self._row.job})"


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        return [error, *(leaf for inner in group.exceptions for leaf in _leaves(inner))]
    return [error]


def _current_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:  # no event loop is running
        return None


def _as_retry(retries: int | Retry) -> Retry:
    return retries if isinstance(retries, Retry) else Retry(retries)
