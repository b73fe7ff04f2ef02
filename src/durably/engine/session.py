"""What an instance has only while it is open."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass

from ..feed.feed import Feed
from ..store.base import Notice, Store
from ..store.sqlite.notifier import Bell
from ..worker.worker import Worker
from .retention import ClockWatch, Retention


@dataclass(slots=True)
class Session:
    """From opening to closing: an event loop, the feed, the worker, and what watches over them."""

    name: str
    """What this process signs its leases with."""
    pid: int
    loop: asyncio.AbstractEventLoop
    feed: Feed
    clock: ClockWatch
    notifier: Bell | None
    upkeep: asyncio.Task[None] | None = None
    retention: Retention | None = None
    worker: Worker | None = None

    def on_commit(self, notice: Notice) -> None:
        """React to a commit of this process; called on the writer's thread."""
        if notice >= Notice.DUE and self.worker is not None:
            with suppress(RuntimeError):  # the loop is closed
                self.loop.call_soon_threadsafe(self.worker.wake)
        if self.notifier is not None:
            self.notifier.ring(notice)

    def on_notify(self, store: Store, notice: Notice) -> None:
        """React to a commit of another process."""
        store.tidy()
        if notice >= Notice.DUE and self.worker is not None:
            self.worker.wake()
        if notice is Notice.CANCEL and self.worker is not None:
            self.worker.check_leases()
        self.feed.rung()

    async def close(self) -> None:
        """End everything but the worker, which was stopped before."""
        await self.feed.close()
        if self.upkeep is not None:
            self.upkeep.cancel()
        if self.notifier is not None:
            self.notifier.take_down()
