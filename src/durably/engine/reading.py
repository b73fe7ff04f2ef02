"""Reading runs and following their events: rows for HTTP, typed snapshots for Python."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from typing import Any, cast

from .. import events
from ..errors import InvalidValueError, RunNotFoundError
from ..jobs.filter import make_filter
from ..jobs.job import Job
from ..models import I, LogEntry, O, Run, StepRecord
from ..options import text, whole
from ..runtime import Runtime
from ..state import Status
from ..store.base import Store
from ..store.records import JournalRow, Page, RunFilter, RunRow, Standing
from ..store.snapshots import log_from_row, run_from_row, steps_from_rows
from ..values.codec import Unstorable
from ..values.text import clean_text
from .session import Session


class RunReader:
    """What can be read of runs while an instance is open."""

    def __init__(
        self,
        store: Store,
        runtime: Runtime,
        jobs: Mapping[str, Job[Any, Any]],
        require_open: Callable[[], Session],
    ) -> None:
        self._store, self._runtime, self._jobs = store, runtime, jobs
        self._require_open = require_open

    # -- rows, as they are stored, with the newest progress of runs that execute here

    async def get_row(self, run_id: str) -> RunRow | None:
        """A run's row; None if there is no such run."""
        newest = self._require_open().feed.with_newest_progress
        row = await self._store.run(checked_id(run_id))
        return None if row is None else newest(row)

    async def get_rows(self, filter: RunFilter) -> list[RunRow]:
        """The rows of runs that match, newest first."""
        newest = self._require_open().feed.with_newest_progress
        return [newest(row) for row in await self._store.runs(filter)]

    async def page_of_runs(self, filter: RunFilter, size: int) -> Page[RunRow]:
        """As ``get_rows``, of at most ``size`` bytes together, but at least one."""
        newest = self._require_open().feed.with_newest_progress
        page = await self._store.page_of_runs(filter, size)
        return page._replace(rows=[newest(row) for row in page.rows])

    async def page_of_steps(self, run_id: str, after: int, size: int) -> Page[JournalRow]:
        """A run's steps after a journal number, paged as ``page_of_runs``."""
        self._require_open()
        return await self._store.page_of_steps(run_id, after, size)

    async def page_of_logs(
        self, run_id: str, after: int, limit: int, size: int
    ) -> Page[JournalRow]:
        """A run's log lines after a journal number, paged as ``page_of_runs``."""
        self._require_open()
        return await self._store.page_of_logs(run_id, after, limit, size)

    async def get_state(self, run_id: str) -> tuple[RunRow, int] | None:
        """A run's row and the number of its newest journal record, as of one moment."""
        self._require_open()
        return await self._store.state(checked_id(run_id))

    async def get_standing(self, run_id: str) -> Standing | None:
        """How a run stands, and what may keep it from moving."""
        self._require_open()
        return await self._store.standing(checked_id(run_id), self._runtime.now())

    async def last_but_lines(self, run_id: str, newest: int) -> int:
        """The number of a run's newest journal record up to ``newest`` that is no log line."""
        self._require_open()
        return await self._store.last_but_lines(run_id, newest)

    async def count_steps(self, rows: Sequence[RunRow]) -> list[int]:
        """How many steps of each run are committed. Of runs that never began, nothing is read."""
        self._require_open()
        begun = [row.id for row in rows if row.generation > 0]
        counts = (
            dict(zip(begun, await self._store.count_steps(begun), strict=True)) if begun else {}
        )
        return [counts.get(row.id, 0) for row in rows]

    async def count_runs(self) -> list[tuple[str, str, int]]:
        """How many runs there are, as (job, status, count). Reads all runs."""
        self._require_open()
        return await self._store.count_runs()

    async def queue_ages(self, jobs: Iterable[str] = ()) -> dict[str, float]:
        """Of each registered job and of ``jobs``, the seconds that its longest due run has waited."""
        self._require_open()
        names = list(dict.fromkeys([*self._jobs, *jobs]))
        now = self._runtime.now()
        oldest = await self._store.oldest_due(names, now)
        return {job: (now - oldest.get(job, now)) / 1000 for job in names}

    # -- snapshots

    async def snapshots(self, rows: Sequence[RunRow], job: Job[I, O] | None) -> list[Run[I, O]]:
        """The runs of rows: with the types of their job, or as plain JSON."""
        counts = await self.count_steps(rows)
        now = self._runtime.now()
        return [snapshot(row, job, now, count) for row, count in zip(rows, counts, strict=True)]

    async def get_run(self, run_id: str) -> Run | None:
        """A run with its values as plain JSON; None if there is none. (A handle's is typed.)"""
        row = await self.get_row(run_id)
        return None if row is None else (await self.snapshots([row], None))[0]

    async def get_runs(
        self,
        *,
        job: str | Sequence[str] = (),
        status: Status | str | Sequence[Status | str] = (),
        labels: Mapping[str, str] | None = None,
        limit: int = 50,
        offset: int = 0,
        cursor: str | None = None,
        scope: str | None = None,
    ) -> list[Run]:
        """Runs that match all that is given, newest first; values as plain JSON."""
        filter = make_filter(job, status, labels, limit, offset, cursor, scope)
        return await self.snapshots(await self.get_rows(filter), None)

    async def get_steps(self, run_id: str) -> list[StepRecord]:
        """The completed steps of a run and those that failed, in order."""
        if await self.get_row(run_id) is None:
            raise RunNotFoundError(run_id)
        return steps_from_rows(await self._store.steps(run_id))

    async def get_logs(self, run_id: str, *, after: int = 0, limit: int = 1000) -> list[LogEntry]:
        """The kept log lines of a run, oldest first."""
        after, limit = whole("after", after), whole("limit", limit, 1)
        if await self.get_row(run_id) is None:
            raise RunNotFoundError(run_id)
        return [log_from_row(row) for row in await self._store.logs(run_id, after, limit)]

    # -- events

    def subscribe(self, run_id: str, after: int = 0) -> AsyncGenerator[events.AnyEvent, None]:
        """A run's events: its journal after number ``after``, then live, until it is over."""
        feed = self._require_open().feed
        return feed.subscribe(checked_id(run_id), whole("after", after))

    def subscribe_runs(
        self,
        *,
        job: str | Sequence[str] = (),
        labels: Mapping[str, str] | None = None,
        scope: str | None = None,
    ) -> AsyncGenerator[events.AnyEvent | events.Resync, None]:
        """The events of all runs that match, from now on, whichever process executes them."""
        return self.follow_runs(make_filter(job, (), labels, 1, 0, None, scope))

    def resume(self, run_id: str, after: int) -> AsyncGenerator[events.AnyEvent, None]:
        """As ``subscribe``, for a subscriber that was away: the last progress comes before the end, too."""
        return self._require_open().feed.subscribe(run_id, after, came_back=True)

    def follow_runs(
        self, filter: RunFilter
    ) -> AsyncGenerator[events.AnyEvent | events.Resync, None]:
        """As ``subscribe_runs``, by a filter."""
        return self._require_open().feed.subscribe_runs(filter.lets_through)


def snapshot(row: RunRow, job: Job[I, O] | None, now: int, steps_done: int) -> Run[I, O]:
    """The run of a row as of ``now``: with the job's types, or as plain JSON."""
    if job is None:
        return cast("Run[I, O]", run_from_row(row, now=now, steps_done=steps_done))
    try:
        return run_from_row(row, job.input, job.output, now=now, steps_done=steps_done)
    except Unstorable as problem:
        raise InvalidValueError(
            f"what is stored of run {row.id} does not fit job {job.name!r} any more: {problem}; "
            "durably.get_run gives it as plain JSON",
            path=problem.path,
        ) from None


def checked_id(run_id: Any) -> str:
    """A run's id. A text that cannot be one is made one that no run has: there is no such run."""
    return clean_text(text("run_id", run_id), 255)
