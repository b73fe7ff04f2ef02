"""The two streams of the protocol: what they open with, who may have one, and how they all end."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Hashable
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from ..errors import RunNotFoundError
from ..events import AnyEvent, RunStart
from ..models import RunRow, run_from_row
from ..runtime import Seconds, seconds
from ..state import Status
from ..store.base import RunFilter
from .message import Refusal, Response
from .sse import LONG_RETRY, Frame, FrameCache, Stream, frame, retry_hint
from .wire import ErrorPolicy, Vocabulary, event_to_list, event_to_wire

if TYPE_CHECKING:
    from ..durably import Durably

_HEADERS = (
    ("content-type", "text/event-stream"),
    ("cache-control", "no-cache, no-store, no-transform"),
    ("x-accel-buffering", "no"),
    ("x-content-type-options", "nosniff"),
)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one process and one client may take.

    ``streams``: open SSE streams in this process; ``streams_per_principal``: of one principal.
    ``throttle``: least seconds between two progress events of a run on one stream. ``ping``: the
    longest silence of a stream, in seconds. ``check_every``: seconds after which an open stream's
    client is authenticated again.
    """

    streams: int = 1_000
    streams_per_principal: int = 20
    throttle: Seconds = 0.1
    ping: Seconds = 15.0
    check_every: Seconds = timedelta(minutes=5)


class Streams:
    """The streams that are open in this process."""

    def __init__(
        self, durably: Durably, vocabulary: Vocabulary, errors: ErrorPolicy, limits: Limits
    ) -> None:
        self._durably = durably
        self._vocabulary = vocabulary
        self._errors: ErrorPolicy = errors
        self._limits = limits
        self._open: dict[Stream, Hashable] = {}
        self._closing = False
        self._of_run = FrameCache(self._run_frame)
        self._of_list = FrameCache(self._list_frame)
        self._resync = frame({"type": vocabulary.resync})

    def __len__(self) -> int:
        return len(self._open)

    def close(self) -> None:
        """End every stream, and begin no more: the server is stopping. The clients come back."""
        self._closing = True
        for stream in list(self._open):
            stream.end(self._soon())

    async def of_run(
        self, run_id: str, after: int | None, principal: Any, check: Callable[[], Awaitable[bool]]
    ) -> Response:
        """The events of a run: after a number, or its present state and then what comes."""
        self._make_room(principal)
        opening = [self._soon()]
        if after is None:
            after, now = await self._present(run_id)
            opening += now
            source = self._durably.subscribe(run_id, after)
        else:
            source = self._durably.follow_run(run_id, after)

        async def closing(last: AnyEvent | None) -> Frame:
            known = after if last is None else last.sequence or after
            over = (last is not None and last.is_final) or await self._has_no_more(run_id, known)
            return retry_hint(LONG_RETRY) if over else self._soon()

        return self._begin(source, self._of_run, opening, closing, principal, check)

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

        source = self._durably.follow_runs(filter)
        return self._begin(source, self._of_list, opening, closing, principal, check)

    def _begin(
        self,
        source: AsyncGenerator[Any, None],
        frames: FrameCache,
        opening: list[Frame],
        closing: Callable[[AnyEvent | None], Awaitable[Frame]],
        principal: Any,
        check: Callable[[], Awaitable[bool]],
    ) -> Response:
        self._make_room(principal)  # once more: others may have come meanwhile
        stream = Stream(
            source,
            frames,
            self._resync,
            opening=opening,
            closing=closing,
            throttle=seconds(self._limits.throttle),
            ping=seconds(self._limits.ping),
            check=check,
            check_every=seconds(self._limits.check_every),
            left=self._left,
        )
        self._open[stream] = _identity(principal)
        return Response(200, _HEADERS, stream)

    def _left(self, stream: Stream) -> None:
        self._open.pop(stream, None)

    def _make_room(self, principal: Any) -> None:
        again = [("retry-after", "5")]
        if self._closing:
            raise Refusal(503, "stopping", "this server is stopping", headers=again)
        if len(self._open) >= self._limits.streams:
            raise Refusal(503, "too_many_streams", "too many streams are open", headers=again)
        if principal is not None:
            mine = Counter(self._open.values())[_identity(principal)]
            if mine >= self._limits.streams_per_principal:
                message = f"you have {mine} streams open already"
                raise Refusal(503, "too_many_streams", message, headers=again)

    async def _present(self, run_id: str) -> tuple[int, list[Frame]]:
        """A run as it is now: the number after which to go on, and the frames that tell of it.

        The frame has the newest number: a client that comes back with it is told nothing older.
        How far the run is, is the first thing that the feed tells.
        """
        state = await self._durably.state(run_id)
        if state is None:
            raise RunNotFoundError(run_id)
        row, last = state
        if Status(row.status).is_final:  # its last line tells it
            return last - 1, []
        if row.status != Status.RUNNING:
            return last, []
        start = event_to_wire(_start(row, last), row, self._vocabulary, self._errors)
        return last, [frame(start, last)]

    async def _has_no_more(self, run_id: str, after: int) -> bool:
        """Whether a run is over, and its journal too."""
        state = await self._durably.state(run_id)
        if state is None:
            return True
        row, newest = state
        return Status(row.status).is_final and newest <= after

    def _run_frame(self, event: AnyEvent) -> Frame | Coroutine[Any, Any, Frame]:
        if isinstance(event, RunStart):
            return self._start_frame(event)
        return frame(event_to_wire(event, None, self._vocabulary, self._errors), event.sequence)

    async def _start_frame(self, event: RunStart) -> Frame:
        row = await self._durably.row(event.run_id)
        return frame(event_to_wire(event, row, self._vocabulary, self._errors), event.sequence)

    def _list_frame(self, event: AnyEvent) -> Frame:
        return frame(event_to_list(event, self._vocabulary))

    def _soon(self) -> Frame:
        """When to come back: not all at once."""
        return retry_hint(round(self._durably.runtime.jitter(1_000, 0.5)))


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
