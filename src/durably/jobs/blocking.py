"""Steps of a plain ``def`` job: its thread blocks while the event loop decides.

The loop runs the step's coroutine. When it is the function's turn, the loop sends the call back to the
thread of the job, which waits at an inbox: so a plain job's functions run where its body does.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from functools import partial
from importlib.util import find_spec
from queue import SimpleQueue
from typing import Any

from ..errors import ConfigurationError
from ..threads import call_for
from .runner import StepRunner


class BlockingCall:
    """One step of a plain job, seen from the thread that waits for it."""

    __slots__ = ("_inbox", "_loop", "_runner")

    def __init__(self, runner: StepRunner, loop: asyncio.AbstractEventLoop) -> None:
        self._runner, self._loop = runner, loop
        self._inbox: SimpleQueue[Callable[[], None] | None] = SimpleQueue()

    def send(self, fn: Callable[..., Any], args: tuple[Any, ...]) -> asyncio.Future[Any]:
        """On the loop: have the waiting thread call ``fn(*args)``."""
        future = self._loop.create_future()
        call = partial(copy_context().run, fn, *args)
        self._inbox.put(partial(call_for, future, self._loop, call))
        return future

    def wait(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """In the job's thread: do what the loop sends until the step is done; return its result."""
        if self._runner.has_threads and _is_running(self._loop):
            coroutine.close()
            raise ConfigurationError(
                "a SyncStep was used on the event loop, which would wait for itself; make the job "
                "'async def', and await its steps"
            )
        if not self._runner.has_threads:
            return _run_inline(coroutine)
        outcome = self._start(coroutine)
        while (work := self._inbox.get()) is not None:
            work()
        value, error = outcome[0] if outcome else (None, asyncio.CancelledError())
        if isinstance(error, asyncio.CancelledError):
            raise (self._runner.interrupt or error) from None
        if error is not None:
            raise error
        return value

    def _start(self, coroutine: Coroutine[Any, Any, Any]) -> list[tuple[Any, BaseException | None]]:
        """Start the step on the loop; the list gets its result or its error before the inbox is closed."""
        outcome: list[tuple[Any, BaseException | None]] = []

        async def finish() -> None:
            try:
                outcome.append((await coroutine, None))
            except BaseException as error:  # noqa: BLE001 - it travels to the job's thread, as it is
                outcome.append((None, error))
            finally:
                self._inbox.put(None)

        def on_end(_: object) -> None:
            coroutine.close()
            self._inbox.put(None)  # also when it was cancelled before it began

        try:
            self._loop.call_soon_threadsafe(lambda: self._runner.start_task(finish(), on_end))
        except RuntimeError:  # the loop is closed
            coroutine.close()
            raise (self._runner.interrupt or asyncio.CancelledError()) from None
        return outcome


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
