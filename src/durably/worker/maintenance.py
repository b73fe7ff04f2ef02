"""What a worker does for the database from time to time, besides executing runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine
from typing import Any

from ..telemetry.logs import count, logger, worker_name
from .context import WorkerContext

INTERVAL = (
    60.0  # seconds between two purges of old runs, and two checks for a clock that was set back
)


class Maintenance:
    """Expires dead workers, corrects a clock that was set back, and purges old runs."""

    def __init__(
        self,
        context: WorkerContext,
        jobs: Collection[str],
        owner: str,
        stale_threshold: float,
        is_dead: Callable[[str], bool],
        purge: Callable[[], Coroutine[Any, Any, Any]] | None,
    ) -> None:
        self._runtime, self._store = context.runtime, context.store
        self._jobs, self._owner = jobs, owner
        self._stale_threshold = stale_threshold
        self._is_dead, self._purge = is_dead, purge
        self._purging: asyncio.Task[Any] | None = None
        self._last_at = float("-inf")

    async def expire_dead_workers(self) -> None:
        """End the leases of processes that are provably dead, so that a restart need not wait for them."""
        await self._correct_clock_rollback()
        for owner in await self._store.owners(list(self._jobs), self._runtime.now()):
            if owner != self._owner and self._is_dead(owner):
                expired = await self._store.expire(owner, list(self._jobs), self._runtime.now())
                text = "worker %s is dead; taking over %s"
                logger.info(text, worker_name(owner), count(len(expired), "run"))

    async def run_if_due(self) -> None:
        """Do what is due. Purging goes on beside the claims: it may take as long as there is to purge."""
        now = self._runtime.monotonic()
        if now - self._last_at < INTERVAL:
            return
        self._last_at = now
        await self._correct_clock_rollback()
        if self._purge is not None and (self._purging is None or self._purging.done()):
            self._purging = asyncio.create_task(self._purge(), name="durably-maintenance")

    def cancel(self) -> None:
        """Stop purging."""
        if self._purging is not None:
            self._purging.cancel()

    async def _correct_clock_rollback(self) -> None:
        """After the clock was set back, nothing waits until it is there again."""
        lease = round(10 * self._stale_threshold * 1000)
        await self._store.hurry(list(self._jobs), self._runtime.now(), lease)
