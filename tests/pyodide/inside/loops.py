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

import js
from pyodide.ffi import can_run_sync, run_sync

_PATIENCE = 300.0  # seconds for a test or a fixture


class _Clock:
    """In a selector's place: it waits, and nothing ever comes."""

    def __init__(self) -> None:
        self._never = js.Int32Array.new(js.SharedArrayBuffer.new(4))

    def select(self, timeout: float | None) -> list[Any]:
        if timeout is None:
            raise RuntimeError("deadlock: nothing is ready and no timer is set")
        if timeout > 0:
            js.Atomics.wait(self._never, 0, 0, timeout * 1000)
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
        self._others = set() if self._runner else asyncio.all_tasks()

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        if self._runner is None:
            return run_sync(asyncio.ensure_future(_ended(coroutine)))
        with _between_loops():
            return self._runner.run(_ended(coroutine))

    def close(self) -> None:
        """End what a test left behind."""
        if self._runner is None:
            return run_sync(_cancel_all_but(self._others))
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


async def _cancel_all_but(others: set[asyncio.Task[Any]]) -> None:
    left = asyncio.all_tasks() - others - {asyncio.current_task()}
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
