"""Looking into a database, by reading transactions: the same on every one."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import ClassVar, TypeVar

from . import leasing, reads, statements
from .base import Store
from .records import Checkpoint, DecidedSteps, JournalRow, Lease, Page, RunFilter, RunRow, Standing

T = TypeVar("T")
_STEPS = ("step:complete", "step:fail")
_LOGS = ("log:write", "log:write")
_ALL = 1_000_000
PAGE = 4_194_304  # bytes that are read by one statement, unless a single value is larger

# How many decided steps are read at once: few at first, since each may be large, then more.
_FIRST_PAGE, _LARGEST_PAGE, _LARGE = 16, 2_000, 4_000_000


class Reading(Store):
    """What a store reads, given how it reads."""

    dialect: ClassVar[statements.Dialect]

    @abstractmethod
    async def _read(
        self,
        make: Callable[[], statements.Transaction[T]],
        *,
        for_ever: bool = False,
        lists: bool = False,
    ) -> T:
        """Run a transaction that only reads, again while the storage is in trouble: ``for_ever``, or
        for as long as a caller outside a run waits. One that ``lists`` may take long, and must not
        delay the others where there is a connection for it."""

    def storable(self, jobs: Sequence[str]) -> Sequence[str]:
        """The jobs whose names the database can hold: all, where nothing else is known."""
        return jobs

    async def owners(self, jobs: Sequence[str], now: int) -> list[str]:
        return await self._read(lambda: reads.owners(self.storable(jobs), now))

    async def run(self, run_id: str) -> RunRow | None:
        return await self._read(lambda: reads.run(run_id))

    async def state(self, run_id: str) -> tuple[RunRow, int] | None:
        return await self._read(lambda: reads.state(run_id))

    async def in_progress(self, owner: str) -> list[RunRow]:
        return await self._read(lambda: reads.in_progress(owner))

    async def count_steps(self, run_ids: Sequence[str]) -> list[int]:
        return await self._read(lambda: reads.count_steps(run_ids), lists=True)

    async def count_runs(self) -> list[tuple[str, str, int]]:
        rows = await self._read(lambda: reads.one("count_runs", {}), lists=True)
        return [(job, status, count) for job, status, count in rows]

    async def standing(self, run_id: str, now: int) -> Standing | None:
        return await self._read(lambda: reads.standing(run_id, now), lists=True)

    async def quiet_for(self, now: int) -> int:
        rows = await self._read(lambda: reads.one("quiet_for", {"now": now}))
        return int(rows[0][0]) if rows else 0

    async def oldest_due(self, jobs: Sequence[str], now: int) -> dict[str, int]:
        return await self._read(lambda: reads.oldest_due(self.storable(jobs), now))

    async def runs(self, filter: RunFilter) -> list[RunRow]:
        text, params = reads.select_runs(self.dialect, filter)
        rows = await self._read(lambda: reads.one(text, params), lists=True)
        return [RunRow._make(row) for row in rows]

    async def no_longer_ours(self, leases: Sequence[Lease]) -> list[str]:
        return await self._read(lambda: leasing.no_longer_ours(leases))

    async def decided_steps(self, run_id: str) -> DecidedSteps:
        decided = DecidedSteps({}, {})
        after, limit = 0, _FIRST_PAGE
        while True:
            rows, limit = await self._page_of_decided(run_id, after, limit)
            for _, type_, step, index, data in rows:
                if type_ == "step:complete":
                    decided.checkpoints[step] = Checkpoint(index or 0, data)
                elif type_ == "step:fail":
                    decided.failures.setdefault(step, []).append(data)
                else:  # a retry: what failed before it is tried again
                    decided.failures.clear()
            if len(rows) < limit:
                return decided
            after = rows[-1][0]
            size = sum(len(row[-1] or "") for row in rows)
            limit = max(1, min(_LARGEST_PAGE, 4 * limit, limit * _LARGE // (size + 1)))

    async def _page_of_decided(
        self, run_id: str, after: int, limit: int
    ) -> tuple[Sequence[statements.Row], int]:
        """A page, and how many rows it was to have: half as many after each try that failed, for what
        a slow line cannot carry in time it could never carry."""

        tries = 0

        def make() -> statements.Transaction[Sequence[statements.Row]]:
            nonlocal limit, tries
            limit = max(1, limit // 2) if tries else limit
            tries += 1
            return reads.decided(run_id, after, limit)

        rows = await self._read(make, for_ever=True)
        return rows, limit

    async def checkpoint(self, run_id: str, step: str) -> Checkpoint | None:
        return await self._read(lambda: reads.checkpoint(run_id, step), for_ever=True)

    async def journal(self, run_id: str, after: int = 0, limit: int = 500) -> list[JournalRow]:
        return await self._all(
            lambda last, left: reads.journal(run_id, last, left, PAGE), after, limit, lists=False
        )

    async def steps(self, run_id: str) -> list[JournalRow]:
        return await self._all_of(run_id, _STEPS, 0, _ALL)

    async def logs(self, run_id: str, after: int = 0, limit: int = 1000) -> list[JournalRow]:
        return await self._all_of(run_id, _LOGS, after, limit)

    async def _all_of(
        self, run_id: str, types: tuple[str, str], after: int, limit: int
    ) -> list[JournalRow]:
        return await self._all(
            lambda last, left: reads.page_of_journal(run_id, types, last, left, PAGE), after, limit
        )

    async def _all(
        self,
        page_after: Callable[[int, int], statements.Transaction[Page[JournalRow]]],
        after: int,
        limit: int,
        *,
        lists: bool = True,
    ) -> list[JournalRow]:
        """A run's lines, by pages: however many and large they are, each page is progress."""
        lines: list[JournalRow] = []
        last: int | None = after
        while last is not None and len(lines) < limit:
            make = partial(page_after, last, limit - len(lines))
            page = await self._read(make, lists=lists)
            lines += page.rows
            last = page.last
        return lines

    async def last_but_lines(self, run_id: str, newest: int) -> int:
        params = {"run_id": run_id, "newest": newest}
        rows = await self._read(lambda: reads.one("last_but_lines", params))
        return rows[0][0] if rows else newest

    async def page_of_runs(self, filter: RunFilter, size: int) -> Page[RunRow]:
        make = partial(reads.page_of_runs, self.dialect, filter, size)
        return await self._read(make, lists=True)

    async def page_of_steps(self, run_id: str, after: int, size: int) -> Page[JournalRow]:
        return await self._read(lambda: reads.page_of_journal(run_id, _STEPS, after, _ALL, size))

    async def page_of_logs(
        self, run_id: str, after: int, limit: int, size: int
    ) -> Page[JournalRow]:
        return await self._read(lambda: reads.page_of_journal(run_id, _LOGS, after, limit, size))
