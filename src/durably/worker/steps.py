"""The steps of a run: what ``step.run`` and the other methods of a job's step do.

A step returns its checkpoint if it has one. Otherwise its function runs (``tries``), its result is
committed (``ledger``), and the event is published: in this order, so that no event announces a result that
could still be lost.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import signal
from collections.abc import Callable, Coroutine
from subprocess import CalledProcessError
from typing import Any

from .. import events
from ..errors import (
    ConfigurationError,
    DurablyError,
    HandedBack,
    Interrupt,
    StepFailedError,
    StepValueError,
)
from ..jobs.retry import Retry
from ..jobs.runner import StepCall
from ..models import LogLevel
from ..options import positive, whole
from ..store.records import Entry
from ..telemetry.logs import CURRENT_STEP, format_duration, one_line, runs_logger
from ..values.codec import Codec, codec_for, codec_of_returns
from ..values.difference import a_type
from ..values.text import load_json
from .attempt import Attempt
from .body import Body, current_task
from .failure import error_info, failure_to_json
from .ledger import Ledger
from .report import Reporter
from .tries import PreparedStep, Tries

_NO_RETRY = Retry(0)
_SIGNAL_DELAY = 0.2  # seconds by which a signal may reach a child process before it reaches us
_STOP_SIGNALS = frozenset({signal.SIGINT, signal.SIGTERM})


class Steps:
    """Runs the steps of one attempt: the ``StepRunner`` that its job's step has."""

    def __init__(self, attempt: Attempt, body: Body, ledger: Ledger, reporter: Reporter) -> None:
        self._attempt, self._body, self._ledger = attempt, body, ledger
        self._reporter = reporter
        self._tries = Tries(attempt, body, ledger)
        self._context = attempt.context
        self._current: dict[str, None] = {}
        """The steps that run now, or ran when the run was interrupted, in the order of their start."""

    @property
    def run_id(self) -> str:
        return self._attempt.run_id

    @property
    def attempt(self) -> int:
        return self._attempt.number

    @property
    def interrupt(self) -> Interrupt | None:
        return self._attempt.interrupt

    @property
    def has_threads(self) -> bool:
        return self._context.step_threads is not None

    @property
    def position(self) -> str:
        """Where in the job this attempt is, or was when it was interrupted, for people."""
        if not self._current:
            return "between steps"
        names = list(self._current)
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        return f"in step{'' if len(names) == 1 else 's'} {', '.join(map(repr, names[:3]))}{more}"

    def write_log(self, level: LogLevel, message: str, data: Any) -> None:
        self._reporter.log(level, message, data)

    def report_progress(self, current: float, total: float | None, message: str | None) -> None:
        self._reporter.progress(current, total, message)

    def track(self, name: str, call: Coroutine[Any, Any, Any]) -> Coroutine[Any, Any, Any]:
        return self._body.track(name, call)

    def start_task(
        self, coroutine: Coroutine[Any, Any, None], on_end: Callable[[object], None]
    ) -> None:
        self._body.start_task(coroutine, on_end)

    # -- one step

    async def run_step(self, call: StepCall) -> Any:
        """Return the step's result from its checkpoint, or run and commit it."""
        name = call.name
        index = self._ledger.begin(name)
        if (failure := self._ledger.take_failure(name)) is not None:
            raise failure
        try:
            codec = _codec_of(call)
            if self._ledger.is_in_doubt(name):
                await self._ledger.recommit(name)
            if (checkpoint := self._ledger.checkpoint(name)) is not None:
                return self._ledger.restore(name, checkpoint, codec)
            retry = call.retries if isinstance(call.retries, Retry) else _retry(call.retries)
            limit = None if call.timeout is None else positive("timeout", call.timeout)
        except (TypeError, DurablyError) as error:
            raise self._refused(name, error) from None
        now = self._context.runtime.now()
        return await self._run(PreparedStep(call, index, now, codec, retry, limit))

    async def _run(self, step: PreparedStep) -> Any:
        details = {"step_name": step.name, "step_index": step.index, "attempt": self.attempt}
        self._reporter.publish(events.StepStart, step.started_at, None, **details)
        task, outer = asyncio.current_task(), CURRENT_STEP.get()
        CURRENT_STEP.set(step.name)
        self._current[step.name] = None
        has_entered = self._body.enter_step(task)
        try:
            kept, seq = await self._tries.run(step)
        except BaseException as error:
            if isinstance(error, GeneratorExit) and current_task() is not task:
                raise  # the coroutine itself is being closed; nothing can be awaited any more
            failure = await self._fail(step, error, details)
            if not isinstance(failure, Exception):
                self._ledger.allow_again(step.name)
                now = self._context.runtime.now()
                self._reporter.publish(events.StepCancel, now, None, **details)
            raise failure from error.__cause__
        finally:
            CURRENT_STEP.set(outer)
            if self.interrupt is None:  # otherwise it shows where the run was interrupted
                self._current.pop(step.name, None)
            if has_entered:
                self._body.leave_step(task)
        now = self._context.runtime.now()
        if seq is None:
            entry = Entry("step:complete", now, step.name, step.index, step.started_at, kept.text)
            seq = await self._ledger.commit(entry)
        self._completed(step, seq, now, kept.text, details)
        return kept.value

    def _completed(
        self, step: PreparedStep, seq: int, now: int, output: str, details: dict[str, Any]
    ) -> None:
        """Count, log and publish a committed step."""
        duration = (now - step.started_at) / 1000
        self._ledger.committed += 1
        self._context.instruments.step_completed(self._attempt.job_name, duration)
        if runs_logger.isEnabledFor(logging.DEBUG):
            text = ": step %r completed in %s"
            self._attempt.log(
                logging.DEBUG, text, step.name, format_duration(duration), step=step.name
            )
        if self._reporter.has_listeners:
            self._reporter.publish(
                events.StepComplete,
                now,
                seq,
                **details,
                output=load_json(output),
                duration=duration,
            )

    def _refused(self, name: str, error: TypeError | DurablyError) -> DurablyError:
        """The error of a step that cannot run as it is written, with the step's name."""
        refused: DurablyError
        where = f"step {name!r} of {self._attempt.description}"
        if isinstance(error, StepValueError):
            refused = error
        elif isinstance(error, DurablyError):
            refused = ConfigurationError(f"{where}: {error}")
        else:
            refused = StepValueError(f"the result of {where}: {error}")
        self._ledger.add_failure(name, refused)
        return refused

    # -- failures

    async def _fail(
        self, step: PreparedStep, error: BaseException, details: dict[str, Any]
    ) -> BaseException:
        """Record a step's failure; return what to raise to the job."""
        if self.interrupt is not None:
            return self.interrupt
        if isinstance(error, KeyboardInterrupt | Interrupt):
            return error
        if not isinstance(error, Exception):
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task and task.cancelling():
                return error  # the task around us is being cancelled
            text = f"step {step.name!r} of {self._attempt.description} raised {error!r}"
            failed = StepFailedError(text)
            failed.__cause__ = error
            error = failed
        if await self._attribute_to_stop(error):
            self._body.stop(HandedBack("this worker is stopping"))
            assert self.interrupt is not None
            return self.interrupt
        await self._record_failure(step, error, details)
        return error

    async def _record_failure(
        self, step: PreparedStep, error: Exception, details: dict[str, Any]
    ) -> None:
        now, info = self._context.runtime.now(), error_info(error, step.name)
        self._attempt.log(logging.DEBUG, ": step %r failed: %s", step.name, one_line(str(info)))
        text = failure_to_json(error, info)
        self._ledger.allow_again(step.name)
        entry = Entry("step:fail", now, step.name, step.index, step.started_at, text)
        seq = await self._attempt.record(entry)
        self._ledger.add_failure(step.name, error)
        self._reporter.publish(events.StepFail, now, seq, **details, error=info)

    async def _attribute_to_stop(self, error: Exception) -> bool:
        """Return whether a step failed while this worker stops, and log it.

        The signal that stops the worker may have ended what the step was waiting for, so the run goes
        back, to be resumed elsewhere.
        """
        if isinstance(error, CalledProcessError) and _is_stop_signal(error.returncode):
            await self._context.runtime.sleep(_SIGNAL_DELAY)
        if self._context.stopping:
            text = " is handed back: a step failed while this worker stops: %r"
            self._attempt.log(logging.WARNING, text, error)
        return self._context.stopping


def _retry(times: int) -> Retry:
    return _NO_RETRY if times == 0 and type(times) is int else Retry(whole("retries", times))


def _codec_of(call: StepCall) -> Codec[Any]:
    """The codec of a step's result; ``ConfigurationError`` if its function cannot be called."""
    fn: Any = call.fn
    if callable(fn):
        return codec_of_returns(fn) if call.returns is None else codec_for(call.returns)
    if inspect.iscoroutine(fn):
        fn.close()
    raise ConfigurationError(
        f"its function is {a_type(fn, article=True)}; pass the function and its arguments, as in "
        f"step.run({call.name!r}, fetch, url), not what it returns"
    )


def _is_stop_signal(returncode: int) -> bool:
    """Whether a process was ended by the signal of a stop, or its shell reports so."""
    return -returncode in _STOP_SIGNALS or returncode - 128 in _STOP_SIGNALS
