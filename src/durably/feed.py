"""The journal, live: what watchers follow, whichever process did the work.

Events of this process arrive at once. For those of others a bell rings, or a cheap look every
``LOOK`` seconds finds that the database changed; then the journal is read after the last number seen.
A journaled event is told exactly once and in order, because its number says what is missing.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Iterator
from contextlib import suppress

from .codec import load_json
from .errors import ClosedError, RunNotFoundError
from .events import AnyEvent, RunProgress, event_from_row
from .models import RunRow, progress_from_json
from .runtime import Runtime, to_datetime
from .state import Status
from .store.base import Store

LOOK = 0.05  # seconds between two looks at whether another process committed something
MAX_QUEUED = 256  # live events that wait for a slow watcher; journaled ones are read again anyway
CHUNK = 500  # journal lines read at once


class Watcher:
    """One who follows a run: a bounded queue, and a flag that the journal has news."""

    def __init__(self) -> None:
        self._queue: deque[AnyEvent] = deque()
        self._news = asyncio.Event()
        self._look = False
        self.told: str | None = None
        """The progress that was told last of a run in another process."""

    def tell(self, event: AnyEvent) -> None:
        if len(self._queue) >= MAX_QUEUED:  # a slow one reads the journal instead
            self._queue.clear()
            self._look = True
        self._queue.append(event)
        self._news.set()

    def look(self) -> None:
        """The journal may have news."""
        self._look = True
        self._news.set()

    def before(self, sequence: int) -> Iterator[AnyEvent]:
        """Take the live events that were told before the journaled one of that number."""
        while self._queue and (self._queue[0].sequence or 0) <= sequence:
            event = self._queue.popleft()
            if event.sequence is None:
                yield event
            elif event.sequence == sequence:
                return

    async def next(self) -> AnyEvent | None:
        """The next event, or None: look at the journal."""
        while True:
            if self._look:
                self._look = False
                return None
            if self._queue:
                return self._queue.popleft()
            self._news.clear()
            await self._news.wait()


class Feed:
    """Tells watchers of the runs that they follow."""

    def __init__(self, store: Store, runtime: Runtime, name: str = "") -> None:
        self._store = store
        self._name = name  # under which this process holds leases
        self._runtime = runtime
        self._watchers: dict[str, dict[Watcher, None]] = {}  # in the order they came
        self._looking: asyncio.Task[None] | None = None
        self._closed = False

    def follows(self, run_id: str) -> bool:
        """Whether anybody follows a run."""
        return run_id in self._watchers

    def publish(self, event: AnyEvent) -> None:
        """An event of this process."""
        for watcher in self._watchers.get(event.run_id, ()):
            watcher.tell(event)

    def rung(self) -> None:
        """Another process committed something."""
        for watchers in self._watchers.values():
            for watcher in watchers:
                watcher.look()

    async def close(self) -> None:
        """End every subscription."""
        self._closed = True
        self.rung()
        if self._looking is not None:
            self._looking.cancel()
            with suppress(asyncio.CancelledError):
                await self._looking

    async def subscribe(self, run_id: str, after: int = 0) -> AsyncGenerator[AnyEvent, None]:
        """A run's events: the journal after a number, then live, until the run is over."""
        watcher = self._join(run_id)
        last, final, following = after, False, False
        try:
            await self._require(run_id, after)
            while not self._closed:
                lines = await self._store.journal(run_id, last, CHUNK)
                progress = await self._progress_elsewhere(run_id, watcher)
                for line in lines:
                    event = event_from_row(line)
                    for earlier in watcher.before(line.seq):
                        yield earlier
                    if event.is_final and following and progress is not None:
                        yield progress
                    last, final = line.seq, event.is_final
                    yield event
                if len(lines) == CHUNK:
                    continue
                if final or await self._is_over(run_id, last):
                    return
                if progress is not None:
                    yield progress
                following = True
                while not final and (live := await watcher.next()) is not None:
                    if live.sequence is None:
                        yield live
                    elif live.sequence == last + 1:
                        last, final = live.sequence, live.is_final
                        yield live
                    elif live.sequence > last:
                        break  # something was told by another process: read the journal
        finally:
            self._leave(run_id, watcher)

    async def _require(self, run_id: str, after: int) -> None:
        if await self._store.run(run_id) is None and not await self._store.journal(run_id, after):
            raise RunNotFoundError(run_id)

    async def _progress_elsewhere(self, run_id: str, watcher: Watcher) -> RunProgress | None:
        """How far a run of another process is, if that is news. (Ours is told as it happens.)"""
        row = await self._store.run(run_id)
        if row is None or row.lease_owner == self._name or row.progress in (None, watcher.told):
            return None
        watcher.told = row.progress
        return _progress_event(row)

    async def finished(self, run_id: str) -> RunRow:
        """The run's row, once it is over."""
        watcher = self._join(run_id)
        try:
            while True:
                row = await self._store.run(run_id)
                if row is None:
                    raise RunNotFoundError(run_id)
                if Status(row.status).is_final:
                    return row
                if self._closed:
                    raise ClosedError(
                        f"stopped while waiting for run {run_id}, which is {row.status}"
                    )
                while (event := await watcher.next()) is not None and not event.is_final:
                    pass
        finally:
            self._leave(run_id, watcher)

    async def _is_over(self, run_id: str, last: int) -> bool:
        row = await self._store.run(run_id)
        over = row is None or Status(row.status).is_final
        return over and not await self._store.journal(run_id, last, 1)

    def _join(self, run_id: str) -> Watcher:
        watcher = Watcher()
        self._watchers.setdefault(run_id, {})[watcher] = None
        if self._looking is None:
            self._looking = asyncio.create_task(self._look_around(), name="durably-feed")
        return watcher

    def _leave(self, run_id: str, watcher: Watcher) -> None:
        watchers = self._watchers.get(run_id, {})
        watchers.pop(watcher, None)
        if not watchers:
            self._watchers.pop(run_id, None)

    async def _look_around(self) -> None:
        """While somebody watches: has another process committed something?"""
        seen = -1
        try:
            while self._watchers:
                changed = await self._store.changed()
                if changed != seen:
                    seen = changed
                    self.rung()
                await self._runtime.sleep(LOOK)
        finally:  # the next watcher starts another
            self._looking = None


def _progress_event(row: RunRow) -> RunProgress:
    progress = progress_from_json(row.progress)
    assert progress is not None
    return RunProgress(
        run_id=row.id,
        job=row.job,
        labels=load_json(row.labels),
        timestamp=to_datetime(row.updated_at),
        progress=progress,
        scope=row.scope,
    )
