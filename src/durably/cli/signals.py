"""Signals to stop: the first asks to stop, the second to stop at once.

SIGINT, SIGTERM, SIGQUIT, and SIGHUP unless somebody (``nohup``) had it ignored.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

INTERRUPTED = 128  # plus the number of the signal, as shells count
STOPPING = "stopping: runs have %g s to end; a second signal hands them back now"
_NAMES = ("SIGINT", "SIGTERM", "SIGQUIT", "SIGHUP", "SIGBREAK")  # the last is Windows'


class Signals:
    """The signals to stop, for the event loop: the first, and the second.

    ``stopping`` is called in the signal's handler, before the loop does anything else: a terminal and
    some supervisors signal the children of a step at the same time.
    """

    def __init__(self, stopping: Callable[[], object] = lambda: None) -> None:
        self.first, self.second = asyncio.Event(), asyncio.Event()
        self.number = int(signal.SIGINT)
        self._stopping = stopping
        self._loop = asyncio.get_running_loop()
        for name in _NAMES:
            if hasattr(signal, name) and not (name == "SIGHUP" and _is_ignored(name)):
                # Not loop.add_signal_handler, which Windows has not.
                signal.signal(getattr(signal, name), lambda number, _: self._hear(number))

    def _hear(self, number: int) -> None:
        self._stopping()
        with suppress(RuntimeError):  # the loop is closed: we are leaving anyway
            self._loop.call_soon_threadsafe(self._note, number)

    def _note(self, number: int) -> None:
        self.number = number
        (self.second if self.first.is_set() else self.first).set()

    @property
    def exit_code(self) -> int:
        return INTERRUPTED + self.number


def _is_ignored(name: str) -> bool:
    return signal.getsignal(getattr(signal, name)) is signal.SIG_IGN


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
