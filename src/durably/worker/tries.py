"""Runs the function of a step, again after a failure if it has retries, and encodes its result."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any

from ..errors import (
    ConfigurationError,
    Interrupt,
    RunCancelled,
    StepTimeoutError,
    StepValueError,
)
from ..jobs.retry import Retry
from ..jobs.runner import StepCall
from ..store.base import Store
from ..store.records import Entry
from ..telemetry.logs import format_duration, one_line, runs_logger
from ..threads import run_body
from ..values.codec import Codec, Kept, Unstorable
from .attempt import Attempt
from .body import Body
from .context import TRANSACTION_STORE
from .failure import error_info
from .ledger import Ledger


@dataclass(frozen=True, slots=True)
class PreparedStep:
    """A step that is about to run: its call, checked, and its place in the run."""

    call: StepCall
    index: int
    started_at: int
    """Milliseconds since 1970."""
    codec: Codec[Any]
    retry: Retry
    limit: float | None
    """Seconds that each try may last."""

    @property
    def name(self) -> str:
        return self.call.name


class Tries:
    """Runs the functions of one attempt's steps."""

    def __init__(self, attempt: Attempt, body: Body, ledger: Ledger) -> None:
        self._attempt, self._body, self._ledger = attempt, body, ledger
        self._context = attempt.context

    async def run(self, step: PreparedStep) -> tuple[Kept[Any], int | None]:
        """Run a step's function until a try succeeds; the number of its record if it is committed, too.

        Raises the last error when no try is left.
        """
        if step.call.in_transaction:
            return await self._transact(step)
        failures = 0
        while True:
            await self._require_lease(step.name)
            try:
                value = await self._call(step)
                break
            except step.retry.on as error:
                failures += 1
                await self._pause(step, failures, error)
        return self.encode(step, value), None

    async def _require_lease(self, name: str) -> None:
        """Before each try: raise if this worker no longer holds the run."""
        if self._attempt.may_have_lapsed:
            await self._attempt.confirm_lease()
        self._attempt.require_open(name)

    async def _pause(self, step: PreparedStep, failures: int, error: BaseException) -> None:
        """Wait before the next try; raise the error when there is none."""
        retry, runtime = step.retry, self._context.runtime
        if failures > retry.times or isinstance(error, Interrupt) or self._context.stopping:
            raise error
        pause = runtime.jitter(retry.pause(failures))
        if runs_logger.isEnabledFor(logging.WARNING):
            info = error_info(error)
            self._attempt.log(
                logging.WARNING, ": step %r failed (try %d of %d), next try in %s: %s",
                step.name, failures, retry.times + 1, format_duration(pause), one_line(str(info)),
                error_type=info.type,
            )  # fmt: skip
        await runtime.sleep(pause)

    # -- a function

    async def _call(self, step: PreparedStep) -> Any:
        call, threads = step.call, self._context.step_threads
        if step.limit is None:
            return await run_body(call.fn, call.args, threads, self._body.threads, call.send)
        clock = asyncio.timeout(step.limit)
        late = (
            f"step {step.name!r} of {self._attempt.description} took longer than {step.limit:g} s"
        )
        try:
            async with clock:
                value = await run_body(call.fn, call.args, threads, self._body.threads, call.send)
        except TimeoutError:
            if clock.expired():
                raise StepTimeoutError(late) from None
            raise
        if clock.expired():  # the function swallowed its cancellation: this is half a result
            raise StepTimeoutError(late)
        return value

    def encode(self, step: PreparedStep, value: Any) -> Kept[Any]:
        """Encode a step's result; ``StepValueError`` if it cannot be stored."""
        try:
            kept = step.codec.keep(value)
        except Unstorable as problem:
            raise StepValueError(
                f"step {step.name!r} of {self._attempt.description} returned {problem.problem} at "
                f"{problem.path}; annotate the function with the type that it returns, or pass returns=",
                path=problem.path,
            ) from None
        self._attempt.check_size(kept.text, f"the result of step {step.name!r}", StepValueError)
        return kept

    # -- a function within the transaction that commits its result

    async def _transact(self, step: PreparedStep) -> tuple[Kept[Any], int]:
        name, store = step.name, self._context.store
        entry = Entry("step:complete", step.started_at, name, step.index, step.started_at)
        call = _TransactionCall(self, step, store, self._attempt.description)
        failures = 0
        while True:
            await self._require_lease(name)
            try:
                again = self._ledger.is_in_doubt(name)
                write = store.transact(self._attempt.lease, entry, call, again=again)
                seq, kept = await self._attempt.fenced(write)
                self._ledger.resolve(name)
                break
            except asyncio.CancelledError:
                call.is_cancelled = True
                self._ledger.doubt(entry)
                raise
            except step.retry.on as error:
                failures += 1
                await self._pause(step, failures, error)
        if kept is None:  # an earlier try was committed after all: its result is the checkpoint
            checkpoint = await store.checkpoint(self._attempt.run_id, name)
            assert checkpoint is not None
            kept = Kept(checkpoint.data, self._ledger.restore(name, checkpoint, step.codec))
        return kept, seq


class _TransactionCall:
    """A step's function as the store calls it, with the transaction's connection."""

    def __init__(self, tries: Tries, step: PreparedStep, store: Store, description: str) -> None:
        self._tries, self._step, self._store = tries, step, store
        self._description = description
        self._context = copy_context()
        self.is_cancelled = False

    def __call__(self, connection: Any) -> Any:
        if self.is_cancelled:  # while it waited for the file
            raise RunCancelled(f"step {self._step.name!r} of {self._description} was cancelled")
        call = self._step.call
        context = self._context.copy()
        value = context.run(_call_with, self._store, call.fn, connection, *call.args)
        self._check_awaitable(value)
        if inspect.isawaitable(value):
            return self._encode_later(value)
        return self._tries.encode(self._step, value)

    async def _encode_later(self, value: Awaitable[Any]) -> Kept[Any]:
        return self._tries.encode(self._step, await value)

    def _check_awaitable(self, value: object) -> None:
        """Refuse a function of the wrong kind: it would write nothing, or after the commit."""
        name = self._step.name
        if inspect.isawaitable(value) == self._store.lends_async:
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


def _call_with(store: Store, fn: Callable[..., Any], *args: Any) -> Any:
    TRANSACTION_STORE.set(store)
    return fn(*args)
