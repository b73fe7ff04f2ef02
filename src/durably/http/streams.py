"""The two streams of the protocol: what they open with, how many there may be, and how they end."""

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
from .message import Refusal, Response
from .sse import LONG_RETRY, MAX_BYTES, Frame, FrameCache, Stream, frame, retry_hint

_HEADERS = (
    ("content-type", "text/event-stream"),
    ("cache-control", "no-cache, no-store, no-transform"),
    ("x-accel-buffering", "no"),
    ("x-content-type-options", "nosniff"),
)
_HEAVY = 65_536  # characters of an event that is not encoded on the event loop
_KEPT = 1_000  # newest records of a run's journal, of which a stream opens with the log lines


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of streams, for one process and one client.

    ``streams``: open SSE streams in this process; ``streams_per_principal``: of one principal.
    ``throttle``: the minimum of seconds between two progress events of a run on one stream. ``ping``: the
    longest silence of a stream, in seconds, 1 ms or more; 0 for no pings. ``check_every``: seconds after
    which an open stream's client is authenticated again.

    Raises ``ConfigurationError``.
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
            positive(
                "Limits.ping", self.ping, least=0.001
            )  # with a shorter one the loop would do nothing else
        positive("Limits.check_every", self.check_every)


class Streams:
    """The open streams of this process."""

    def __init__(
        self, engine: Engine, dialect: Dialect, errors: ErrorPolicy, limits: Limits
    ) -> None:
        self._engine = engine
        self._dialect = dialect
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
        """End every stream, because the server is stopping; clients reconnect. No stream is opened while
        ``while_()`` is true, by default until the instance is opened again."""
        opened = self._engine.times_opened
        self._is_closing = while_ or (lambda: self._engine.times_opened == opened)
        for stream in list(self._open):
            stream.end(self._reconnect_hint())

    async def of_run(
        self, run_id: str, after: int | None, principal: Any, check: Callable[[], Awaitable[bool]]
    ) -> Response:
        """Stream a run's events: those after a number, or its present state and then new ones."""
        self._check_limits(principal)
        state = await self._engine.runs.get_state(run_id)
        if after is None or (
            state is not None and after > state[1]
        ):  # of a journal that was deleted
            if state is None:
                raise RunNotFoundError(run_id)
            opening, present, after = await self._present(*state)
            source = self._engine.runs.subscribe(run_id, after)
        else:
            opening, present = [self._reconnect_hint()], None
            source = self._engine.runs.resume(run_id, after)

        async def closing(last: AnyEvent | None) -> Frame:
            known = after if last is None else last.sequence or after
            over = (last is not None and last.is_final) or await self._is_complete(run_id, known)
            return retry_hint(LONG_RETRY) if over else self._reconnect_hint()

        return self._begin(source, self._of_run, opening, closing, principal, check, present)

    async def of_list(
        self,
        filter: RunFilter,
        principal: Any,
        check: Callable[[], Awaitable[bool]],
        *,
        was_away: bool,
    ) -> Response:
        """Stream the reduced events of all runs that match the filter."""
        self._check_limits(principal)
        # The id only shows, when a client sends it back, that it was connected before.
        opening = [b"id: 0\n" + self._reconnect_hint()] + (
            [self._resync] if was_away or self._dialect.reads_first else []
        )

        async def closing(_: AnyEvent | None) -> Frame:
            return self._reconnect_hint()

        source, settles = self._engine.runs.follow_runs(filter), self._dialect.settles
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
        self._check_limits(principal)  # again: others may have been opened meanwhile
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
            on_close=self._remove,
            settles=settles,
        )
        self._open[stream] = _identity(principal)
        return Response(200, _HEADERS, stream)

    def _remove(self, stream: Stream) -> None:
        self._open.pop(stream, None)

    def _check_limits(self, principal: Any) -> None:
        retry = [("retry-after", "5")]
        if self._is_closing():
            raise Refusal(503, "stopping", "the server is stopping", headers=retry)
        if len(self._open) >= self._limits.streams:
            raise Refusal(
                503, "too_many_streams", "too many open streams on this server", headers=retry
            )
        if principal is not None:
            mine = Counter(self._open.values())[_identity(principal)]
            if mine >= self._limits.streams_per_principal:
                message = f"too many open streams of this client: {mine}"
                raise Refusal(503, "too_many_streams", message, headers=retry)

    async def _present(
        self, row: RunRow, newest: int
    ) -> tuple[list[Frame], AsyncGenerator[Frame, None], int]:
        """Return a run as it is now: what to send first, what next, and after which number to continue.

        The opening sets the id that a client sends when it reconnects, so that it misses nothing however
        early the connection breaks. Log lines have their own numbers and come before the state. The state
        has the number of the newest other record, so that no number stands for two; log lines since then
        come from the feed. The first event that the feed adds is the run's progress.
        """
        if Status(row.status).is_final:  # its last record has the outcome
            after = newest - 1
        elif row.status == Status.RUNNING:
            after = await self._engine.runs.last_but_lines(row.id, newest)
        else:
            after = newest
        page = await self._log_page(row.id, max(0, newest - _KEPT))
        opening = (
            self._reconnect_hint() if page.rows else b"id: %d\n" % after + self._reconnect_hint()
        )
        return [opening], self._present_frames(row, after, page), after

    async def _present_frames(
        self, row: RunRow, after: int, page: Page[JournalRow]
    ) -> AsyncGenerator[Frame, None]:
        has_lines = bool(page.rows)
        while page.rows:
            for line in page.rows:
                event = event_from_row(line)
                if event is not None and line.seq <= after:  # later ones come from the feed
                    yield await self._of_run.of(event)
            if page.last is None or page.last >= after:
                break
            page = await self._log_page(row.id, page.last)
        if row.status == Status.RUNNING:
            yield self._encode(_start(row, after), row)
        elif has_lines:
            yield b"id: %d\n\n" % after

    async def _log_page(self, run_id: str, after: int) -> Page[JournalRow]:
        return await self._engine.runs.page_of_logs(run_id, after, _KEPT, MAX_BYTES)

    async def _is_complete(self, run_id: str, after: int) -> bool:
        """Whether a run is finished and no event of it comes after this number."""
        state = await self._engine.runs.get_state(run_id)
        if state is None:
            return True
        row, newest = state
        return Status(row.status).is_final and newest <= after

    def _run_frame(self, event: AnyEvent) -> Frame | Coroutine[Any, Any, Frame]:
        if isinstance(event, RunTrigger | RunStart | RunRetry):
            return self._frame_with_input(event)
        if isinstance(event, StepComplete | RunComplete) and weigh(event) > _HEAVY:
            return self._encode_in_thread(event, None)
        return self._encode(event, None)

    async def _frame_with_input(self, event: RunTrigger | RunStart | RunRetry) -> Frame:
        row = await self._engine.runs.get_row(event.run_id)
        if row is not None and len(row.input) > _HEAVY:
            return await self._encode_in_thread(event, row)
        return self._encode(event, row)

    async def _encode_in_thread(self, event: AnyEvent, row: RunRow | None) -> Frame:
        """Encode in a thread, where there are any: a large event would delay all other streams."""
        if not self._engine.runtime.threads:
            return self._encode(event, row)
        return await asyncio.to_thread(self._encode, event, row)

    def _encode(self, event: AnyEvent, row: RunRow | None) -> Frame:
        return frame(event_to_wire(event, row, self._dialect, self._errors), event.sequence)

    def _list_frame(self, event: AnyEvent) -> Frame:
        return frame(event_to_list(event, self._dialect))

    def _reconnect_hint(self) -> Frame:
        """When clients should reconnect: not all at once."""
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
    """Return what distinguishes a principal from others: itself, where it is hashable."""
    try:
        hash(principal)
    except TypeError:
        return repr(principal)
    return principal
