"""The two streams of the protocol: what they open with, who may have one, and how they all end."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Hashable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from ..engine.engine import Engine
from ..errors import RunNotFoundError
from ..events import AnyEvent, RunComplete, RunRetry, RunStart, RunTrigger, StepComplete
from ..feed.queues import weigh
from ..options import duration, positive, whole
from ..runtime import Seconds, seconds
from ..state import Status
from ..store.records import JournalRow, Page, RunFilter, RunRow
from ..store.snapshots import event_from_row, run_from_row
from ..wire.events import event_to_list, event_to_wire
from ..wire.published import Dialect
from ..wire.runs import ErrorPolicy
from .messages import Refusal, Response
from .sse import LONG_RETRY, MAX_BYTES, Frame, FrameCache, Stream, frame, retry_hint

_HEADERS = (
    ("content-type", "text/event-stream"),
    ("cache-control", "no-cache, no-store, no-transform"),
    ("x-accel-buffering", "no"),
    ("x-content-type-options", "nosniff"),
)
_HEAVY = 65_536  # characters of an event that is not encoded on the event loop
_KEPT = 1_000  # of the newest lines of a run's journal, those that are log lines open a stream


@dataclass(frozen=True, slots=True)
class Limits:
    """What one process and one client may take.

    ``streams``: open SSE streams in this process; ``streams_per_principal``: of one principal.
    ``throttle``: least seconds between two progress events of a run on one stream. ``ping``: the
    longest silence of a stream, in seconds, 1 ms or more; 0 for no pings. ``check_every``: seconds after
    which an open stream's client is authenticated again.

    Raises ``ConfigurationError`` for what is no such number.
    """

    streams: int = 1_000
    streams_per_principal: int = 20
    throttle: Seconds = 0.1
    ping: Seconds = 15.0
    check_every: Seconds = timedelta(minutes=5)

    def __post_init__(self) -> None:
        whole("Limits.streams", self.streams)
        whole("Limits.streams_per_principal", self.streams_per_principal)
        duration("Limits.throttle", self.throttle)
        if duration("Limits.ping", self.ping) != 0:
            positive("Limits.ping", self.ping, least=0.001)  # shorter, the loop does nothing else
        positive("Limits.check_every", self.check_every)


class Streams:
    """The streams that are open in this process."""

    def __init__(
        self, engine: Engine, dialect: Dialect, errors: ErrorPolicy, limits: Limits
    ) -> None:
        self._engine = engine
        self._vocabulary = dialect
        self._errors: ErrorPolicy = errors
        self._limits = limits
        self._open: dict[Stream, Hashable] = {}
        self._is_closing: Callable[[], bool] = lambda: False
        self._of_run = FrameCache(self._run_frame)
        self._of_list = FrameCache(self._list_frame)
        self._resync = frame({"type": dialect.resync})

    def __len__(self) -> int:
        return len(self._open)

    def close(self, while_: Callable[[], bool] | None = None) -> None:
        """End every stream, and begin no more for as long as ``while_`` is true: the server is
        stopping. The default is until the instance is opened again. The clients come back."""
        opened = self._engine.times_opened
        self._is_closing = while_ or (lambda: self._engine.times_opened == opened)
        for stream in list(self._open):
            stream.end(self._soon())

    async def of_run(
        self, run_id: str, after: int | None, principal: Any, check: Callable[[], Awaitable[bool]]
    ) -> Response:
        """The events of a run: after a number, or its present state and then what comes."""
        self._make_room(principal)
        state = await self._engine.runs.get_state(run_id)
        if after is None or (state is not None and after > state[1]):  # of a journal that is gone
            if state is None:
                raise RunNotFoundError(run_id)
            opening, present, after = await self._present(*state)
            source = self._engine.runs.subscribe(run_id, after)
        else:
            opening, present = [self._soon()], None
            source = self._engine.runs.resume(run_id, after)

        async def closing(last: AnyEvent | None) -> Frame:
            known = after if last is None else last.sequence or after
            over = (last is not None and last.is_final) or await self._has_no_more(run_id, known)
            return retry_hint(LONG_RETRY) if over else self._soon()

        return self._begin(source, self._of_run, opening, closing, principal, check, present)

    async def of_list(
        self,
        filter: RunFilter,
        principal: Any,
        check: Callable[[], Awaitable[bool]],
        *,
        was_away: bool,
    ) -> Response:
        """The reduced events of all runs that the filter lets through."""
        self._make_room(principal)
        # The id has no meaning but that whoever comes back with it was away.
        opening = [b"id: 0\n" + self._soon()] + (
            [self._resync] if was_away or self._vocabulary.reads_first else []
        )

        async def closing(_: AnyEvent | None) -> Frame:
            return self._soon()

        source, settles = self._engine.runs.follow_runs(filter), self._vocabulary.settles
        return self._begin(
            source, self._of_list, opening, closing, principal, check, settles=settles
        )

    def _begin(
        self,
        source: AsyncGenerator[Any, None],
        frames: FrameCache,
        opening: list[Frame],
        closing: Callable[[AnyEvent | None], Awaitable[Frame]],
        principal: Any,
        check: Callable[[], Awaitable[bool]],
        present: AsyncGenerator[Frame, None] | None = None,
        settles: float = float("inf"),
    ) -> Response:
        self._make_room(principal)  # once more: others may have come meanwhile
        stream = Stream(
            source,
            frames,
            self._resync,
            opening=opening,
            present=present,
            closing=closing,
            throttle=seconds(self._limits.throttle),
            ping=seconds(self._limits.ping) or float("inf"),
            check=check,
            check_every=seconds(self._limits.check_every),
            left=self._left,
            settles=settles,
        )
        self._open[stream] = _identity(principal)
        return Response(200, _HEADERS, stream)

    def _left(self, stream: Stream) -> None:
        self._open.pop(stream, None)

    def _make_room(self, principal: Any) -> None:
        again = [("retry-after", "5")]
        if self._is_closing():
            raise Refusal(503, "stopping", "this server is stopping", headers=again)
        if len(self._open) >= self._limits.streams:
            raise Refusal(503, "too_many_streams", "too many streams are open", headers=again)
        if principal is not None:
            mine = Counter(self._open.values())[_identity(principal)]
            if mine >= self._limits.streams_per_principal:
                message = f"you have {mine} streams open already"
                raise Refusal(503, "too_many_streams", message, headers=again)

    async def _present(
        self, row: RunRow, newest: int
    ) -> tuple[list[Frame], AsyncGenerator[Frame, None], int]:
        """A run as it is now: what to send at once, what then, and the number after which to go on.

        The opening sets the number that a client comes back with, so that it misses nothing however
        early it is cut off. Log lines have theirs, and come before the state. The state has the number
        of the newest other line, so that none stands for two; log lines since then come from the feed.
        How far the run is, is the first thing that the feed adds.
        """
        if Status(row.status).is_final:  # its own line tells it
            after = newest - 1
        elif row.status == Status.RUNNING:
            after = await self._engine.runs.last_but_lines(row.id, newest)
        else:
            after = newest
        page = await self._kept_lines(row.id, max(0, newest - _KEPT))
        opening = self._soon() if page.rows else b"id: %d\n" % after + self._soon()
        return [opening], self._tell_present(row, after, page), after

    async def _tell_present(
        self, row: RunRow, after: int, page: Page[JournalRow]
    ) -> AsyncGenerator[Frame, None]:
        has_lines = bool(page.rows)
        while page.rows:
            for line in page.rows:
                event = event_from_row(line)
                if event is not None and line.seq <= after:  # what came since, the feed tells
                    yield await self._of_run.of(event)
            if page.last is None or page.last >= after:
                break
            page = await self._kept_lines(row.id, page.last)
        if row.status == Status.RUNNING:
            yield self._encode(_start(row, after), row)
        elif has_lines:
            yield b"id: %d\n\n" % after

    async def _kept_lines(self, run_id: str, after: int) -> Page[JournalRow]:
        return await self._engine.runs.page_of_logs(run_id, after, _KEPT, MAX_BYTES)

    async def _has_no_more(self, run_id: str, after: int) -> bool:
        """Whether a run is over, and its journal too."""
        state = await self._engine.runs.get_state(run_id)
        if state is None:
            return True
        row, newest = state
        return Status(row.status).is_final and newest <= after

    def _run_frame(self, event: AnyEvent) -> Frame | Coroutine[Any, Any, Frame]:
        if isinstance(event, RunTrigger | RunStart | RunRetry):
            return self._frame_with_input(event)
        if isinstance(event, StepComplete | RunComplete) and weigh(event) > _HEAVY:
            return self._encode_beside(event, None)
        return self._encode(event, None)

    async def _frame_with_input(self, event: RunTrigger | RunStart | RunRetry) -> Frame:
        row = await self._engine.runs.get_row(event.run_id)
        if row is not None and len(row.input) > _HEAVY:
            return await self._encode_beside(event, row)
        return self._encode(event, row)

    async def _encode_beside(self, event: AnyEvent, row: RunRow | None) -> Frame:
        """In a thread, where there are any: what is heavy would hold up everybody else's stream."""
        if not self._engine.runtime.threads:
            return self._encode(event, row)
        return await asyncio.to_thread(self._encode, event, row)

    def _encode(self, event: AnyEvent, row: RunRow | None) -> Frame:
        return frame(event_to_wire(event, row, self._vocabulary, self._errors), event.sequence)

    def _list_frame(self, event: AnyEvent) -> Frame:
        return frame(event_to_list(event, self._vocabulary))

    def _soon(self) -> Frame:
        """When to come back: not all at once."""
        return retry_hint(round(self._engine.runtime.jitter(1_000, 0.5)))


def _start(row: RunRow, last: int) -> RunStart:
    run = run_from_row(row)
    return RunStart(
        run_id=run.id,
        job=run.job,
        labels=run.labels,
        scope=run.scope,
        timestamp=run.started_at or run.updated_at,
        sequence=last,
        attempt=run.attempt,
    )


def _identity(principal: object) -> Hashable:
    """What tells one principal from another: itself, where it can be a key."""
    try:
        hash(principal)
    except TypeError:
        return repr(principal)
    return principal
