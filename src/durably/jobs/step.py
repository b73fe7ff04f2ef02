"""The step: the handle that a job's body holds. ``SyncStep`` is the same for a plain ``def``."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import copy_context
from functools import partial
from importlib.util import find_spec
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple, overload

from ..errors import ConfigurationError
from ..models import LogLevel
from ..runtime import Seconds
from ..threads import call_for
from .checks import check_name
from .retry import Retry

if TYPE_CHECKING:
    from ..worker.execution import Execution

T = TypeVar("T")
R = TypeVar("R")
Ts = TypeVarTuple("Ts")
Inbox = SimpleQueue[Callable[[], None] | None]


class StepLog:
    """Structured log lines: ``step.log.info("done", {"count": 3})``."""

    __slots__ = ("_execution",)

    def __init__(self, execution: Execution[Any, Any]) -> None:
        self._execution = execution

    def debug(self, message: str, data: Any = None) -> None:
        """Log at level debug; ``data`` is any plain JSON."""
        self._write("debug", message, data)

    def info(self, message: str, data: Any = None) -> None:
        """Log at level info; ``data`` is any plain JSON."""
        self._write("info", message, data)

    def warning(self, message: str, data: Any = None) -> None:
        """Log at level warning; ``data`` is any plain JSON."""
        self._write("warning", message, data)

    def error(self, message: str, data: Any = None) -> None:
        """Log at level error; ``data`` is any plain JSON."""
        self._write("error", message, data)

    def _write(self, level: LogLevel, message: str, data: Any) -> None:
        self._execution.report.log(level, message, data)


class _Handle:
    __slots__ = ("_execution", "log")

    def __init__(self, execution: Execution[Any, Any]) -> None:
        self._execution = execution
        self.log = StepLog(execution)

    @property
    def run_id(self) -> str:
        """The id of the run that executes."""
        return self._execution.run_id

    @property
    def attempt(self) -> int:
        """1 for the first time that a worker takes the run up, 2 for the second …"""
        return self._execution.attempt

    @property
    def cancelled(self) -> bool:
        """True once the run is to stop here: cancelled, taken over, or handed back."""
        return self._execution.interrupt is not None

    def idempotency_key(self, name: str) -> str:
        """A key that is the same on every attempt of this run's step ``name``.

        Give it to an external system so that a repeated call has no second effect.
        """
        return f"{self.run_id}:{check_name('a step name', name)}"

    def progress(
        self, current: float, total: float | None = None, message: str | None = None
    ) -> None:
        """Say how far the run is. Seen live at once; kept at most every 100 ms, the last one always."""
        self._execution.report.progress(current, total, message)


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
        call = self._execution.step(name, fn, args, returns, retries, timeout)
        return self._execution.to_be_awaited(name, call)

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

        What it writes and the checkpoint that tells of it are kept together or not at all: effects in
        the same database happen exactly once. Write there, and do nothing else: ``fn`` may be called
        again when a try was rolled back.

        On PostgreSQL ``fn`` is async, and ``connection`` is asyncpg's for all that runs statements. On
        SQLite it is a plain function, ``connection`` has ``execute``, ``executemany`` and ``cursor``,
        and every other write of this process waits for it.

        Raises as ``run``; ``ConfigurationError`` for what would end the transaction.
        """
        if unknown:
            raise _not_passed_on("transaction", name, fn, unknown)
        call = self._execution.step(name, fn, args, returns, retries, None, in_transaction=True)
        return self._execution.to_be_awaited(name, call)


class SyncStep(_Handle):
    """What a plain ``def`` job holds: the same, blocking. Functions run in the job's own thread."""

    __slots__ = ("_loop",)

    def __init__(self, execution: Execution[Any, Any], loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(execution)
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

        As ``Step.run``, blocking: the engine decides, and sends the call back to this thread. With a
        ``timeout`` it runs in another, so that this one can go on when the time is over.
        """
        if unknown:
            raise _not_passed_on("run", name, fn, unknown)
        inbox: Inbox = SimpleQueue()
        here = self._execution.has_threads and timeout is None
        call = partial(self._send, inbox) if here else None
        coroutine = self._execution.step(name, fn, args, returns, retries, timeout, call)
        return self._wait(coroutine, inbox)

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

        As ``Step.transaction``, blocking; ``fn`` runs where the connection is: in the thread that
        writes on SQLite, on the event loop on PostgreSQL, where it is async here too.
        """
        if unknown:
            raise _not_passed_on("transaction", name, fn, unknown)
        coroutine = self._execution.step(
            name, fn, args, returns, retries, None, in_transaction=True
        )
        return self._wait(coroutine, SimpleQueue())

    def _wait(self, coroutine: Coroutine[Any, Any, Any], inbox: Inbox) -> Any:
        """Do here what the engine sends back, until it is done."""
        if self._execution.has_threads and _is_running(self._loop):
            coroutine.close()
            raise ConfigurationError(
                "a SyncStep was used on the event loop, which would wait for itself; make the job "
                "'async def', and await its steps"
            )
        if not self._execution.has_threads:
            return _run_inline(coroutine)
        outcome: list[tuple[Any, BaseException | None]] = []

        async def finish() -> None:
            try:
                outcome.append((await coroutine, None))
            except BaseException as error:  # noqa: BLE001 - it travels to the job's thread, as it is
                outcome.append((None, error))
            finally:
                inbox.put(None)

        def ended(_: object) -> None:
            coroutine.close()
            inbox.put(None)  # also when it was cancelled before it began

        try:
            self._loop.call_soon_threadsafe(lambda: self._execution.start_task(finish(), ended))
        except RuntimeError:  # the loop is closed
            coroutine.close()
            raise (self._execution.interrupt or asyncio.CancelledError()) from None
        while (work := inbox.get()) is not None:
            work()
        value, error = outcome[0] if outcome else (None, asyncio.CancelledError())
        if isinstance(error, asyncio.CancelledError):
            raise (self._execution.interrupt or error) from None
        if error is not None:
            raise error
        return value

    def _send(
        self, inbox: Inbox, fn: Callable[..., Any], args: tuple[Any, ...]
    ) -> asyncio.Future[Any]:
        future = self._loop.create_future()
        call = partial(copy_context().run, fn, *args)
        inbox.put(partial(call_for, future, self._loop, call))
        return future


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


def _is_running(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether this thread is the one that runs the loop."""
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False


def _run_inline(coroutine: Any) -> Any:
    """Without threads a sync job cannot block for a commit: the platform must be able to wait."""
    platform: Any = importlib.import_module("pyodide.ffi") if find_spec("pyodide") else None
    if platform is None or not platform.can_run_sync():
        coroutine.close()
        raise ConfigurationError(
            "a plain 'def' job needs threads (or a browser with JSPI); make it 'async def'"
        )
    return platform.run_sync(coroutine)
