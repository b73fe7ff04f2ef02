"""Where users' functions run: async ones on the loop, plain ones in daemon threads.

Daemons, so that a hung one never keeps the process alive.
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

T = TypeVar("T")


class Threads:
    """Up to ``limit`` threads, started when first needed and reused."""

    def __init__(self, limit: int, name: str) -> None:
        self._limit, self._name = limit, name
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._started = self._idle = 0

    def call(self, fn: Callable[..., T], *args: Any) -> asyncio.Future[T]:
        """Call ``fn(*args)`` in a thread, in this context; whatever it raises, the future raises."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        context = contextvars.copy_context()
        self._work.put(partial(call_for, future, loop, partial(context.run, fn, *args)))
        with self._lock:
            if self._idle:
                self._idle -= 1
            elif self._started < self._limit:
                self._started += 1
                name = f"{self._name}-{self._started}"
                threading.Thread(target=self._serve, name=name, daemon=True).start()
        return future

    def close(self) -> None:
        """Let idle threads end; busy ones end with their work."""
        for _ in range(self._limit):
            self._work.put(None)

    def _serve(self) -> None:
        while (work := self._work.get()) is not None:
            work()
            del work
            with self._lock:
                self._idle += 1


def call_for(
    future: asyncio.Future[Any], loop: asyncio.AbstractEventLoop, fn: Callable[[], Any]
) -> None:
    """Call ``fn`` in this thread for a future of that loop."""
    try:
        value, error = fn(), None
    except BaseException as raised:  # noqa: BLE001 - it travels to whoever awaits
        value, error = None, raised
    try:
        loop.call_soon_threadsafe(_resolve, future, value, error)
    except RuntimeError:  # the loop is closed; nobody awaits any more
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
    call: Callable[..., Awaitable[Any]] | None = None,
) -> Any:
    """Call a function where it belongs, or by ``call``; an awaitable result is awaited, always."""
    if call is not None:
        value = await call(fn, args)
    elif threads is None or _is_async(fn):
        value = fn(*args)
    else:
        value = await threads.call(fn, *args)
    return await value if inspect.isawaitable(value) else value


def _is_async(fn: Callable[..., Any]) -> bool:
    if (code := getattr(fn, "__code__", None)) is not None and code.co_flags & inspect.CO_COROUTINE:
        return True  # the usual case, at a tenth of the cost
    return inspect.iscoroutinefunction(fn)
