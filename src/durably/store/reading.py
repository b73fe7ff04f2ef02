"""Looking into a database, by reading transactions: the same on every one."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar, TypeVar

from ..models import JournalRow, RunRow
from . import sql
from .base import Checkpoint, RunFilter, Store

T = TypeVar("T")


class Reading(Store):
    """What a store reads, given how it reads."""

    dialect: ClassVar[sql.Dialect]

    @abstractmethod
    async def _read(self, make: Callable[[], sql.Transaction[T]], *, for_ever: bool = False) -> T:
        """Run a transaction that only reads, again while the storage is in trouble: ``for_ever``, or
        for as long as a caller outside a run waits."""

    async def owners(self, jobs: Sequence[str], now: int) -> list[str]:
        return await self._read(lambda: sql.owners(jobs, now))

    async def run(self, run_id: str) -> RunRow | None:
        return await self._read(lambda: sql.run(run_id))

    async def state(self, run_id: str) -> tuple[RunRow, int] | None:
        return await self._read(lambda: sql.state(run_id))

    async def in_progress(self, owner: str) -> list[RunRow]:
        return await self._read(lambda: sql.in_progress(owner))

    async def count_steps(self, run_ids: Sequence[str]) -> list[int]:
        return await self._read(lambda: sql.count_steps(run_ids))

    async def count_runs(self) -> list[tuple[str, str, int]]:
        rows = await self._read(lambda: sql.one("count_runs", {}))
        return [(job, status, count) for job, status, count in rows]

    async def oldest_due(self, jobs: Sequence[str], now: int) -> dict[str, int]:
        return await self._read(lambda: sql.oldest_due(jobs, now))

    async def runs(self, filter: RunFilter) -> list[RunRow]:
        text, params = sql.select_runs(self.dialect, filter)
        rows = await self._read(lambda: sql.one(text, params))
        return [RunRow._make(row) for row in rows]

    async def checkpoints(self, run_id: str) -> dict[str, Checkpoint]:
        return await self._read(lambda: sql.checkpoints(run_id), for_ever=True)

    async def journal(self, run_id: str, after: int = 0, limit: int = 500) -> list[JournalRow]:
        return await self._read(lambda: sql.journal(run_id, after, limit))

    async def steps(self, run_id: str) -> list[JournalRow]:
        types = ("step:complete", "step:fail")
        return await self._read(lambda: sql.journal_of(run_id, types, 0, 1_000_000))

    async def logs(self, run_id: str, after: int = 0, limit: int = 1000) -> list[JournalRow]:
        types = ("log:write", "log:write")
        return await self._read(lambda: sql.journal_of(run_id, types, after, limit))
