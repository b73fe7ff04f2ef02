"""One attempt at a run: load its checkpoints, call the job, settle the outcome.

Read ``execute`` first: it is the whole story in four lines. Outcomes are values; faults are
exceptions; what must stop the run here (lease lost, cancelled, handed back) is an ``Interrupt``.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import signal
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from subprocess import CalledProcessError
from types import CoroutineType
from typing import Any, Generic, TypeVar, cast

from .. import events
from ..errors import (
    ClosedError,
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
    UnawaitedStepError,
)
from ..jobs.checks import check_name
from ..jobs.job import Job
from ..jobs.retry import Retry
from ..jobs.runner import StepCall
from ..jobs.step import Step, SyncStep
from ..models import I, LogLevel, O, RunError
from ..options import positive, whole
from ..state import COMPLETE, FAIL, RELEASE, Status, Transition
from ..store.base import Store
from ..store.records import SUSPECT, Checkpoint, Claimed, DecidedSteps, Entry, RunRow, Settlement
from ..telemetry.logs import (
    CURRENT_RUN,
    CURRENT_STEP,
    RunLog,
    count,
    lasting,
    one_line,
    runs_logger,
)
from ..threads import Running, run_body
from ..values.codec import Codec, Kept, Unstorable, codec_for, codec_of_returns
from ..values.difference import a_type
from ..values.text import load_json
from .context import TRANSACTION_STORE, WorkerContext
from .failure import describe, error_to_json, failure_from_json, failure_to_json, members
from .report import Reporter

R = TypeVar("R")

EXECUTING: ContextVar[Execution[Any, Any] | None] = ContextVar("durably_executing", default=None)
"""The attempt at a run whose body we are in."""

_NO_RETRY = Retry(0)
_SIGNAL_DELAY = 0.2  # seconds by which a signal may reach a child process before it reaches us
_STOP_SIGNALS = frozenset({signal.SIGINT, signal.SIGTERM})


@dataclass(frozen=True, slots=True)
class Completed:
    """The job returned; ``output`` is the text to keep."""

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
    """Cancelled, or somebody else's by now: there is nothing for us to write."""


Outcome = Completed | Failed | Released | Gone


