"""Server-sent events: the frames of one client, bounded, throttled, kept alive, and ended properly.

A pump moves events into a small buffer as fast as the client takes them out. While it does not, the
pump waits; the feed's queue behind it is bounded too, and what overflows there is read from the
journal again (one run) or replaced by a resync (lists). So a slow client costs little and misses
nothing that is stored.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from typing import Any

from ..errors import StorageError
from ..events import AnyEvent, Resync, RunProgress
from ..wire.strict_json import dump

logger = logging.getLogger("durably")

MAX_FRAMES = 256
MAX_BYTES = 262_144  # a frame that is larger passes alone
MAX_CHUNK = 65_536  # bytes passed to the server at once: it buffers what a client does not read
PING = b": ping\n\n"
LONG_RETRY = 86_400_000
"""Milliseconds; after a run's end there is no reason to reconnect."""
_CACHED = 1_024  # events whose frames are shared by many clients
_CACHED_BYTES = 4_194_304

Frame = bytes


def frame(value: Mapping[str, Any], id: int | None = None) -> Frame:
    """Encode one event. JSON is on one line, so nothing in it can start another."""
    head = b"" if id is None else b"id: %d\n" % id
    return head + b"data: " + dump(value) + b"\n\n"


def retry_hint(after: int) -> Frame:
    """Encode when to reconnect, in milliseconds."""
    return b"retry: %d\n\n" % after


class FrameCache:
    """The frames of the latest events, each encoded once for all clients.

    ``encode`` returns an event's frame, or a coroutine for it.
    """

    def __init__(self, encode: Callable[[AnyEvent], Frame | Coroutine[Any, Any, Frame]]) -> None:
        self._encode = encode
        self._made: OrderedDict[int, tuple[AnyEvent, Frame]] = OrderedDict()
        """By identity; the event is stored with its frame, so that its identity is not reused."""
        self._size = 0
        self._making: dict[int, asyncio.Task[Frame]] = {}

    async def of(self, event: AnyEvent) -> Frame:
        """Return the frame of an event."""
        known = self._made.get(id(event))
        if known is not None:
            return known[1]
        making = self._making.get(id(event))
        if making is None:
            made = self._encode(event)
            if isinstance(made, bytes):
                self._keep(event, made)
                return made
            making = self._making[id(event)] = asyncio.create_task(self._make(event, made))
        return await asyncio.shield(
            making
        )  # a client that disconnects must not cancel it for others

    async def _make(self, event: AnyEvent, making: Coroutine[Any, Any, Frame]) -> Frame:
        try:
            made = await making
        finally:
            del self._making[id(event)]
        self._keep(event, made)
        return made

    def _keep(self, event: AnyEvent, made: Frame) -> None:
        self._made[id(event)] = (event, made)
        self._size += len(made)
        while len(self._made) > _CACHED or (self._size > _CACHED_BYTES and len(self._made) > 1):
            _, (_, oldest) = self._made.popitem(last=False)
            self._size -= len(oldest)


