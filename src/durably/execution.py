"""One attempt at a run: load its checkpoints, call the job, settle the outcome.

Read ``execute`` first: it is the whole story in four lines. Outcomes are values; faults are
exceptions; what must stop the run here (lease lost, cancelled, handed back) is an ``Interrupt``.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Generic, cast

from pydantic_core import to_jsonable_python

from . import events
from .codec import (
    PLAIN,
    Codec,
    Kept,
    Unstorable,
    check_name,
    clean_text,
    codec_for,
    codec_of_returns,
    dump_json,
    load_json,
)
from .errors import (
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
from .models import I, LogLevel, O, Progress, RunError, progress_to_json
from .runtime import Runtime, Seconds, seconds, to_datetime
from .state import COMPLETE, FAIL, RELEASE, Status, Transition
from .step import Retry, Step, SyncStep
from .store.base import Checkpoint, Claimed, Entry, Settlement, Store
from .threads import Threads

logger = logging.getLogger("durably")

PROGRESS_INTERVAL = 0.1  # seconds between two writes of a run's progress
MAX_LOG = 65_536  # characters of a log line, message and data together
MAX_PENDING_LOGS = 1_000  # lines of a run that may wait to be written; more are dropped and counted
_NO_RETRY = Retry(0)

_current_step: ContextVar[str | None] = ContextVar("durably_step", default=None)


@dataclass(slots=True)
class Engine:
    """What the executions of one worker share."""

    runtime: Runtime
    store: Store
    wanted: Callable[[str], bool]
    """Whether anybody wants to hear of a run's events."""
    publish: Callable[[events.AnyEvent], None]
    max_recoveries: int
    max_output: int
    keep_logs: bool = False
    step_threads: Threads | None = None
    job_threads: Threads | None = None


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
        self._labels: dict[str, str] = load_json(claimed.row.labels)
        self._checkpoints: dict[str, Checkpoint] = {}
        self._indexes: dict[str, int] = {}
        self._failed_steps: set[str] = set()
        self._failures: list[tuple[BaseException, str]] = []
        self._progress: str | None = None
        self._progress_timer: asyncio.TimerHandle | None = None
        self._progress_at = float("-inf")
        self._pending_logs = self._dropped_logs = 0
        self._held_until = (0, 0.0)
        self.renewed(claimed.row.updated_at, engine.runtime.monotonic())
        self._closed = False
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._task: asyncio.Task[Any] | None = None
        self.interrupt: Interrupt | None = None
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
    def has_threads(self) -> bool:
        return self._engine.step_threads is not None

    # -- the stages

    async def execute(self, body_done: Callable[[], None]) -> None:
        """Run the job from its checkpoints and settle what came of it. Raises nothing."""
        self._task = asyncio.current_task()
        self._tell(events.RunStart, self._row.updated_at, self._claimed.seq, attempt=self.attempt)
        outcome = await self._outcome()
        self._close()
        body_done()
        await self.settle(outcome)

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
        return _at_once(lambda: self._job.fn(step, *args))

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
                    seq = await self._move(COMPLETE, Settlement(now, output=output))
                    self._tell_completed(now, seq, output)
                case Failed(error):
                    text = error_to_json(error)
                    seq = await self._move(FAIL, Settlement(now, error=text))
                    self._tell(events.RunFail, now, seq, error=error)
                case Released():
                    # It keeps its place in the line: it has been waiting since it was created.
                    seq = await self._move(RELEASE, Settlement(now, self._row.created_at))
                    self._tell(events.RunRelease, now, seq)
                case Gone():
                    logger.info("%s is not ours any more: %r", self._named(), self.interrupt)
        except LeaseLost:
            logger.warning("%s was taken over or cancelled before it was settled", self._named())
        except DurablyError as error:
            logger.error("%s could not be settled: %s", self._named(), error)

    async def _move(self, transition: Transition, settlement: Settlement) -> int:
        wakes = self._row.concurrency_key is not None or transition is RELEASE
        kept = settlement._replace(progress=self._progress, wakes=wakes)
        _, seq = await self._engine.store.settle(self.lease, transition, kept)
        return seq

    def _close(self) -> None:
        self._closed = True
        if self._progress_timer is not None:
            self._progress_timer.cancel()
        if self._dropped_logs:
            logger.warning("%s: %d log lines were dropped", self._named(), self._dropped_logs)

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
    ) -> Any:
        """A step of the job: from its checkpoint if it has one, else run and committed."""
        index = self._begin(name)
        codec = codec_of_returns(fn) if returns is None else codec_for(returns)
        if (checkpoint := self._checkpoints.get(name)) is not None:
            return self._replay(name, checkpoint, codec)
        retry = _NO_RETRY if retries == 0 else _as_retry(retries)
        started_at = self._engine.runtime.now()
        at = {"step_name": name, "step_index": index, "attempt": self.attempt}
        self._tell(events.StepStart, started_at, None, **at)
        task, outer = asyncio.current_task(), _current_step.get()
        _current_step.set(name)
        try:
            kept = await self._try(name, fn, args, codec, retry, timeout, call)
        except BaseException as error:
            if isinstance(error, GeneratorExit) and _current_task() is not task:
                raise  # the coroutine itself is being closed; nothing can be awaited any more
            raise await self._fail_step(name, index, started_at, error) from error.__cause__
        finally:
            _current_step.set(outer)
        now = self._engine.runtime.now()
        seq = await self._record(Entry("step:complete", now, name, index, started_at, kept.text))
        if self._engine.wanted(self.run_id):
            took = (now - started_at) / 1000
            output = load_json(kept.text)
            self._tell(events.StepComplete, now, seq, **at, output=output, duration=took)
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
                    value = await self._run_body(fn, args, call)
                else:
                    value = await self._run_in_time(name, fn, args, call, seconds(timeout))
                break
            except retry.on as error:
                failures += 1
                if failures > retry.times or isinstance(error, Interrupt):
                    raise
                pause = self._engine.runtime.jitter(retry.pause(failures))
                logger.warning(
                    "step %r of %s failed (try %d of %d), next in %.1f s: %s",
                    name, self._named(), failures, retry.times + 1, pause, describe(error).message,
                )  # fmt: skip
                await self._engine.runtime.sleep(pause)
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

    async def _run_body(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        call: Callable[..., Awaitable[Any]] | None,
    ) -> Any:
        if call is not None:
            value = await call(fn, args)
        elif self._engine.step_threads is None or _is_async(fn):
            value = fn(*args)
        else:
            value = await self._engine.step_threads.call(fn, *args)
        return await value if inspect.isawaitable(value) else value

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
                return await self._run_body(fn, args, call)
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
        self._tell(events.StepFail, now, seq, **at, error=described)
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
        try:
            return await self._engine.store.record(self.lease, entry)
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

    # -- progress and logs; from any thread

    def progress(self, current: float, total: float | None, message: str | None) -> None:
        """Tell it now; write it at most every ``PROGRESS_INTERVAL``, and the last one always."""
        progress = Progress(current, total, None if message is None else clean_text(message, 8192))
        self._on_loop(self._set_progress, progress, progress_to_json(progress))

    def _set_progress(self, progress: Progress, text: str) -> None:
        if self._is_over("step.progress"):
            return
        self._progress = text
        self._tell(events.RunProgress, self._engine.runtime.now(), None, progress=progress)
        if self._progress_timer is None:
            since = self._loop.time() - self._progress_at
            delay = max(0.0, PROGRESS_INTERVAL - since)
            self._progress_timer = self._loop.call_later(delay, self._write_progress)

    def _write_progress(self) -> None:
        self._progress_timer = None
        if self._closed or self._progress is None:
            return  # the settlement carries the last one
        self._progress_at = self._loop.time()
        now = self._engine.runtime.now()
        self._in_background(self._engine.store.save_progress(self.lease, self._progress, now))

    def log(self, level: LogLevel, message: str, data: Any) -> None:
        """Tell a line, and write it when log persistence is on."""
        step = _current_step.get()
        message = clean_text(str(message), MAX_LOG)
        text = _log_data(data)
        if len(message) + len(text) > MAX_LOG:
            text = dump_json(
                f"left out: {len(text)} characters of data, over the limit of {MAX_LOG}"
            )
        self._on_loop(self._add_log, level, message, text, step)

    def _add_log(self, level: LogLevel, message: str, text: str, step: str | None) -> None:
        if self._is_over("step.log"):
            return
        now = self._engine.runtime.now()
        if not self._engine.keep_logs:
            if self._engine.wanted(self.run_id):
                self._tell_log(now, None, level, message, text, step)
            return
        if self._pending_logs >= MAX_PENDING_LOGS:
            self._dropped_logs += 1
            return
        line = f'{{"level":"{level}","message":{dump_json(message)},"data":{text}}}'
        written = self._engine.store.record(self.lease, Entry("log:write", now, step, data=line))
        self._pending_logs += 1
        self._in_background(self._keep_log(written, now, level, message, text, step))

    async def _keep_log(
        self,
        written: Awaitable[int],
        now: int,
        level: LogLevel,
        message: str,
        text: str,
        step: str | None,
    ) -> None:
        try:
            seq = await written
        finally:
            self._pending_logs -= 1
        if self._engine.wanted(self.run_id):
            self._tell_log(now, seq, level, message, text, step)

    def _tell_log(
        self, now: int, seq: int | None, level: LogLevel, message: str, text: str, step: str | None
    ) -> None:
        line = {"step_name": step, "level": level, "message": message, "data": load_json(text)}
        self._tell(events.LogWrite, now, seq, **line)

    def _is_over(self, what: str) -> bool:
        if self._closed:
            logger.warning(
                "%s was called after %s ended, by a task left behind", what, self._named()
            )
        return self._closed or self.interrupt is not None

    def _on_loop(self, fn: Callable[..., None], *args: Any) -> None:
        if threading.get_ident() == self._thread:
            fn(*args)
        else:
            self._loop.call_soon_threadsafe(fn, *args)

    def _in_background(self, write: Coroutine[Any, Any, None]) -> None:
        """A write that nobody waits for: it must not harm the run that asked for it."""
        task = self._loop.create_task(write)
        _background.add(task)
        task.add_done_callback(self._background_done)

    def _background_done(self, task: asyncio.Task[None]) -> None:
        _background.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.debug("%s: a progress or log line was not kept: %r", self._named(), error)

    # -- small things

    def _tell(
        self, kind: Callable[..., events.AnyEvent], at: int, seq: int | None, **what: Any
    ) -> None:
        if self._engine.wanted(self.run_id):
            self._engine.publish(
                kind(
                    run_id=self.run_id,
                    job=self._row.job,
                    labels=self._labels,
                    timestamp=to_datetime(at),
                    sequence=seq,
                    **what,
                )
            )

    def _tell_completed(self, now: int, seq: int, output: str) -> None:
        took = (now - (self._row.started_at or now)) / 1000
        if self._engine.wanted(self.run_id):
            self._tell(events.RunComplete, now, seq, output=load_json(output), duration=took)

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


_background: set[asyncio.Task[None]] = set()  # keeps them alive until they are done


async def _at_once(fn: Callable[[], Any]) -> Any:
    return fn()


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


def _is_async(fn: Callable[..., Any]) -> bool:
    if (code := getattr(fn, "__code__", None)) is not None and code.co_flags & inspect.CO_COROUTINE:
        return True  # the usual case, at a tenth of the cost
    return inspect.iscoroutinefunction(fn)


def _as_retry(retries: int | Retry) -> Retry:
    return retries if isinstance(retries, Retry) else Retry(retries)


def _log_data(data: Any) -> str:
    """Log data is for reading: what JSON cannot hold is shown as text, not refused."""
    try:
        return PLAIN.keep(data).text
    except Unstorable:
        try:
            shown = to_jsonable_python(data, serialize_unknown=True, inf_nan_mode="strings")
            return dump_json(shown)
        except Exception:  # noqa: BLE001 - a log line must not fail a job
            return dump_json(clean_text(type(data).__name__, 200))
