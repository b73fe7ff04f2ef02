"""Server-sent events: the frames of one client, bounded, throttled, kept awake, and ended properly.

A pump moves events into a small buffer as fast as the client takes them out. While it does not, the
pump waits; the feed's queue behind it is bounded too, and what overflows there is read from the
journal again (one run) or replaced by a resync (lists). So a slow client costs little and misses
nothing that is kept.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from ..errors import StorageError
from ..events import AnyEvent, Resync, RunProgress
from .wire import dump

logger = logging.getLogger("durably")

MAX_FRAMES = 256
MAX_BYTES = 1_048_576  # a frame that is larger passes alone
PING = b": ping\n\n"
LONG_RETRY = 86_400_000
"""Milliseconds; after a run's end there is nothing to come back for."""
_CACHED = 64  # events whose frames are shared by the clients that hear them
_CACHED_BYTES = 16_384

Frame = bytes


def frame(value: Mapping[str, Any], id: int | None = None, retry: int | None = None) -> Frame:
    """One event on the wire. JSON is on one line, so nothing in it can begin another."""
    head = b"" if id is None else b"id: %d\n" % id
    if retry is not None:
        head += b"retry: %d\n" % retry
    return head + b"data: " + dump(value) + b"\n\n"


def retry_hint(after: int) -> Frame:
    """When to come back, in milliseconds."""
    return b"retry: %d\n\n" % after


class FrameCache:
    """The frames of the latest events: many clients hear the same ones."""

    def __init__(self, encode: Callable[[AnyEvent], Awaitable[Frame]]) -> None:
        self._encode = encode
        self._frames: OrderedDict[int, tuple[AnyEvent, Frame]] = OrderedDict()

    async def of(self, event: AnyEvent) -> Frame:
        """The frame of an event. The event is kept beside it, so its identity stays its own."""
        known = self._frames.get(id(event))
        if known is not None:
            return known[1]
        made = await self._encode(event)
        if len(made) <= _CACHED_BYTES:
            self._frames[id(event)] = (event, made)
            if len(self._frames) > _CACHED:
                self._frames.popitem(last=False)
        return made


class Stream(AsyncIterator[bytes]):
    """What one client is sent, chunk by chunk; each chunk is all frames that wait.

    ``source`` gives the events, ``frames`` their frames; ``throttle`` is the least time between two
    progress frames of a run, ``ping`` the longest silence, both in seconds. ``check`` is awaited
    every ``check_every`` seconds and ends the stream when it gives False. ``left`` is called once,
    at the end.
    """

    def __init__(
        self,
        source: AsyncGenerator[AnyEvent | Resync, None],
        frames: FrameCache,
        resync: Frame,
        *,
        opening: list[Frame],
        closing: Callable[[], Awaitable[Frame]],
        throttle: float,
        ping: float,
        check: Callable[[], Awaitable[bool]],
        check_every: float,
        left: Callable[[Stream], None],
    ) -> None:
        self._source, self._frames, self._resync = source, frames, resync
        self._closing = closing
        self._throttle, self._ping = throttle, ping
        self._check, self._check_every, self._left = check, check_every, left
        self._buffer = opening
        self._size = 0
        self._loop = asyncio.get_running_loop()
        self._news, self._room = asyncio.Event(), asyncio.Event()
        self._news.set()
        self._checked_at = self._loop.time()
        self._told: dict[str, tuple[float, Any]] = {}
        """By run: when its progress was told, and which."""
        self._late: dict[str, RunProgress] = {}
        """Progress that is not told yet, to keep to the throttle."""
        self._timer: asyncio.TimerHandle | None = None
        self._over = self._ended = False
        self._is_final = False
        """Whether the latest event ended its run: its frame says that there is nothing to come back for."""
        self._pump = asyncio.create_task(self._pump_all(), name="durably-sse")

    # -- in

    async def _pump_all(self) -> None:
        try:
            async for event in self._source:
                await self._take(event)
            if not self._is_final:
                await self._add(await self._closing())
        except StorageError as error:
            logger.debug("a stream ends, its client comes back: %s", error)
        except Exception:
            logger.exception("a stream broke")
        finally:
            self._over = True
            self._news.set()

    async def _take(self, event: AnyEvent | Resync) -> None:
        if isinstance(event, Resync):
            await self._add(self._resync)
        elif isinstance(event, RunProgress):
            self._take_progress(event)
        else:
            self._is_final = event.is_final
            if event.is_final:
                await self._flush(event.run_id)
                self._told.pop(event.run_id, None)
            await self._add(await self._frames.of(event))

    def _take_progress(self, event: RunProgress) -> None:
        at, told = self._told.get(event.run_id, (float("-inf"), None))
        if told == event.progress and event.run_id not in self._late:
            return
        self._late[event.run_id] = event
        if self._timer is None:
            delay = max(0.0, at + self._throttle - self._loop.time())
            self._timer = self._loop.call_later(delay, self._ring)

    def _ring(self) -> None:
        self._timer = None
        self._news.set()

    async def _flush(self, run_id: str) -> None:
        event = self._late.pop(run_id, None)
        if event is not None:
            self._told[run_id] = (self._loop.time(), event.progress)
            await self._add(await self._frames.of(event))

    async def _flush_due(self) -> None:
        """Tell the progress whose time has come, and be woken for the rest."""
        now = self._loop.time()
        rest = self._throttle
        for run_id in list(self._late):
            at, _ = self._told.get(run_id, (float("-inf"), None))
            if at + self._throttle <= now:
                event = self._late.pop(run_id)
                self._told[run_id] = (now, event.progress)
                self._put(await self._frames.of(event))
            else:
                rest = min(rest, at + self._throttle - now)
        if self._late and self._timer is None:
            self._timer = self._loop.call_later(rest, self._ring)

    async def _add(self, made: Frame) -> None:
        while self._buffer and (
            len(self._buffer) >= MAX_FRAMES or self._size + len(made) > MAX_BYTES
        ):
            self._room.clear()
            await self._room.wait()
        self._put(made)

    def _put(self, made: Frame) -> None:
        if made:
            self._buffer.append(made)
            self._size += len(made)
            self._news.set()

    # -- out

    async def __anext__(self) -> bytes:
        """The next chunk: frames, or a ping."""
        while True:
            if self._ended:
                raise StopAsyncIteration
            if not self._over and not await self._may_stay():
                self.end()
            if self._late and self._timer is None:
                await self._flush_due()
            if self._buffer:
                return self._drain()
            if self._over:
                await self.aclose()
                raise StopAsyncIteration
            self._news.clear()
            try:
                async with asyncio.timeout(self._ping):
                    await self._news.wait()
            except TimeoutError:
                return PING

    def _drain(self) -> bytes:
        chunk = b"".join(self._buffer)
        self._buffer.clear()
        self._size = 0
        self._news.clear()
        if self._over or self._late:
            self._news.set()
        self._room.set()
        return chunk

    async def _may_stay(self) -> bool:
        if self._loop.time() - self._checked_at < self._check_every:
            return True
        self._checked_at = self._loop.time()
        return await self._check()

    def end(self, hint: Frame = b"") -> None:
        """No more events: what waits is sent, then ``hint``, then the end."""
        self._pump.cancel()
        self._put(hint)
        self._over = True
        self._news.set()

    async def aclose(self) -> None:
        """Leave nothing behind; whether the client left or the events ended."""
        if self._ended:
            return
        self._ended = True
        self._left(self)
        if self._timer is not None:
            self._timer.cancel()
        self._pump.cancel()
        await asyncio.wait({self._pump})
        await self._source.aclose()
