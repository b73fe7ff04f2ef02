"""SIGINT and SIGTERM: the first asks to stop, the second to stop at once."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

INTERRUPTED = 128  # plus the number of the signal, as shells count


class Signals:
    """SIGINT and SIGTERM, told to the event loop: the first, and the second."""

    def __init__(self) -> None:
        self.first, self.second = asyncio.Event(), asyncio.Event()
        self.number = int(signal.SIGINT)
        self._loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            # Not loop.add_signal_handler, which Windows has not.
            signal.signal(number, lambda number, _: self._hear(number))

    def _hear(self, number: int) -> None:
        with suppress(RuntimeError):  # the loop is closed: we are leaving anyway
            self._loop.call_soon_threadsafe(self._note, number)

    def _note(self, number: int) -> None:
        self.number = number
        (self.second if self.first.is_set() else self.first).set()

    @property
    def exit_code(self) -> int:
        return INTERRUPTED + self.number


async def unless(event: asyncio.Event, work: Coroutine[Any, Any, Any]) -> bool:
    """Do the work, unless the event comes first: then it is cancelled, and the answer is False."""
    task, waiting = asyncio.ensure_future(work), asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
            return True
        return False
    finally:
        waiting.cancel()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
