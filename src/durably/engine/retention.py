"""Deleting what ended long ago: beside all other work, and never because of one reading of a clock.

A deletion cannot be taken back, and a clock may be a year ahead for a minute (a dead battery, a
restored machine). So nothing is deleted for a while after the clock jumped, or while it says that
nothing has happened in the database for longer than runs are kept.
"""

from __future__ import annotations

from collections.abc import Callable

from ..errors import StorageError
from ..runtime import Runtime
from ..store.base import Store
from ..store.records import RunRow
from ..telemetry.logs import logger

_BATCH = 500  # runs at most in one transaction; a store may take fewer
_JUMP = 60.0  # seconds between wall and monotonic clock that count as a jump
_HOLD = 3600.0  # seconds without deletions after one
_DAY = 86_400_000  # milliseconds


async def delete_old(
    store: Store,
    runtime: Runtime,
    age: int,
    deleted: Callable[[RunRow, int], None],
    may_go_on: Callable[[], bool] = lambda: True,
    *,
    limit: int | None = None,
) -> int:
    """Delete the runs that ended more than ``age`` milliseconds ago, ``limit`` at most; how many they were.

    A batch at a time, and as long a pause after each: steps and claims need the database, too.
    """
    count = 0
    while may_go_on():
        now, started = runtime.now(), runtime.monotonic()
        most = _BATCH if limit is None else min(_BATCH, limit - count)
        purged = await store.purge(now - age, now, most)
        for row in purged:
            deleted(row, now)
        count += len(purged)
        if not purged or count == limit:
            break
        await runtime.sleep(runtime.monotonic() - started)
    return count


class ClockWatch:
    """Whether the wall clock can be believed: not for an hour after it jumped."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._offset = self._read_offset()
        self._not_before = float("-inf")

    def is_steady(self) -> bool:
        """Look at it. Often: a jump counts from the look that notices it."""
        jump, self._offset = self._read_offset() - self._offset, self._read_offset()
        if abs(jump) > _JUMP:
            self._not_before = self._runtime.monotonic() + _HOLD
            _say(f"the clock jumped by {jump:+.0f} s")
        return self._runtime.monotonic() >= self._not_before

    def _read_offset(self) -> float:
        return self._runtime.now() / 1000 - self._runtime.monotonic()


def _say(why: str) -> None:
    logger.warning(
        "%s; no old runs are deleted for %.0f minutes, in case the clock is wrong", why, _HOLD / 60
    )


class Retention:
    """Deletes runs by their age, given a clock that can be believed."""

    def __init__(
        self,
        store: Store,
        runtime: Runtime,
        clock: ClockWatch,
        age: int,
        deleted: Callable[[RunRow, int], None],
        raised: Callable[[str, BaseException], None],
    ) -> None:
        self._store, self._runtime = store, runtime
        self._age = age
        self._deleted = deleted
        self._raised = raised
        self._clock = clock
        self._not_before = float("-inf")
        self._is_quiet = False

    async def look(self) -> None:
        """Before anything is written by this clock: could it be right?"""
        quiet = await self._store.quiet_for(self._runtime.now())
        was_quiet, self._is_quiet = self._is_quiet, quiet > self._age + _DAY
        if self._is_quiet and not was_quiet:
            self._not_before = self._runtime.monotonic() + _HOLD
            _say(f"nothing has happened in the database for {quiet / _DAY:.0f} days")

    async def delete(self) -> None:
        """Delete what is old enough."""
        try:
            await self.look()
            await delete_old(
                self._store, self._runtime, self._age, self._deleted, self._believes_its_clock
            )
        except StorageError as error:
            logger.warning("old runs are not deleted now: %s", error)
            self._raised("purge", error)

    def _believes_its_clock(self) -> bool:
        return self._clock.is_steady() and self._runtime.monotonic() >= self._not_before