class Execution(Generic[I, O]):
    """An attempt at a run, and all that its ``Step`` does."""

    def __init__(
        self,
        context: WorkerContext,
        job: Job[I, O],
        claimed: Claimed,
    ) -> None:
        self._context = context
        self._job = job
        row = self._row = claimed.row
        self.lease = claimed.lease
        self._claimed = claimed
        self._decided = DecidedSteps({}, {})
        self._indexes: dict[str, int] = {}
        self._failed_steps: set[str] = set()
        self._failures: list[tuple[BaseException, str]] = []
        self._in_doubt: dict[str, Entry] = {}
        """Steps that were cancelled while their results were being committed."""
        self._began = context.runtime.monotonic()
        self._held_until = (0, 0.0)
        self.renewed(claimed.asked_at, self._began)
        self._closed = False
        self._committed = 0  # steps
        self._current_steps: dict[str, None] = {}
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[Any] | None = None
        self._calls: list[tuple[str, CoroutineType[Any, Any, Any]]] = []
        """Calls of steps in an async job, by name; the last, and those before it that are not over."""
        self._step_tasks: set[asyncio.Task[Any]] = set()
        """Tasks other than the job's own that are within a step of it."""
        self._running = Running()
        self._is_settling = False
        self.settled: asyncio.Future[None] = self._loop.create_future()
        """Done once the outcome is written, or cannot be; functions in threads may still run."""
        self.interrupt: Interrupt | None = None
        self.log = RunLog(row.id, row.job, row.generation, row.lease_owner or "", row.scope)
        self.report = Reporter(
            context,
            claimed.row,
            claimed.lease,
            self.log,
            lambda: self.interrupt is not None,
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
    def is_ours(self) -> bool:
        """True while the job's body is to go on here."""
        return self.interrupt is None and not self._closed

    @property
    def was_suspect(self) -> bool:
        """Whether it may be what killed the workers that had it before."""
        return self._row.recoveries >= SUSPECT

    @property
    def is_suspect(self) -> bool:
        """The same, until it commits a step."""
        return self.was_suspect and not self._committed

    @property
    def has_threads(self) -> bool:
        return self._context.step_threads is not None

    # -- the stages

    async def execute(self, body_done: Callable[[], None]) -> None:
        """Run the job from its checkpoints and settle what came of it. Raises nothing."""
        self._task = asyncio.current_task()
        CURRENT_RUN.set(self.log.fields)
        self._log_start()
        if self._context.has_listeners(self.run_id):
            told = {"attempt": self.attempt, "input": load_json(self._row.input)}
            self.report.tell(events.RunStart, self._row.updated_at, self._claimed.seq, **told)
        outcome = await self._outcome()
        self._closed = True
        self._cancel_step_tasks()
        self.report.close()
        ended = not self._body_runs
        if ended:
            body_done()
        settled = await self.settle(outcome)
        self.settled.set_result(None)
        self._context.progress.pop(self.run_id, None)
        if not ended:
            await self._wait_for_body()
            body_done()
        if not (settled and ended):
            await self._let_go()

    @property
    def _body_runs(self) -> bool:
        """Whether functions of the run still run, in threads that nothing can stop or in tasks."""
        return bool(self._running or self._step_tasks)

    async def _wait_for_body(self) -> None:
        while self._body_runs:
            if self._step_tasks:
                await asyncio.wait(self._step_tasks)
            await self._running.wait()

    async def _let_go(self) -> None:
        """The run is over, and now its body is, too: neither it nor its key is held any longer."""
        if isinstance(self.interrupt, LeaseLost):
            return
        try:
            await self._context.store.let_go(self.lease, self._context.runtime.now())
        except ClosedError as error:  # the hold ends by itself, as a lease does
            self.log(logging.DEBUG, " is held until its lease ends: %s", error)
        except Exception as error:  # noqa: BLE001 - whatever it is, the worker counts on the task's end
            self.log(logging.WARNING, " is held until its lease ends: %s", error)
            self._context.report_error("settle", error, self.run_id)

    async def _outcome(self) -> Outcome:
        if self.interrupt is not None:  # stopped between the claim and our first tick
            return self._interrupted(self.interrupt)
        if self._row.recoveries > self._context.max_recoveries:
            return Failed(self._poisoned())
        try:
            if self._claimed.resumed:
                self._decided = await self._context.store.decided_steps(self.run_id)
            EXECUTING.set(self)
            value = await self._call(self._read_input())
            if (name := self._forgotten_step()) is not None:
                raise UnawaitedStepError(
                    f"step {name!r} of {self._description()} did not run, for it was never awaited; write "
                    f"'await step.run({name!r}, ...)', and await every task before the job returns"
                )
            kept = self._keep_output(value)
        except BaseException as error:
            if isinstance(error, GeneratorExit) and _current_task() is not self._task:
                raise  # the task is being destroyed with its event loop
            if (name := self._forgotten_step()) is not None:
                error.add_note(
                    f"step {name!r} did not run, for it was never awaited; write 'await step.run({name!r}, ...)'"
                )
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
                f"the stored input of {self._description()} does not fit job {self._job.name!r} any more: "
                f"{problem}",
                path=problem.path,
            ) from None

    def _call(self, value: I) -> Awaitable[O]:
        args = (value,) if self._job.takes_input else ()
        if not self._job.is_sync:
            return run_body(self._job.fn, (Step(self), *args), None, self._running)
        step = SyncStep(self, self._loop)
        if self._context.job_threads is not None:
            return self._context.job_threads.call(self._running, self._job.fn, step, *args)
        return run_body(self._job.fn, (step, *args), None, self._running)

    def _keep_output(self, value: O) -> Kept[O]:
        if inspect.isawaitable(value):
            self._refuse_awaitable(value)
        try:
            kept = self._job.output.keep(value)
        except Unstorable as problem:
            raise InvalidOutputError(
                f"{self._description()} returned {problem.problem} at {problem.path}, which does not fit "
                f"job {self._job.name!r}'s return annotation or cannot be kept as JSON",
                path=problem.path,
            ) from None
        self._check_size(kept.text, "the output", InvalidOutputError)
        return kept

    def _refuse_awaitable(self, value: object) -> None:
        """What calls an ``async def`` and returns its coroutine has done nothing yet."""
        if inspect.iscoroutine(value):
            value.close()
        how = "make the job 'async def' and await it" if self._job.is_sync else "await it"
        raise InvalidOutputError(
            f"{self._description()} returned a {type(value).__name__}, which is not awaited; {how}"
        )

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
        return Failed(describe(error, self._step_of(error)), error)

    def _interrupted(self, interrupt: Interrupt) -> Outcome:
        return Released() if isinstance(interrupt, HandedBack) else Gone()

    async def hand_back(self) -> None:
        """Give the run back though its body does not end: it is held for as long as its lease."""
        if not self._is_settling:
            self.log(
                logging.WARNING,
                ", %s, does not end when cancelled; it is handed back, and another worker takes it "
                "when its lease ends", self._where(),
            )  # fmt: skip
            await self.settle(Released())

    async def settle(self, outcome: Outcome) -> bool:
        """Write the outcome, in one transition; False if the run was cancelled or taken over first."""
        if self._is_settling:  # handed back before its body ended
            return False
        self._is_settling = True
        now = self._context.runtime.now()
        try:
            match outcome:
                case Completed(output):
                    forgets = not self._context.keep_steps
                    new = Settlement(now, output=output, forget_steps=forgets)
                    row, seq = await self._move(COMPLETE, new)
                    self._context.instruments.run_ended(self._row.job, "completed")
                    self._tell_completed(row, seq, output)
                    self._log_end(logging.INFO, "completed", "completed")
                case Failed(error, raised):
                    text = error_to_json(error)
                    row, seq = await self._move(FAIL, Settlement(now, error=text))
                    self._context.instruments.run_ended(self._row.job, "failed")
                    self.report.tell(events.RunFail, row.updated_at, seq, error=error)
                    self._log_failure(error, raised)
                case Released():
                    row, seq = await self._move(RELEASE, Settlement(now))
                    self.report.tell(events.RunRelease, row.updated_at, seq)
                    self._log_end(logging.INFO, "pending", "was handed back")
                case Gone():
                    self._log_loss(self.interrupt)
                    return False
        except LeaseLost:
            await self._refused()
            return False
        except Exception as error:  # noqa: BLE001 - whatever it is: the task must end, for the worker to count on it
            fault = None if isinstance(error, DurablyError) else error
            self.log(logging.ERROR, " could not be settled: %s", one_line(str(error)), error=fault)
            self._context.report_error("settle", error, self.run_id)
            return False
        return True

    async def _refused(self) -> None:
        """The outcome was refused: log why the run is not ours."""
        try:
            self._log_loss(self.interrupt or await self.why_lost())
        except Exception as error:  # noqa: BLE001 - it only says why
            self._log_loss(LeaseLost(f"the database does not say why: {error}"))

    # -- what is logged of it

    def _log_start(self) -> None:
        if self._claimed.lapsed:
            text = " was taken over from a worker that died or stopped responding (attempt %d)"
            self.log(logging.WARNING, text, self.attempt)
        elif self.attempt > 1:
            self.log(logging.INFO, " resumed (attempt %d)", self.attempt)
        else:
            self.log(logging.INFO, " started")

    def _log_end(
        self, level: int, status: str, verb: str, why: object = None, **fields: Any
    ) -> None:
        """Log the end of this attempt, with how long it lasted and how many steps it has."""
        if not runs_logger.isEnabledFor(level):
            return
        took = self._context.runtime.monotonic() - self._began
        replayed = len(self._decided.checkpoints.keys() & self._indexes.keys())
        steps = self._committed + replayed
        done = count(steps, "step") + (f", {replayed:,} from checkpoints" if replayed else "")
        fields = {"status": status, "duration": round(took, 3), "steps": steps, **fields}
        text, args = " %s after %s (%s)", (verb, lasting(took), done)
        if why is None:
            self.log(level, text, *args, **fields)
        else:
            self.log(level, text + ": %s", *args, why, **fields)

    def _log_failure(self, error: RunError, raised: BaseException | None) -> None:
        verb = "failed" if error.step is None else f"failed in step {error.step!r}"
        fields = {"step": error.step, "error_type": error.type, "error": raised}
        fields["traceback"] = error.traceback
        self._log_end(logging.ERROR, "failed", verb, one_line(str(error)), **fields)

    def _log_loss(self, interrupt: Interrupt | None) -> None:
        if isinstance(interrupt, RunCancelled):
            self._log_end(logging.INFO, "cancelled", "was cancelled")
        else:
            self._context.instruments.lease_lost(self._row.job)
            self._log_end(logging.WARNING, "lost", "was lost", interrupt)

    def _where(self) -> str:
        """Where in the job this attempt is, or was when it was stopped, for people."""
        if not self._current_steps:
            return "between steps"
        names = list(self._current_steps)
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        return f"in step{'' if len(names) == 1 else 's'} {', '.join(map(repr, names[:3]))}{more}"

    def announce(self) -> None:
        """Log and print where the run is, for a person who waits."""
        self.log.announce(" is %s", self._where())

    async def _move(self, transition: Transition, settlement: Settlement) -> tuple[RunRow, int]:
        wakes = self._row.concurrency_key is not None or transition is RELEASE
        kept = settlement._replace(
            progress=self.report.last_progress,
            wakes=wakes,
            body_runs=not self._closed or self._body_runs,
        )
        return await self._context.store.settle(self.lease, transition, kept)

    def stop(self, interrupt: Interrupt) -> None:
        """Interrupt the run: whatever it awaits is cancelled, and no further step begins."""
        if self.interrupt is None and not self._closed:
            self.interrupt = interrupt
            self._cancel_step_tasks()
            if self._task is not None and self._task is not _current_task():
                self._task.cancel()

    def _cancel_step_tasks(self) -> None:
        for task in self._step_tasks:
            if task is not _current_task():
                task.cancel()

    def write_log(self, level: LogLevel, message: str, data: Any) -> None:
        """Publish a log line of the run, and store it where log lines are kept."""
        self.report.log(level, message, data)

    def report_progress(self, current: float, total: float | None, message: str | None) -> None:
        """Publish the run's progress, and store it from time to time."""
        self.report.progress(current, total, message)

    def start_task(
        self, coroutine: Coroutine[Any, Any, None], on_end: Callable[[object], None]
    ) -> None:
        """Run a step of a plain job, on the loop; ``on_end`` is called however it ends."""
        task = self._loop.create_task(coroutine)
        self._step_tasks.add(task)
        task.add_done_callback(self._step_tasks.discard)
        task.add_done_callback(on_end)

    # -- a step

    def track(self, name: str, call: Coroutine[Any, Any, Any]) -> Coroutine[Any, Any, Any]:
        """The call of a step, noted so that it is not forgotten in silence."""
        calls = self._calls
        while calls and calls[-1][1].cr_frame is None:  # it is over
            calls.pop()
        calls.append((name, cast("CoroutineType[Any, Any, Any]", call)))
        return call

    def _forgotten_step(self) -> str | None:
        """The first step whose call was never awaited, though the job is over. None of them runs now."""
        forgotten = [
            (name, call)
            for name, call in self._calls
            if inspect.getcoroutinestate(call) == inspect.CORO_CREATED
        ]
        self._calls.clear()
        if not forgotten:
            return None
        tasks: dict[Any, asyncio.Task[Any]] = {
            task.get_coro(): task for task in asyncio.all_tasks()
        }
        names: list[str] = []
        for name, call in forgotten:
            task = tasks.get(call)
            if task is None:
                call.close()
            if task is None or not task.cancelling():
                names.append(name)
        return names[0] if names else None

    async def run_step(self, call: StepCall) -> Any:
        """A step of the job: from its checkpoint if it has one, else run and committed."""
        name, fn, args = call.name, call.fn, call.args
        returns, retries, timeout = call.returns, call.retries, call.timeout
        index = self._begin(name)
        if (failures := self._decided.failures.get(name)) is not None and failures:
            raise self._failed_before(name, failures.pop(0))
        try:
            _check_function(name, fn)
            codec = codec_of_returns(fn) if returns is None else codec_for(returns)
            if name in self._in_doubt:
                await self._recommit(name)
            if (checkpoint := self._decided.checkpoints.get(name)) is not None:
                return self._replay(name, checkpoint, codec)
            retry = retries if isinstance(retries, Retry) else self._retry(retries)
            limit = None if timeout is None else positive("timeout", timeout)
        except (TypeError, DurablyError) as error:
            raise self._refuse(name, error) from None
        started_at = self._context.runtime.now()
        at = {"step_name": name, "step_index": index, "attempt": self.attempt}
        self.report.tell(events.StepStart, started_at, None, **at)
        task, outer = asyncio.current_task(), CURRENT_STEP.get()
        CURRENT_STEP.set(name)
        self._current_steps[name] = None
        is_other = task is not None and task is not self._task and task not in self._step_tasks
        if is_other:
            self._step_tasks.add(cast("asyncio.Task[Any]", task))
        seq: int | None = None
        try:
            if call.in_transaction:
                entry = Entry("step:complete", started_at, name, index, started_at)
                kept, seq = await self._transact(entry, fn, args, codec, retry)
            else:
                kept = await self._try(name, fn, args, codec, retry, limit, call.send)
        except BaseException as error:
            if isinstance(error, GeneratorExit) and _current_task() is not task:
                raise  # the coroutine itself is being closed; nothing can be awaited any more
            failure = await self._fail_step(name, index, started_at, error)
            if not isinstance(failure, Exception):
                self._failed_steps.add(name)  # it came to nothing: its name may be used again
                self.report.tell(events.StepCancel, self._context.runtime.now(), None, **at)
            raise failure from error.__cause__
        finally:
            self._leave_step(name, outer)
            if is_other:
                self._step_tasks.discard(cast("asyncio.Task[Any]", task))
        now = self._context.runtime.now()
        if seq is None:
            seq = await self._commit(
                Entry("step:complete", now, name, index, started_at, kept.text)
            )
        took = (now - started_at) / 1000
        self._count_step(name, took)
        self._tell_step(kept.text, seq, now, took, at)
        return kept.value

    def _tell_step(self, output: str, seq: int, now: int, took: float, at: dict[str, Any]) -> None:
        if self._context.has_listeners(self.run_id):
            self.report.tell(
                events.StepComplete, now, seq, **at, output=load_json(output), duration=took
            )

    async def _commit(self, entry: Entry, *, again: bool = False) -> int:
        """Commit a step's result. A scope that cancels the step now leaves open whether it is."""
        try:
            return await self._fenced(self._context.store.record(self.lease, entry, again=again))
        except asyncio.CancelledError:
            self._doubt(entry)
            raise

    def _doubt(self, entry: Entry) -> None:
        name = cast("str", entry.step)
        self._in_doubt[name] = entry
        self._failed_steps.add(name)  # its name may be used again

    async def _recommit(self, name: str) -> None:
        """What a cancelled call of a step came to is its result: its function does not run again."""
        entry = self._in_doubt[name]
        if entry.data is None:  # only the database knows what a transaction came to
            return
        await self._commit(entry, again=True)
        del self._in_doubt[name]
        self._decided.checkpoints[name] = Checkpoint(entry.step_index or 0, entry.data)

    def _leave_step(self, name: str, outer: str | None) -> None:
        CURRENT_STEP.set(outer)
        if self.interrupt is None:  # else it says where the run was stopped
            self._current_steps.pop(name, None)

    def _count_step(self, name: str, took: float) -> None:
        self._committed += 1
        self._context.instruments.step_completed(self._row.job, took)
        if runs_logger.isEnabledFor(logging.DEBUG):
            self.log(logging.DEBUG, ": step %r completed in %s", name, lasting(took), step=name)

    def _require_open(self, name: str) -> None:
        """Before anything of a step begins, and before each further try of it."""
        if self.interrupt is not None:
            raise self.interrupt
        if self._closed:
            raise DurablyError(
                f"step {name!r} was started after {self._description()} ended, by a task left behind; "
                "await every task before the job returns"
            )

    def _begin(self, name: str) -> int:
        self._require_open(name)
        check_name("a step's name", name)
        if (index := self._indexes.get(name)) is not None:
            if name not in self._failed_steps:
                raise DuplicateStepError(
                    f"step {name!r} is used twice in {self._description()}; a step's name is its "
                    "identity, so give each its own, as f'save-{i}'"
                )
            self._failed_steps.discard(name)
            return index
        self._indexes[name] = index = len(self._indexes)
        return index

    def _failed_before(self, name: str, failure: str) -> Exception:
        """What the job has seen of a step is decided, as a result is: the same error again."""
        error = failure_from_json(failure)
        self._failed_steps.add(name)
        self._failures.append((error, name))
        return error

    def _refuse(self, name: str, error: TypeError | DurablyError) -> DurablyError:
        """A step that cannot be run as it is written: the error says which it is."""
        refused: DurablyError
        if isinstance(error, StepValueError):
            refused = error
        elif isinstance(error, DurablyError):
            refused = ConfigurationError(f"step {name!r} of {self._description()}: {error}")
        else:
            refused = StepValueError(
                f"the result of step {name!r} of {self._description()}: {error}"
            )
        self._failed_steps.add(name)
        self._failures.append((refused, name))
        return refused

    def _retry(self, times: int) -> Retry:
        return _NO_RETRY if times == 0 and type(times) is int else Retry(whole("retries", times))

    def _replay(self, name: str, checkpoint: Checkpoint, codec: Codec[Any]) -> Any:
        try:
            return codec.restore(checkpoint.data)
        except Unstorable as problem:
            raise StepValueError(
                f"the checkpoint of step {name!r} of {self._description()} does not fit its type any "
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
        limit: float | None,
        call: Callable[..., Awaitable[Any]] | None,
    ) -> Kept[Any]:
        failures = 0
        while True:
            if self._may_have_lapsed():
                await self._make_sure()
            self._require_open(name)
            try:
                if limit is None:
                    value = await run_body(
                        fn, args, self._context.step_threads, self._running, call
                    )
                else:
                    value = await self._run_in_time(name, fn, args, call, limit)
                break
            except retry.on as error:
                failures += 1
                await self._pause(name, retry, failures, error)
        return self._keep(name, codec, value)

    async def _pause(self, name: str, retry: Retry, failures: int, error: BaseException) -> None:
        """Wait before the next try of a step; raise the error when there is none."""
        if failures > retry.times or isinstance(error, Interrupt) or self._context.stopping:
            raise error
        pause = self._context.runtime.jitter(retry.pause(failures))
        if runs_logger.isEnabledFor(logging.WARNING):
            described = describe(error)
            self.log(
                logging.WARNING, ": step %r failed (try %d of %d), next try in %s: %s",
                name, failures, retry.times + 1, lasting(pause), one_line(str(described)),
                error_type=described.type,
            )  # fmt: skip
        await self._context.runtime.sleep(pause)

    async def _transact(
        self,
        entry: Entry,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        codec: Codec[Any],
        retry: Retry,
    ) -> tuple[Kept[Any], int]:
        """Run a step's function within the transaction that commits its result."""
        name, context, is_given_up = entry.step or "", copy_context(), False

        def call(connection: Any) -> Any:
            if is_given_up:  # cancelled while it waited for the file
                raise RunCancelled(f"step {name!r} of {self._description()} was cancelled")
            value = context.copy().run(_lend, self._context.store, fn, connection, *args)
            self._check_awaitable(name, value)
            if inspect.isawaitable(value):
                return self._keep_later(name, codec, value)
            return self._keep(name, codec, value)

        failures = 0
        while True:
            if self._may_have_lapsed():
                await self._make_sure()
            self._require_open(name)
            try:
                again = name in self._in_doubt
                write = self._context.store.transact(self.lease, entry, call, again=again)
                seq, kept = await self._fenced(write)
                self._in_doubt.pop(name, None)
                break
            except asyncio.CancelledError:
                is_given_up = True
                self._doubt(entry)
                raise
            except retry.on as error:
                failures += 1
                await self._pause(name, retry, failures, error)
        if kept is None:  # the first try was committed after all: what it made is its checkpoint
            checkpoint = await self._context.store.checkpoint(self.run_id, name)
            assert checkpoint is not None
            kept = Kept(checkpoint.data, self._replay(name, checkpoint, codec))
        return kept, seq

    def _check_awaitable(self, name: str, value: object) -> None:
        """A function of the wrong colour would write nothing, or after the commit."""
        if inspect.isawaitable(value) == self._context.store.lends_async:
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
                f"step {name!r} of {self._description()} returned {problem.problem} at {problem.path}; "
                "annotate the function with the type that it returns, or pass returns=",
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
        late = f"step {name!r} of {self._description()} took longer than {limit:g} s"
        try:
            async with clock:
                value = await run_body(fn, args, self._context.step_threads, self._running, call)
        except TimeoutError:
            if clock.expired():
                raise StepTimeoutError(late) from None
            raise
        if clock.expired():  # the function swallowed its cancellation: this is half a result
            raise StepTimeoutError(late)
        return value

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
            failed = StepFailedError(f"step {name!r} of {self._description()} raised {error!r}")
            failed.__cause__ = error
            error = failed
        if await self._is_of_a_stop(error):
            self.stop(HandedBack("this worker is stopping"))
            assert self.interrupt is not None
            return self.interrupt
        now = self._context.runtime.now()
        described = describe(error, name)
        self.log(logging.DEBUG, ": step %r failed: %s", name, one_line(str(described)))
        text = failure_to_json(error, described)
        entry = Entry("step:fail", now, name, index, started_at, text)
        self._failed_steps.add(name)
        seq = await self._record(entry)
        self._failures.append((error, name))
        at = {"step_name": name, "step_index": index, "attempt": self.attempt}
        self.report.tell(events.StepFail, now, seq, **at, error=described)
        return error

    async def _is_of_a_stop(self, error: Exception) -> bool:
        """Whether a step failed while this worker stops: the signal that stops it may have ended what
        the step was waiting for, so the run goes back, to be resumed elsewhere."""
        if isinstance(error, CalledProcessError) and _stop_signal(error.returncode):
            await self._context.runtime.sleep(_SIGNAL_DELAY)
        if self._context.stopping:
            text = " is handed back: a step failed while this worker stops: %r"
            self.log(logging.WARNING, text, error)
        return self._context.stopping

    def renewed(self, now: int, monotonic: float) -> None:
        """The lease was prolonged by a request made then."""
        self._held_until = now + self.lease.duration, monotonic + self.lease.duration / 1000

    def _may_have_lapsed(self) -> bool:
        # By either clock: a suspended machine stops the one, a corrected clock moves the other.
        runtime, (wall, monotonic) = self._context.runtime, self._held_until
        return runtime.now() >= wall or runtime.monotonic() >= monotonic

    async def _make_sure(self) -> None:
        """We slept through our lease (a stopped process, a closed laptop): is the run still ours?

        Without this, a worker that wakes would begin a step that another has committed meanwhile.
        """
        now, since = self._context.runtime.now(), self._context.runtime.monotonic()
        if not await self._context.store.holds(self.lease, now):
            self.interrupt = self.interrupt or await self.why_lost()
        if self.interrupt is not None:
            raise self.interrupt
        self.renewed(now, since)

    async def _record(self, entry: Entry) -> int:
        return await self._fenced(self._context.store.record(self.lease, entry))

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
        row = await self._context.store.run(self.run_id)
        # It is cancelled, or it was and has been retried since: nobody else had it in between.
        if row is not None and row.lease_token == self.lease.token and row.status != Status.RUNNING:
            return RunCancelled(f"{self._description()} was cancelled")
        return LeaseLost(f"another worker holds {self._description()} now")

    # -- small things

    def _tell_completed(self, row: RunRow, seq: int, output: str) -> None:
        now = row.updated_at
        took = (now - (row.started_at or now)) / 1000
        if self._context.has_listeners(self.run_id):
            self.report.tell(events.RunComplete, now, seq, output=load_json(output), duration=took)

    def _check_size(
        self, text: str, what: str, kind: type[StepValueError | InvalidOutputError]
    ) -> None:
        if len(text) > self._context.max_output:
            raise kind(
                f"{what} of {self._description()} has {len(text):,} bytes, over the limit of "
                f"{self._context.max_output:,} (max_output_bytes); keep it elsewhere and return a "
                "reference to it"
            )

    def _poisoned(self) -> RunError:
        deaths = self._row.recoveries
        return RunError(
            "poisoned",
            f"{self._description()} was taken over {deaths} times from workers that died or hung without "
            f"committing a step (max_recoveries is {self._context.max_recoveries}); find out what "
            "kills them, then retry it",
        )

    def _warn_of_orphans(self) -> None:
        if orphans := self._decided.checkpoints.keys() - self._indexes.keys():
            self.log(
                logging.WARNING,
                " completed without asking for its checkpoints %s: were steps renamed or removed?",
                sorted(orphans),
            )

    def _step_of(self, error: BaseException) -> str | None:
        """The step whose failure this is, or was raised from."""
        seen: set[int] = set()
        cause: BaseException | None = error
        while cause is not None and id(cause) not in seen:
            seen.add(id(cause))
            for failed, name in reversed(self._failures):
                if any(leaf is failed for leaf in members(cause)):
                    return name
            cause = cause.__cause__
        return None

    @property
    def job_name(self) -> str:
        return self._row.job

    def _description(self) -> str:
        return f"run {self.run_id} ({self._row.job})"


def _lend(store: Store, fn: Callable[..., Any], *args: Any) -> Any:
    TRANSACTION_STORE.set(store)
    return fn(*args)


def _check_function(name: str, fn: object) -> None:
    if callable(fn):
        return
    if inspect.iscoroutine(fn):
        fn.close()
    raise ConfigurationError(
        f"its function is {a_type(fn, article=True)}; pass the function and its arguments, as in "
        f"step.run({name!r}, fetch, url), not what it returns"
    )


def _stop_signal(returncode: int) -> bool:
    """Whether a process was ended by the signal of a stop, or its shell says so."""
    return -returncode in _STOP_SIGNALS or returncode - 128 in _STOP_SIGNALS


def _current_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:  # no event loop is running
        return None