class Stream(AsyncIterator[bytes]):
    """The body of one client's response, chunk by chunk; each chunk holds the buffered frames.

    ``opening`` is sent first, then the frames of ``present``, then the events of ``source``, encoded by
    ``frames``. ``throttle`` is the minimum time between two progress frames of a run, ``ping`` the longest
    silence, both in seconds. ``check`` is awaited every ``check_every`` seconds, and the stream ends when
    it returns False. ``closing`` makes the last frame, from the last event with a number. ``on_close`` is
    called at the end. ``settles`` seconds after the latest event another ``resync`` is sent.
    """

    def __init__(
        self,
        source: AsyncGenerator[AnyEvent | Resync, None],
        frames: FrameCache,
        resync: Frame,
        *,
        opening: list[Frame],
        present: AsyncGenerator[Frame, None] | None = None,
        closing: Callable[[AnyEvent | None], Awaitable[Frame]],
        throttle: float,
        ping: float,
        check: Callable[[], Awaitable[bool]],
        check_every: float,
        on_close: Callable[[Stream], None],
        settles: float = float("inf"),
    ) -> None:
        self._source, self._frames, self._resync = source, frames, resync
        self._present, self._closing = present, closing
        self._throttle, self._ping = throttle, ping
        self._check, self._check_every, self._on_close = check, check_every, on_close
        self._buffer = deque(opening)
        self._size = sum(map(len, opening))
        self._loop = asyncio.get_running_loop()
        self._has_news, self._has_space = asyncio.Event(), asyncio.Event()
        self._has_news.set()
        self._sent_at = self._checked_at = self._loop.time()
        self._sent_progress: dict[str, tuple[float, Any]] = {}
        """By run: when its progress was sent last, and which."""
        self._late: dict[str, RunProgress] = {}
        """Progress that is delayed by the throttle."""
        self._timer: asyncio.Handle | None = None
        """Wakes the reader for delayed progress and for pings."""
        self._wakes_at = float("inf")
        self._settles, self._settles_at = settles, float("inf")
        self._over = self._ended = False
        self._pump = asyncio.create_task(self._pump_all(), name="durably-sse")

    # -- in

    async def _pump_all(self) -> None:
        last: AnyEvent | None = None
        try:
            if self._present is not None:
                async for made in self._present:
                    await self._add(made)
            async for event in self._source:
                await self._take(event)
                if not isinstance(event, Resync) and event.sequence is not None:
                    last = event
            await self._add(await self._closing(last))
        except StorageError as error:
            logger.debug("a stream ends, its client reconnects: %s", error)
        except Exception:
            logger.exception("a stream failed")
        finally:
            self._over = True
            self._has_news.set()
            for source in (self._present, self._source):
                if source is not None:
                    await source.aclose()

    async def _take(self, event: AnyEvent | Resync) -> None:
        if isinstance(event, Resync):
            self._forget_progress()
            await self._add(self._resync)
        elif isinstance(event, RunProgress):
            await self._take_progress(event)
        else:
            if event.is_final:
                await self._flush(event.run_id)
                self._sent_progress.pop(event.run_id, None)
            await self._add(await self._frames.of(event))
        self._settles_at = self._loop.time() + self._settles

    async def _take_progress(self, event: RunProgress) -> None:
        at, progress = self._sent_progress.get(event.run_id, (float("-inf"), None))
        if progress == event.progress and event.run_id not in self._late:
            return
        self._late[event.run_id] = event
        if at + self._throttle <= self._loop.time():
            await self._flush(event.run_id)
        else:
            self._wake_at(at + self._throttle)

    def _wake_at(self, due: float) -> None:
        """Wake the reader at a time; it sets the timer again for what is due later."""
        if self._timer is not None:
            if self._wakes_at <= due:
                return
            self._timer.cancel()
        self._wakes_at = due  # the timers of a browser's event loop do not have their time
        self._timer = self._loop.call_at(due, self._wake)

    def _wake(self) -> None:
        self._timer = None
        self._has_news.set()

    def _forget_progress(self) -> None:
        """Forget the progress of runs after missed events: the ends of these runs may be among them."""
        since = self._loop.time() - self._throttle
        self._sent_progress = {
            run_id: sent for run_id, sent in self._sent_progress.items() if sent[0] > since
        }
        self._late.clear()

    async def _flush(self, run_id: str) -> None:
        event = self._late.pop(run_id, None)
        if event is not None:
            self._sent_progress[run_id] = (self._loop.time(), event.progress)
            await self._add(await self._frames.of(event))

    async def _flush_due(self) -> None:
        """Send the progress that is due, and set the timer for the rest."""
        now = self._loop.time()
        for run_id in list(self._late):
            at, _ = self._sent_progress.get(run_id, (float("-inf"), None))
            if at + self._throttle <= now:
                event = self._late.pop(run_id)
                self._sent_progress[run_id] = (now, event.progress)
                self._put(await self._frames.of(event))
            else:
                self._wake_at(at + self._throttle)

    async def _add(self, made: Frame) -> None:
        while self._buffer and (
            len(self._buffer) >= MAX_FRAMES or self._size + len(made) > MAX_BYTES
        ):
            self._has_space.clear()
            await self._has_space.wait()
        self._put(made)

    def _put(self, made: Frame) -> None:
        if made:
            self._buffer.append(made)
            self._size += len(made)
            self._has_news.set()

    # -- out

    async def __anext__(self) -> bytes:
        """Return the next chunk: frames, or a ping."""
        while True:
            if self._ended:
                raise StopAsyncIteration
            if not self._over and not await self._is_still_allowed():
                self._buffer.clear()  # its client may not receive these, either
                self._size = 0
                self.end()
            if self._late and self._timer is None:
                await self._flush_due()
            if self._buffer:
                return self._drain()
            if self._over:
                await self.aclose()
                raise StopAsyncIteration
            now, pings_at = self._loop.time(), self._sent_at + self._ping
            if self._settles_at <= now:
                self._settles_at, self._sent_at = float("inf"), now
                return self._resync
            if pings_at <= now:
                self._sent_at = now
                return PING
            self._wake_at(min(pings_at, self._settles_at, self._checked_at + self._check_every))
            self._has_news.clear()
            await self._has_news.wait()

    def _drain(self) -> bytes:
        """Take as many frames from the buffer as fit in a chunk; one at least."""
        self._sent_at = self._loop.time()
        frames = [self._buffer.popleft()]
        size = len(frames[0])
        while self._buffer and size + len(self._buffer[0]) <= MAX_CHUNK:
            frames.append(self._buffer.popleft())
            size += len(frames[-1])
        self._size -= size
        self._has_space.set()
        return b"".join(frames)

    async def _is_still_allowed(self) -> bool:
        if self._loop.time() - self._checked_at < self._check_every:
            return True
        self._checked_at = self._loop.time()
        return await self._check()

    def end(self, hint: Frame = b"") -> None:
        """Stop taking events: the buffered ones are sent, then ``hint``, then the stream ends."""
        if self._over:
            return
        self._pump.cancel()
        self._put(hint)
        self._over = True
        self._has_news.set()

    async def aclose(self) -> None:
        """Release everything, when the client has disconnected or the events have ended."""
        if self._ended:
            return
        self._ended = True
        self._on_close(self)
        if self._timer is not None:
            self._timer.cancel()
        self._pump.cancel()
        await asyncio.wait({self._pump})
