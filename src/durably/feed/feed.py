"""The journal, live: what watchers follow, whichever process did the work.

Events of this process arrive at once. For those of others one task per process looks at the end of
the journal, for all its watchers together: when the bell rings, and every ``LOOK`` seconds when a
cheap question says that the database changed. A watcher counts: a journaled event is told exactly
once and in order, because its number says what is missing, and then the journal is read.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing, suppress
from dataclasses import replace
from types import MappingProxyType

from ..errors import ClosedError, RunNotFoundError, StorageError
from ..events import (
    AnyEvent,
    Resync,
    RunCoalesced,
    RunComplete,
    RunDelete,
    RunProgress,
    RunStart,
    RunTrigger,
    StepComplete,
)
from ..models import Progress
from ..runtime import Runtime
from ..state import Status
from ..store.base import JournalRewoundError, Store
from ..store.records import Cursor, JournalRow, RunRow
from ..store.snapshots import event_from_row, event_of_run, progress_from_json, progress_to_json
from ..telemetry.logs import logger
from .queues import ListWatcher, Watcher, weigh

LOOK = 0.05  # seconds between two looks at whether another process committed something
FEW, CHUNK = 8, 500  # journal lines read at once: at first, and at most
AGAIN = 1.0  # seconds until the next look after one that failed
HEAVY = 131_072  # characters of lines after which fewer are read at once
MAX_COUNTED = 10_000  # runs whose last number is remembered for lists
_DELETED = 1 << 62  # comes after every number


class Feed:
    """Tells watchers of the runs that they follow."""

    def __init__(
        self,
        store: Store,
        runtime: Runtime,
        name: str = "",
        here: Mapping[str, Progress] = MappingProxyType({}),
        raised: Callable[[str, BaseException], None] = lambda _, __: None,
    ) -> None:
        self._store = store
        self._name = name  # under which this process holds leases
        self._here = here  # how far its runs are; the database is some 100 ms behind
        self._runtime = runtime
        self._raised = raised
        self._watchers: dict[str, dict[Watcher, None]] = {}  # in the order they came
        self._lists: dict[ListWatcher, None] = {}
        self._counted: OrderedDict[str, int] = OrderedDict()
        """The number that lists were told last, of runs that the tail may still tell of."""
        self._told: dict[str, int] = {}
        """The highest number told of each run that is followed."""
        self._cursor: Cursor | None = None
        """Up to where the journal of all runs was read; None while nobody watches."""
        self._progress: dict[str, str] = {}
        """What the lists were told last of how far other processes' runs are."""
        self._read_at = float("-inf")
        self._bell = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None
        self._closed = False

    def follows(self, run_id: str) -> bool:
        """Whether anybody wants to hear of a run."""
        return bool(self._lists) or run_id in self._watchers

    def with_newest_progress(self, row: RunRow) -> RunRow:
        """A row that was just read, as far as its run is: no answer is older than an event before it."""
        progress = self._here.get(row.id)
        if progress is None or row.lease_owner != self._name:
            return row
        return row._replace(progress=progress_to_json(progress))

    @property
    def watchers(self) -> int:
        """How many follow something."""
        return len(self._lists) + sum(map(len, self._watchers.values()))

    def publish(self, event: AnyEvent) -> None:
        """An event of this process."""
        self._tell(event)
        if self._lists and not self._tell_lists(_without_values(event)):
            self.rung()

    def _tell(self, event: AnyEvent) -> None:
        watchers = self._watchers.get(event.run_id)
        if watchers:
            self._told[event.run_id] = max(self._told.get(event.run_id, 0), event.sequence or 0)
            weight = weigh(event)
            for watcher in watchers:
                watcher.tell(event, weight)

    def _tell_lists(self, event: AnyEvent, *, gapless: bool = False) -> bool:
        """Tell the lists, each journaled event once and in order; False: some before it are missing."""
        number = _DELETED if isinstance(event, RunDelete) else event.sequence
        if number is not None:
            last = self._counted.get(event.run_id, 0)
            if number <= last:
                return True
            if last + 1 < number < _DELETED and not gapless:
                return False
            self._count(event.run_id, number)
        weight = weigh(event)
        for watcher in self._lists:
            watcher.tell(event, weight)
        return True

    def _count(self, run_id: str, sequence: int) -> None:
        self._counted[run_id] = sequence
        self._counted.move_to_end(run_id)
        if len(self._counted) > MAX_COUNTED:
            self._counted.popitem(last=False)

    def rung(self) -> None:
        """Something was committed that watchers may not have been told."""
        self._bell.set()

    def _look_again(self) -> None:
        """Every follower of a run reads its journal."""
        for watchers in self._watchers.values():
            for watcher in watchers:
                watcher.look()

    async def close(self) -> None:
        """End every subscription."""
        self._closed = True
        self._look_again()
        for watcher in self._lists:
            watcher.close()
        if self._looking is not None:
            self._looking.cancel()
            with suppress(asyncio.CancelledError):
                await self._looking

    # -- one run

    async def subscribe(
        self, run_id: str, after: int = 0, *, came_back: bool = False
    ) -> AsyncGenerator[AnyEvent, None]:
        """A run's events: the journal after a number, then live, until the run is over.

        Who came back is told how far the run got before an end that it missed.
        """
        watcher = self._join(run_id)
        try:
            async with aclosing(self._follow(run_id, watcher, after, came_back)) as told:
                async for event in told:
                    yield event
        except ClosedError:
            if not self._closed:  # else it was closed while the store was asked
                raise
        finally:
            self._leave(run_id, watcher)

    async def _follow(
        self, run_id: str, watcher: Watcher, after: int, came_back: bool
    ) -> AsyncGenerator[AnyEvent, None]:
        last, final, following, limit = after, False, False, FEW
        while not self._closed:
            is_new = last == after and not following
            lines, row, last = await self._read(run_id, last, limit, is_new=is_new)
            progress = self._progress_now(row, watcher, following)
            news = progress if following or came_back else None
            for event in _events_of(lines, row, watcher, news):
                last, final = event.sequence or last, event.is_final
                yield event
            last = max(last, lines[-1].seq) if lines else last  # also past what is not understood
            if len(lines) == limit:
                limit = _next_limit(lines, limit)
                continue
            if final or await self._is_over(run_id, row, last):
                return
            if progress is not None and watcher.told == progress.progress:
                yield progress
            following = True
            while not final and (live := await watcher.next()) is not None:
                number = live.sequence or 0
                if number == last + 1:
                    last, final = number, live.is_final
                    yield live
                elif number > last or live.is_final:
                    break  # the journal has what is missing, and a deletion's number
                elif number == 0:
                    yield live
            if final and watcher.is_idle:
                return

    async def _read(
        self, run_id: str, after: int, limit: int, *, is_new: bool
    ) -> tuple[list[JournalRow], RunRow | None, int]:
        """A run's journal after a number, and then its row; who is new must find one of them.

        The number may be one that the journal does not have, or not any more, as after a restore: then it
        is read after its newest line, or before the end of a run that is over.
        """
        lines = await self._store.journal(run_id, after, limit)
        row = await self._store.run(run_id)
        if is_new and row is None and not lines:
            raise RunNotFoundError(run_id)
        if row is not None and not lines:
            state = await self._store.state(run_id)
            if state is not None and after > state[1]:
                after = state[1] - Status(state[0].status).is_final
                lines = await self._store.journal(run_id, after, limit)
        return lines, row, after

    def _progress_now(
        self, row: RunRow | None, watcher: Watcher, following: bool
    ) -> RunProgress | None:
        """How far a run is, if that is news. While one follows, our own is told as it happens."""
        ours = row is not None and row.lease_owner == self._name
        if row is None or (following and ours) or watcher.has_progress:
            return None
        event = _progress_event(row, self._here.get(row.id) if ours else None)
        if event is None or event.progress == watcher.told:
            return None
        watcher.told = event.progress
        return event

    async def _is_over(self, run_id: str, row: RunRow | None, last: int) -> bool:
        over = row is None or Status(row.status).is_final
        return over and not await self._store.journal(run_id, last, 1)

    async def finished(self, run_id: str) -> tuple[RunRow, int]:
        """The run's row, once it is over, and how many of its steps are committed."""
        watcher = self._join(run_id)
        try:
            while True:
                row = await self._store.run(run_id)
                if row is None:
                    raise RunNotFoundError(run_id)
                if Status(row.status).is_final:
                    (steps_done,) = await self._store.count_steps([run_id])
                    return row, steps_done
                if self._closed:
                    raise ClosedError(
                        f"stopped while waiting for run {run_id}, which is {row.status}"
                    )
                while (event := await watcher.next()) is not None and not event.is_final:
                    pass
        finally:
            self._leave(run_id, watcher)

    def _join(self, run_id: str) -> Watcher:
        watcher = Watcher()
        self._watchers.setdefault(run_id, {})[watcher] = None
        self._look_from_now_on()
        return watcher

    def _leave(self, run_id: str, watcher: Watcher) -> None:
        watchers = self._watchers.get(run_id, {})
        watchers.pop(watcher, None)
        if not watchers:
            self._watchers.pop(run_id, None)
            self._told.pop(run_id, None)

    # -- all runs

    async def subscribe_runs(
        self, wanted: Callable[[AnyEvent], bool]
    ) -> AsyncGenerator[AnyEvent | Resync, None]:
        """The events of all runs from now on, without outputs; ``Resync`` where some were missed."""
        watcher = ListWatcher(wanted)
        self._lists[watcher] = None
        self._look_from_now_on()
        try:
            await self._begin()
            if self._closed:
                return
            while (event := await watcher.next()) is not None:
                yield event
        finally:
            self._lists.pop(watcher, None)
            if not self._lists:
                self._counted.clear()
                self._progress.clear()

    # -- other processes

    def _look_from_now_on(self) -> None:
        if self._looking is None and not self._closed:
            self._looking = asyncio.create_task(self._look_around(), name="durably-feed")

    async def _look_around(self) -> None:
        """While somebody watches: has another process committed something?"""
        seen, failed = -1, False
        try:
            while self._watchers or self._lists:
                try:
                    changed = await self._store.changed()
                    if changed != seen or self._bell.is_set():
                        self._bell.clear()
                        self._read_at = self._runtime.monotonic()
                        await self._catch_up()
                        seen = changed
                    failed = False
                except JournalRewoundError:
                    self._start_over()
                    seen = -1
                except Exception as error:  # whatever it is, watchers are not left deaf
                    if not failed:
                        surprise = None if isinstance(error, StorageError) else error
                        logger.warning(
                            "watchers wait for the database: %s", error, exc_info=surprise
                        )
                    self._raised("feed", error)
                    failed, seen = True, -1
                    await self._runtime.sleep(AGAIN)
                await self._pause()
        finally:  # the next watcher starts another
            self._looking = self._cursor = None

    def _start_over(self) -> None:
        """What was told may never have happened: every watcher reads for itself how things are now."""
        logger.warning(
            "the journal lost its end, as by a failover or a restore; watchers start over"
        )
        self._cursor = None
        self._told.clear()
        self._counted.clear()
        self._progress.clear()
        for watcher in self._lists:
            watcher.resync()

    async def _pause(self) -> None:
        """Until the bell rings or it is time to look again; reads are at least ``LOOK`` apart."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LOOK):
                await self._bell.wait()
        early = self._read_at + LOOK - self._runtime.monotonic()
        if early > 0:
            await self._runtime.sleep(early)

    async def _begin(self) -> None:
        """Watch the journal from its present end; what was before, each watcher reads for itself."""
        if self._cursor is None:
            end = await self._store.end_of_tail()
            if self._cursor is None:
                self._cursor = end
                self._look_again()

    async def _catch_up(self) -> None:
        await self._begin()
        assert self._cursor is not None
        while True:
            lines, cursor = await self._store.tail(self._cursor, CHUNK)
            await self._tell_lines(lines)
            self._cursor = cursor
            if len(lines) < CHUNK:
                break
        await self._tell_progress()

    async def _tell_lines(self, lines: list[JournalRow]) -> None:
        behind: dict[str, int] = {}
        for line in lines:
            if line.run_id in self._watchers and line.seq > self._told.get(line.run_id, 0):
                behind.setdefault(line.run_id, line.seq - 1)
            if self._lists and (event := _event_of(line)) is not None:
                await self._tell_lists_of(event)
        for run_id, after in behind.items():
            await self._tell_journal(run_id, after)

    async def _tell_lists_of(self, event: AnyEvent) -> None:
        """Tell the lists what the tail says; before a run's end, how far it came elsewhere."""
        if event.is_final and self._counted.get(event.run_id, 0) < (event.sequence or 0):
            row = await self._store.run(event.run_id)
            if row is not None and row.lease_owner != self._name:
                self._tell_lists_progress(row)
        self._tell_lists(event, gapless=True)

    def _tell_lists_progress(self, row: RunRow) -> None:
        event = _progress_event(row)
        if event is not None and self._progress.get(row.id) != row.progress:
            self._tell_lists(event)

    async def _tell_journal(self, run_id: str, after: int) -> None:
        lines = await self._store.journal(run_id, after, CHUNK)
        if len(lines) == CHUNK:
            for watcher in self._watchers.get(run_id, ()):
                watcher.look()
            return
        row = await self._store.run(run_id) if any(map(_tells_input, lines)) else None
        for line in lines:
            event = _event_of(line, row)
            if event is None:  # it may be an end: the run's row tells
                for watcher in self._watchers.get(run_id, ()):
                    watcher.look()
                continue
            if event.is_final:
                row = await self._store.run(run_id)
                if row is not None and row.lease_owner != self._name:
                    last = _progress_event(row)
                    if last is not None:
                        self._tell_progress_of(last)
            self._tell(event)

    async def _tell_progress(self) -> None:
        """How far the runs of other processes are: the database has the last word only."""
        rows = await self._store.in_progress(self._name)
        for row in rows:
            if (event := _progress_event(row)) is not None:
                self._tell_progress_of(event)
            self._tell_lists_progress(row)
        self._progress = {row.id: row.progress or "" for row in rows}

    def _tell_progress_of(self, event: RunProgress) -> None:
        for watcher in self._watchers.get(event.run_id, ()):
            if watcher.told != event.progress:
                watcher.told = event.progress
                watcher.tell(event)


