"""Where users' functions run: async ones on the loop, plain ones in daemon threads.

The threads are daemons, so that a hung one never keeps the process alive. Nothing can stop a thread, so
two rules hold: a call whose caller is gone before a thread begins it never begins, and one that has begun
counts as *running* until it ends, whatever its caller does (``Running``).
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
from collections.abc import Awaitable, Callable
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeVar

from .telemetry.logs import logger

T = TypeVar("T")


_RETRY_START = 0.5  # seconds until a thread that could not be started is tried again


class Running:
    """Counts the functions of a run that are in threads; they may outlive their callers."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._count = 0
        self._changed = asyncio.Event()

    def __bool__(self) -> bool:
        return self._count > 0

    def begin(self, future: asyncio.Future[Any]) -> bool:
        """Count a call, in its thread, just before it. False: its caller is gone, so it must not begin.

        After a caller has cancelled the future, the call is either in the count or never begins.
        """
        with self._lock:
            if future.done():
                return False
            self._count += 1
            return True

    def end(self) -> None:
        """End the count of a call, in its thread, when it has returned."""
        with self._lock:
            self._count -= 1
        try:
            self._loop.call_soon_threadsafe(self._changed.set)
        except RuntimeError:  # the loop is closed: nothing waits for it
            return

    async def wait(self) -> None:
        """Wait until none is left."""
        while self:
            self._changed.clear()
            if self:
                await self._changed.wait()


class Threads:
    """Up to ``limit`` threads, started when first needed and reused."""

    def __init__(self, limit: int, name: str) -> None:
        self._limit, self._name = limit, name
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._started = self._idle = 0
        self._closed = False

    def call(self, running: Running, fn: Callable[..., T], *args: Any) -> asyncio.Future[T]:
        """Call ``fn(*args)`` in a thread, in this context; whatever it raises, the future raises."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        context = contextvars.copy_context()
        call = partial(context.run, fn, *args)
        self._work.put(partial(_call_counted, running, future, loop, call))
        with self._lock:
            if self._idle:
                self._idle -= 1
                return future
        self._start_one(loop)
        return future

    def _start_one(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start a thread for what waits, if the limit allows one. The system may refuse it for a while."""
        with self._lock:
            if self._closed or self._started >= self._limit or self._work.empty():
                return
            name = f"{self._name}-{self._started + 1}"
            try:
                threading.Thread(target=self._serve, name=name, daemon=True).start()
            except RuntimeError as error:
                logger.warning("thread %s cannot be started, trying again: %s", name, error)
            else:
                self._started += 1
                return
        loop.call_later(_RETRY_START, self._start_one, loop)

    def close(self) -> None:
        """Let idle threads end; busy ones end with their work."""
        self._closed = True
        for _ in range(self._limit):
            self._work.put(None)

    def _serve(self) -> None:
        while (work := self._work.get()) is not None:
            work()
            del work
            with self._lock:
                self._idle += 1


def _call_counted(
    running: Running,
    future: asyncio.Future[Any],
    loop: asyncio.AbstractEventLoop,
    fn: Callable[[], Any],
) -> None:
    if running.begin(future):
        try:
            call_for(future, loop, fn)
        finally:
            running.end()


def call_for(
    future: asyncio.Future[Any], loop: asyncio.AbstractEventLoop, fn: Callable[[], Any]
) -> None:
    """Call ``fn`` in this thread for a future of that loop, unless its caller is gone."""
    if future.done():
        return
    try:
        value, error = fn(), None
    except BaseException as raised:  # noqa: BLE001 - the caller gets it
        value, error = None, raised
    try:
        loop.call_soon_threadsafe(_resolve, future, value, error)
    except RuntimeError:  # the loop is closed: nothing awaits the future
        return


def _resolve(future: asyncio.Future[Any], value: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(value)
    elif isinstance(error, StopIteration | GeneratorExit):  # no await can raise them
        future.set_exception(RuntimeError(f"the function raised {error!r}"))
    else:
        future.set_exception(error)


async def run_body(
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    threads: Threads | None,
    running: Running,
    call: Callable[..., Awaitable[Any]] | None = None,
) -> Any:
    """Call a function where it belongs, or by ``call``; await its result if that is awaitable."""
    if call is not None:
        value = await call(fn, args)
    elif threads is None or _is_async(fn):
        value = fn(*args)
    else:
        value = await threads.call(running, fn, *args)
    return await value if inspect.isawaitable(value) else value


def _is_async(fn: Callable[..., Any]) -> bool:
    if (code := getattr(fn, "__code__", None)) is not None and code.co_flags & inspect.CO_COROUTINE:
        return True  # the usual case, at a tenth of the cost
    return inspect.iscoroutinefunction(fn)
