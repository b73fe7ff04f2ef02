"""The step: the handle that a job's body holds. ``SyncStep`` is the same for a plain ``def``."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, TypeVarTuple, overload

from ..runtime import Seconds
from .blocking import BlockingCall
from .checks import check_name
from .retry import Retry
from .runner import StepCall, StepRunner

T = TypeVar("T")
R = TypeVar("R")
Ts = TypeVarTuple("Ts")


class StepLog:
    """Structured log lines: ``step.log.info("done", {"count": 3})``."""

    __slots__ = ("_runner",)

    def __init__(self, runner: StepRunner) -> None:
        self._runner = runner

    def debug(self, message: str, data: Any = None) -> None:
        """Log at level debug; ``data`` is any plain JSON."""
        self._runner.write_log("debug", message, data)

    def info(self, message: str, data: Any = None) -> None:
        """Log at level info; ``data`` is any plain JSON."""
        self._runner.write_log("info", message, data)

    def warning(self, message: str, data: Any = None) -> None:
        """Log at level warning; ``data`` is any plain JSON."""
        self._runner.write_log("warning", message, data)

    def error(self, message: str, data: Any = None) -> None:
        """Log at level error; ``data`` is any plain JSON."""
        self._runner.write_log("error", message, data)


class _Handle:
    __slots__ = ("_runner", "log")

    def __init__(self, runner: StepRunner) -> None:
        self._runner = runner
        self.log = StepLog(runner)

    @property
    def run_id(self) -> str:
        """The id of the run that executes."""
        return self._runner.run_id

    @property
    def attempt(self) -> int:
        """1 for the first time that a worker takes the run up, 2 for the second …"""
        return self._runner.attempt

    @property
    def cancelled(self) -> bool:
        """True once the run is to stop here: cancelled, taken over, or handed back."""
        return self._runner.interrupt is not None

    def idempotency_key(self, name: str) -> str:
        """A key that is the same on every attempt of this run's step ``name``.

        Give it to an external system so that a repeated call has no second effect.
        """
        return f"{self.run_id}:{check_name('a step name', name)}"

    def progress(
        self, current: float, total: float | None = None, message: str | None = None
    ) -> None:
        """Report how far the run is. Published at once; stored at most every 100 ms, the last one always."""
        self._runner.report_progress(current, total, message)


class Step(_Handle):
    """What an ``async def`` job holds to run its steps."""

    __slots__ = ()

    @overload
    async def run(
        self,
        name: str,
        fn: Callable[[*Ts], object],
        /,
        *args: *Ts,
        returns: type[R],
        retries: int | Retry = 0,
        timeout: Seconds | None = None,
    ) -> R: ...
    @overload
    async def run(
        self,
        name: str,
        fn: Callable[[*Ts], object],
        /,
        *args: *Ts,
        returns: Any,
        retries: int | Retry = 0,
        timeout: Seconds | None = None,
    ) -> Any: ...
    @overload
    async def run(
        self,
        name: str,
        fn: Callable[[*Ts], Awaitable[T]],
        /,
        *args: *Ts,
        retries: int | Retry = 0,
        timeout: Seconds | None = None,
    ) -> T: ...
    @overload
    async def run(
        self,
        name: str,
        fn: Callable[[*Ts], T],
        /,
        *args: *Ts,
        retries: int | Retry = 0,
        timeout: Seconds | None = None,
    ) -> T: ...
    def run(  # type: ignore[misc]  # mypy cannot match Ts with ...
        self,
        name: str,
        fn: Callable[..., Any],
        /,
        *args: Any,
        returns: Any = None,
        retries: int | Retry = 0,
        timeout: Seconds | None = None,
        **unknown: Any,
    ) -> Any:
        """Call ``fn(*args)`` and commit its result, or return the result committed earlier.

        ``name`` is the step's identity within the run. ``fn`` may be async; a plain function runs in a
        thread. ``returns`` is the result's type, by default the return annotation of ``fn``; without
        either the result must be plain JSON. ``retries`` is a number of further tries or a ``Retry``.
        ``timeout`` holds for each try, in seconds; a function in a thread goes on, but its result is
        ignored. Keyword arguments are bound to ``fn`` by ``functools.partial``.

        Raises what ``fn`` raised last, ``StepValueError`` for a result that cannot be kept,
        ``DuplicateStepError``, ``StepTimeoutError``.
        """
        if unknown:
            raise _not_passed_on("run", name, fn, unknown)
        call = StepCall(name, fn, args, returns, retries, timeout)
        return self._runner.track(name, self._runner.run_step(call))

    @overload
    async def transaction(
        self,
        name: str,
        fn: Callable[[Any, *Ts], object],
        /,
        *args: *Ts,
        returns: type[R],
        retries: int | Retry = 0,
    ) -> R: ...
    @overload
    async def transaction(
        self,
        name: str,
        fn: Callable[[Any, *Ts], object],
        /,
        *args: *Ts,
        returns: Any,
        retries: int | Retry = 0,
    ) -> Any: ...
    @overload
    async def transaction(
        self,
        name: str,
        fn: Callable[[Any, *Ts], Awaitable[T]],
        /,
        *args: *Ts,
        retries: int | Retry = 0,
    ) -> T: ...
    @overload
    async def transaction(
        self,
        name: str,
        fn: Callable[[Any, *Ts], T],
        /,
        *args: *Ts,
        retries: int | Retry = 0,
    ) -> T: ...
    def transaction(  # type: ignore[misc]  # mypy cannot match Ts with ...
        self,
        name: str,
        fn: Callable[..., Any],
        /,
        *args: Any,
        returns: Any = None,
        retries: int | Retry = 0,
        **unknown: Any,
    ) -> Any:
        """Call ``fn(connection, *args)`` in the very transaction that commits its result.

        What it writes and its checkpoint are committed together or not at all: effects in
        the same database happen exactly once. Write there, and do nothing else: ``fn`` may be called
        again when a try was rolled back.

        On PostgreSQL ``fn`` is async, and ``connection`` is asyncpg's for all that runs statements. On
        SQLite it is a plain function, ``connection`` has ``execute``, ``executemany`` and ``cursor``,
        and every other write of this process waits for it.

        Raises as ``run``; ``ConfigurationError`` for what would end the transaction.
        """
        if unknown:
            raise _not_passed_on("transaction", name, fn, unknown)
        call = StepCall(name, fn, args, returns, retries, in_transaction=True)
        return self._runner.track(name, self._runner.run_step(call))


class SyncStep(_Handle):
    """What a plain ``def`` job holds: the same, blocking. Functions run in the job's own thread."""

    __slots__ = ("_loop",)

    def __init__(self, runner: StepRunner, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(runner)
        self._loop = loop

    @overload
    def run(
        self,
        name: str,
        fn: Callable[[*Ts], object],
        /,
        *args: *Ts,
        returns: type[R],
        retries: int | Retry = 0,
        timeout: Seconds | None = None,
    ) -> R: ...
    @overload
    def run(
        self,
        name: str,
        fn: Callable[[*Ts], object],
        /,
        *args: *Ts,
        returns: Any,
        retries: int | Retry = 0,
        timeout: Seconds | None = None,
    ) -> Any: ...
    @overload
    def run(
        self,
        name: str,
        fn: Callable[[*Ts], Awaitable[T]],
        /,
        *args: *Ts,
        retries: int | Retry = 0,
        timeout: Seconds | None = None,
    ) -> T: ...
    @overload
    def run(
        self,
        name: str,
        fn: Callable[[*Ts], T],
        /,
        *args: *Ts,
        retries: int | Retry = 0,
        timeout: Seconds | None = None,
    ) -> T: ...
    def run(  # type: ignore[misc]  # mypy cannot match Ts with ...
        self,
        name: str,
        fn: Callable[..., Any],
        /,
        *args: Any,
        returns: Any = None,
        retries: int | Retry = 0,
        timeout: Seconds | None = None,
        **unknown: Any,
    ) -> Any:
        """Call ``fn(*args)`` and commit its result, or return the result committed earlier.

        Works like ``Step.run``, but blocks. ``fn`` runs in this thread; with a ``timeout`` it runs in another,
        so that this one can go on when the time is over.
        """
        if unknown:
            raise _not_passed_on("run", name, fn, unknown)
        blocking = BlockingCall(self._runner, self._loop)
        here = self._runner.has_threads and timeout is None
        send = blocking.send if here else None
        call = StepCall(name, fn, args, returns, retries, timeout, send=send)
        return blocking.wait(self._runner.run_step(call))

    @overload
    def transaction(
        self,
        name: str,
        fn: Callable[[Any, *Ts], object],
        /,
        *args: *Ts,
        returns: type[R],
        retries: int | Retry = 0,
    ) -> R: ...
    @overload
    def transaction(
        self,
        name: str,
        fn: Callable[[Any, *Ts], object],
        /,
        *args: *Ts,
        returns: Any,
        retries: int | Retry = 0,
    ) -> Any: ...
    @overload
    def transaction(
        self,
        name: str,
        fn: Callable[[Any, *Ts], Awaitable[T]],
        /,
        *args: *Ts,
        retries: int | Retry = 0,
    ) -> T: ...
    @overload
    def transaction(
        self,
        name: str,
        fn: Callable[[Any, *Ts], T],
        /,
        *args: *Ts,
        retries: int | Retry = 0,
    ) -> T: ...
    def transaction(  # type: ignore[misc]  # mypy cannot match Ts with ...
        self,
        name: str,
        fn: Callable[..., Any],
        /,
        *args: Any,
        returns: Any = None,
        retries: int | Retry = 0,
        **unknown: Any,
    ) -> Any:
        """Call ``fn(connection, *args)`` in the very transaction that commits its result.

        Works like ``Step.transaction``, but blocks. ``fn`` runs where the connection is: in the thread that
        writes on SQLite, on the event loop on PostgreSQL, where it is async here too.
        """
        if unknown:
            raise _not_passed_on("transaction", name, fn, unknown)
        call = StepCall(name, fn, args, returns, retries, in_transaction=True)
        return BlockingCall(self._runner, self._loop).wait(self._runner.run_step(call))


def _not_passed_on(
    method: str, name: str, fn: Callable[..., Any], unknown: dict[str, Any]
) -> TypeError:
    """Only what is positional can be typed and leaves names like ``timeout`` to both."""
    called = getattr(fn, "__name__", "fn")
    keywords = ", ".join(f"{keyword}=..." for keyword in unknown)
    return TypeError(
        f"step {name!r}: step.{method}() passes no keyword arguments to its function; bind them, as in "
        f"step.{method}({name!r}, functools.partial({called}, {keywords}))"
    )
