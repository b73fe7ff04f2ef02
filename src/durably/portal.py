"""An event loop in a thread, and calls into it from threads that block."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import (
    AsyncIterator,
    Coroutine,
    Iterator,
)
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

from .errors import ClosedError, ConfigurationError

T = TypeVar("T")


_CLOSED = "this Durably is closed; use it inside 'with durably.sync() as d'"


class Portal:
    """An event loop in a thread of its own, and the way into it."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._lock = threading.Lock()
        self._closed = False
        self._calls: set[asyncio.Task[Any]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def check_thread(self) -> None:
        """Refuse the loop's own thread: it would wait for itself, and with it all that runs there."""
        if threading.current_thread() is self._thread:
            raise ConfigurationError(
                "a blocking call was made in the thread of its own event loop, by a listener or an "
                "'async def' job; await the methods of Durably there, or make the job a plain 'def'"
            )

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop and wait for it."""
        try:
            self.check_thread()
            with self._lock:
                if self._closed or not self._thread.is_alive():
                    raise ClosedError(_CLOSED)
                future = asyncio.run_coroutine_threadsafe(self._run(coroutine), self._loop)
        except BaseException:
            coroutine.close()
            raise
        try:
            outcome = future.result()
        except CancelledError:
            raise ClosedError(_CLOSED) from None
        except BaseException:
            future.cancel()
            raise
        return outcome.unwrap()

    async def _run(self, coroutine: Coroutine[Any, Any, T]) -> _Outcome[T]:
        """On the loop: what a call comes to."""
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        self._calls.add(task)
        try:
            return _Outcome(await coroutine)
        except Exception as error:  # noqa: BLE001 - it travels to the caller
            return _Outcome(error=error)
        finally:
            self._calls.discard(task)

    def iterate(self, stream: AsyncIterator[T]) -> Iterator[T]:
        """Iterate an asynchronous generator from here."""
        try:
            while True:
                try:
                    yield self.call(_next(stream))
                except StopAsyncIteration:
                    return
        finally:
            # Closed meanwhile, and with it the stream; or collected in the loop's thread.
            with suppress(ClosedError, ConfigurationError):
                self.call(cast("Any", stream).aclose())

    def close(self) -> None:
        """Stop the loop and its thread; calls that still wait raise ``ClosedError``."""
        self.check_thread()
        with self._lock:
            self._closed = True
        asyncio.run_coroutine_threadsafe(self._end_all(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end_all(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        # A call whose caller was interrupted is ending already: a stop hands runs back.
        if ending := {task for task in self._calls if task.cancelling()}:
            await asyncio.wait(ending)
            others -= ending
        for task in others:
            task.cancel()
        if others:
            await asyncio.wait(others)
        await self._loop.shutdown_asyncgens()


@dataclass(slots=True)
class _Outcome(Generic[T]):
    """What a coroutine came to. A future would make another exception of a plain TimeoutError."""

    value: T | None = None
    error: Exception | None = None

    def unwrap(self) -> T:
        if self.error is None:
            return cast("T", self.value)
        try:
            raise self.error
        finally:
            self.error = None  # its traceback refers to this frame


async def _next(stream: AsyncIterator[T]) -> T:
    return await anext(stream)
