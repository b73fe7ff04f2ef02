"""Run coroutines from plain code, where no thread can wait for them.

With JavaScript Promise Integration (Chromium, Node 25) Pyodide's own loop runs on while Python waits.
Without it (Node 20) a loop of asyncio's own code does, on a clock and nothing else: there are no sockets.
"""

from __future__ import annotations

import asyncio
from asyncio.base_events import BaseEventLoop
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from js import Atomics, Int32Array, SharedArrayBuffer
from pyodide.ffi import can_run_sync, run_sync

_PATIENCE = 10.0  # seconds for a test or a fixture


class _Clock:
    """In a selector's place: it waits, and nothing ever comes."""

    def __init__(self) -> None:
        self._never = Int32Array.new(SharedArrayBuffer.new(4))

    def select(self, timeout: float | None) -> list[Any]:
        if timeout is None:
            raise RuntimeError("deadlock: nothing is ready and no timer is set")
        if timeout > 0:
            Atomics.wait(self._never, 0, 0, timeout * 1000)
        return []


class ClockLoop(BaseEventLoop):
    """asyncio without sockets, threads and signals."""

    def __init__(self) -> None:
        super().__init__()
        self._selector = _Clock()

    def _process_events(self, event_list: list[Any]) -> None:
        pass

    def _write_to_self(self) -> None:
        pass

    async def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
        return func(*args)  # as Pyodide's own loop does


class Driver:
    """Runs the coroutines of one test, its fixtures' too, on one loop."""

    def __init__(self) -> None:
        self._runner = None if can_run_sync() else asyncio.Runner(loop_factory=ClockLoop)

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        if self._runner is None:
            return run_sync(asyncio.ensure_future(_ended(coroutine)))
        with _between_loops():
            return self._runner.run(_ended(coroutine))

    def close(self) -> None:
        """End what a test left behind."""
        if self._runner is None:
            return run_sync(_cancel_others())
        with _between_loops():
            return self._runner.close()


@contextmanager
def _between_loops() -> Iterator[None]:
    """Pyodide's loop always counts as running; it is not, while this code does not return to it."""
    running = asyncio._get_running_loop()
    asyncio._set_running_loop(None)
    try:
        yield
    finally:
        asyncio._set_running_loop(running)


async def _ended(coroutine: Coroutine[Any, Any, Any]) -> Any:
    async with asyncio.timeout(_PATIENCE):
        return await coroutine


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
