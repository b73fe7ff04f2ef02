"""Those who watch: bounded queues, and what becomes of those who are slow.

A slow follower of one run forgets what waits and reads the journal again. A slow follower of all runs
is told that it missed something.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sized
from itertools import islice
from typing import Any, cast

from ..events import AnyEvent, Resync, RunProgress
from ..models import Progress

MAX_QUEUED = 256  # events that wait for a slow watcher
MAX_WEIGHT = 524_288  # and about how many characters they hold; what is heavier waits alone
_VALUES = ("output", "data", "input", "skipped_input")
_NODES = 1_000  # values of an event that are weighed


class Watcher:
    """One who follows a run: a bounded queue, and a flag that the journal has news."""

    def __init__(self) -> None:
        self._queue: deque[AnyEvent] = deque()
        self._weight = 0
        self._news = asyncio.Event()
        self._look = False
        self.told: Progress | None = None
        """The progress that was told last."""

    def tell(self, event: AnyEvent, weight: int = 0) -> None:
        """Something happened."""
        if _is_full(self._queue, self._weight + weight):  # a slow one reads the journal instead,
            progress: list[AnyEvent] = [
                event for event in self._queue if isinstance(event, RunProgress)
            ]
            self._queue, self._weight = deque(progress[-1:]), 0  # where progress is not
            self._look = True
        self._queue.append(event)
        self._weight += weight
        self._news.set()

    def look(self) -> None:
        """The journal may have news."""
        self._look = True
        self._news.set()

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to tell."""
        return not self._queue and not self._look

    @property
    def has_progress(self) -> bool:
        """Whether progress is waiting to be told."""
        return any(isinstance(event, RunProgress) for event in self._queue)

    def before(self, sequence: int) -> Iterator[AnyEvent]:
        """Take the live events that were told before the journaled one of that number."""
        while self._queue and (self._queue[0].sequence or 0) <= sequence:
            event = self._take()
            if event.sequence == sequence:
                return
            if event.sequence is None and not event.is_final:  # the journal tells of the end
                yield event

    async def next(self) -> AnyEvent | None:
        """The next event, or None: look at the journal."""
        while True:
            if self._look:
                self._look = False
                return None
            if self._queue:
                return self._take()
            self._news.clear()
            await self._news.wait()

    def _take(self) -> AnyEvent:
        event = self._queue.popleft()
        if not self._queue:
            self._weight = 0
        if isinstance(event, RunProgress):
            self.told = event.progress
        return event


class ListWatcher:
    """One who follows all runs that ``wanted`` lets through."""

    def __init__(self, wanted: Callable[[AnyEvent], bool]) -> None:
        self._wanted = wanted
        self._queue: deque[AnyEvent | Resync] = deque()
        self._weight = 0
        self._news = asyncio.Event()
        self.closed = False

    def tell(self, event: AnyEvent, weight: int = 0) -> None:
        """Something happened to some run."""
        if not self._wanted(event):
            return
        if _is_full(self._queue, self._weight + weight):
            self.resync()
            return
        self._queue.append(event)
        self._weight += weight
        self._news.set()

    def resync(self) -> None:
        """Events were or will be missed: what waits is replaced by saying so."""
        self._queue.clear()
        self._weight = 0
        self._queue.append(Resync())
        self._news.set()

    def close(self) -> None:
        """There will be no more."""
        self.closed = True
        self._news.set()

    async def next(self) -> AnyEvent | Resync | None:
        """The next event; None at the end."""
        while not self._queue:
            if self.closed:
                return None
            self._news.clear()
            await self._news.wait()
        event = self._queue.popleft()
        if not self._queue:
            self._weight = 0
        return event


def _is_full(queue: Sized, weight: int) -> bool:
    return len(queue) >= MAX_QUEUED or (len(queue) > 0 and weight > MAX_WEIGHT)


def weigh(event: AnyEvent) -> int:
    """About how much an event holds; enough of it to know the heavy ones."""
    weight = 0
    rest: list[Any] = [getattr(event, name, None) for name in _VALUES]
    for _ in range(_NODES):
        if not rest or weight > MAX_WEIGHT:
            break
        value = rest.pop()
        if isinstance(value, str):
            weight += len(value)
        elif isinstance(value, dict):
            values = cast("dict[str, Any]", value).values()
            weight += 64 * len(values)
            rest += islice(values, _NODES)
        elif isinstance(value, list):
            items = cast("list[Any]", value)
            weight += 16 * len(items)
            rest += items[:_NODES]
    return weight
