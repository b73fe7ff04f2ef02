"""When a worker may take over runs of other workers.

A lease that has ended by the clock usually means that its worker is dead. It does not after the clock was
changed, after the database could not be written for a while, or after this machine was suspended: then
live workers could not renew either, and are about to. In these cases nothing is taken over for a while.
"""

from __future__ import annotations

from ..runtime import Runtime
from ..store.base import Store
from ..telemetry.logs import logger

_PAUSE = (
    1.0  # seconds that a heartbeat must be late, for this process to count as stopped meanwhile
)
_CLOCK_JUMP = 1.0  # seconds between wall and monotonic clock that count as a jump


class TakeoverGuard:
    """Decides whether leases that look lapsed are; durations in seconds."""

    def __init__(
        self, runtime: Runtime, store: Store, heartbeat_interval: float, stale_threshold: float
    ) -> None:
        self._runtime, self._store = runtime, store
        self._heartbeat_interval, self._stale_threshold = heartbeat_interval, stale_threshold
        self._clock_offset: float | None = None
        self._not_before = float("-inf")
        self._ran_at: float | None = None

    def decide(self) -> bool:
        """Read both clocks; return whether runs may be taken over now."""
        self.note_running()
        offset = self._runtime.now() / 1000 - self._runtime.monotonic()
        if self._clock_offset is not None and abs(offset - self._clock_offset) > _CLOCK_JUMP:
            logger.warning("the clock jumped by %+.1f s", offset - self._clock_offset)
            self._postpone(self._stale_threshold)
        self._clock_offset = offset
        outage_over = self._store.troubled_at + self._stale_threshold
        return self._runtime.monotonic() >= max(self._not_before, outage_over)

    def note_running(self) -> None:
        """This process runs. Called by the event loop and by the heartbeat's thread, as a blocked loop
        alone does not mean that the process was stopped."""
        now, interval = self._runtime.monotonic(), self._heartbeat_interval
        late = max(1.5 * interval, interval + _PAUSE)
        if self._ran_at is not None and now - self._ran_at > late:
            self._postpone(self._stale_threshold)
        self._ran_at = now

    def note_late_claim(self) -> None:
        """A claim had to wait for the database: live workers renew within one heartbeat."""
        self._postpone(self._heartbeat_interval)

    def _postpone(self, delay: float) -> None:
        self._not_before = max(self._not_before, self._runtime.monotonic() + delay)