def _tells_input(line: JournalRow) -> bool:
    return line.type in (RunTrigger.type, RunStart.type)


def _event_of(line: JournalRow, row: RunRow | None = None) -> AnyEvent | None:
    """The event of a line, with its run's input if its row is given; None if it is not understood, which is
    no reason to be deaf for the next."""
    try:
        return event_from_row(line, None if row is None else row.input)
    except Exception:
        logger.exception("line %d of run %s is not readable", line.seq, line.run_id)
        return None


def _without_values(event: AnyEvent) -> AnyEvent:
    match event:
        case StepComplete() | RunComplete():
            return replace(event, output=None)
        case RunTrigger() | RunStart():
            return replace(event, input=None)
        case RunCoalesced():
            return replace(event, skipped_input=None)
        case _:
            return event


def _next_limit(lines: list[JournalRow], limit: int) -> int:
    """How many lines to read next: more, as long as they are short."""
    size = sum(len(line.data or "") + len(line.output or "") for line in lines)
    return max(1, min(CHUNK, 2 * limit, limit * HEAVY // (size + 1)))


def _events_of(
    lines: list[JournalRow], row: RunRow | None, watcher: Watcher, progress: RunProgress | None
) -> Iterator[AnyEvent]:
    """What lines tell, and what was told live in between; before an end, how far the run came."""
    for line in lines:
        yield from watcher.before(line.seq)
        event = event_from_row(line, None if row is None else row.input)
        if event is None:
            continue
        if event.is_final and progress is not None and watcher.told == progress.progress:
            yield progress
        yield event


def _progress_event(row: RunRow, newer: Progress | None = None) -> RunProgress | None:
    progress = newer or progress_from_json(row.progress)
    if progress is None:
        return None
    return event_of_run(RunProgress, row, row.updated_at, progress=progress)
