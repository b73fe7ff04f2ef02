"""A reader of server-sent events on a raw socket: what a browser does, and everything it was sent.

It knows nothing of the code that it tests: HTTP's chunks and the blocks of an event stream are taken
apart here once more.
"""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

PATIENCE = 60.0  # seconds after which what does not come is called missing
FINAL = ("run:complete", "run:fail", "run:cancel", "run:delete")


@dataclass
class Block:
    """What stands between two empty lines of an event stream."""

    text: str
    fields: dict[str, list[str]] = field(default_factory=dict)
    comments: list[str] = field(default_factory=list)
    at: float = 0.0
    """When it came; ``time.monotonic``."""

    @classmethod
    def parse(cls, text: str) -> Block:
        block = cls(text, at=time.monotonic())
        for line in text.split("\n"):
            name, colon, value = line.partition(":")
            if name:
                block.fields.setdefault(name, []).append(value.removeprefix(" "))
            elif colon:
                block.comments.append(value)
        return block

    @property
    def id(self) -> int | None:
        return int(self.fields["id"][0]) if "id" in self.fields else None

    @property
    def retry(self) -> int | None:
        return int(self.fields["retry"][0]) if "retry" in self.fields else None

    @property
    def event(self) -> dict[str, Any] | None:
        """The JSON of its one line of data."""
        return json.loads("\n".join(self.fields["data"])) if "data" in self.fields else None

    @property
    def type(self) -> str | None:
        return None if self.event is None else self.event["type"]


class Reader(asyncio.Protocol):
    """One request for a stream; ``blocks`` are all that came, ``next`` waits for another."""

    def __init__(self, hear: Callable[[Block], object] | None = None) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        """Of an answer that is no stream."""
        self.blocks: list[Block] = []
        self.ended = self.complete = False
        """Whether the connection is gone; whether the server said that this was all."""
        self.headers_at = 0.0
        self._hear = hear or self._keep
        self._unread: deque[Block] = deque()
        self._raw, self._text = b"", ""
        self._news = asyncio.Event()
        self._transport: asyncio.Transport | None = None

    # -- the connection

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        _CONNECTED.add(self)

    def data_received(self, data: bytes) -> None:
        self._raw += data
        if not self.status and b"\r\n\r\n" in self._raw:
            head, _, self._raw = self._raw.partition(b"\r\n\r\n")
            self._begin(head.decode("latin-1"))
        if self.status:
            self._take()
        self._news.set()

    def connection_lost(self, error: Exception | None) -> None:
        self.ended = True
        _CONNECTED.discard(self)
        self._news.set()

    def _begin(self, head: str) -> None:
        first, *lines = head.split("\r\n")
        self.status = int(first.split(" ")[1])
        self.headers = {
            line.partition(":")[0].lower(): line.partition(":")[2].strip() for line in lines
        }
        self.headers_at = time.monotonic()

    def _take(self) -> None:
        if "chunked" not in self.headers.get("transfer-encoding", ""):
            self.body, self._raw = self.body + self._raw, b""
            self.complete = len(self.body) >= int(self.headers.get("content-length", 1 << 40))
            return
        while True:
            size_line, found, rest = self._raw.partition(b"\r\n")
            if not found:
                return
            size = int(size_line, 16)
            if len(rest) < size + 2:
                return
            self._raw = rest[size + 2 :]
            if size == 0:
                self.complete = True
                return
            self._blocks_of(rest[:size].decode())

    def _blocks_of(self, text: str) -> None:
        *blocks, self._text = (self._text + text).split("\n\n")
        for block in blocks:
            self._hear(Block.parse(block))

    def _keep(self, block: Block) -> None:
        self.blocks.append(block)
        self._unread.append(block)

    # -- the reader

    async def answered(self) -> Reader:
        """Wait for the status line and the headers."""
        await self._until(lambda: self.status)
        return self

    async def next(self) -> Block | None:
        """The next block; None at a proper end, ``ConnectionError`` when it was cut."""
        await self._until(lambda: self._unread or self.complete)
        return self._unread.popleft() if self._unread else None

    async def next_event(self) -> Block | None:
        """The next block that holds an event."""
        while (block := await self.next()) is not None and block.event is None:
            pass
        return block

    async def until(self, wanted: Callable[[Block], object]) -> Block:
        """Read on to an event; ``AssertionError`` when the stream ends before."""
        async with asyncio.timeout(PATIENCE):
            while (block := await self.next_event()) is not None:
                if wanted(block):
                    return block
        raise AssertionError(f"the stream ended without it, after {self.types}")

    async def rest(self) -> list[Block]:
        """All blocks with an event, to the proper end."""
        found: list[Block] = []
        async with asyncio.timeout(PATIENCE):
            while (block := await self.next_event()) is not None:
                found.append(block)
        return found

    async def all(self) -> list[dict[str, Any]]:
        """The events that are still to come, to the proper end."""
        return [block.event for block in await self.rest() if block.event is not None]

    async def json(self) -> Any:
        """An answer that is no stream."""
        await self._until(lambda: self.complete)
        return json.loads(self.body)

    async def end(self) -> None:
        """Wait for the end of the answer, however it comes."""
        while not (self.ended or self.complete):
            self._news.clear()
            await self._news.wait()

    async def _until(self, done: Callable[[], object]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not done():
                if self.ended:
                    raise ConnectionError("the connection was cut")
                self._news.clear()
                await self._news.wait()

    @property
    def events(self) -> list[dict[str, Any]]:
        """All events that came."""
        return [block.event for block in self.blocks if block.event is not None]

    @property
    def types(self) -> list[str]:
        """What came, in short."""
        return [event["type"] for event in self.events]

    @property
    def last_id(self) -> int | None:
        """What a browser would come back with."""
        return next((block.id for block in reversed(self.blocks) if block.id is not None), None)

    def pause(self) -> None:
        """Read no more."""
        assert self._transport is not None
        self._transport.pause_reading()

    def resume(self) -> None:
        """Read again, and fast."""
        assert self._transport is not None
        link = self._transport.get_extra_info("socket")
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self._transport.resume_reading()

    def leave(self) -> None:
        """Drop the connection."""
        if self._transport is not None:
            self._transport.abort()


_CONNECTED: set[Reader] = set()


def leave_all() -> None:
    """Drop every connection that is open."""
    for reader in list(_CONNECTED):
        reader.leave()


async def connect(
    port: int,
    path: str,
    headers: Mapping[str, str] | None = None,
    *,
    method: str = "GET",
    body: str = "",
    hear: Callable[[Block], object] | None = None,
    window: int = 0,
) -> Reader:
    """Send a request; the answer is not waited for. ``window``: bytes of the socket's own buffer."""
    loop = asyncio.get_running_loop()
    link = socket.socket()
    link.setblocking(False)
    if window:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
    try:
        await loop.sock_connect(link, ("127.0.0.1", port))
    except BaseException:
        link.close()
        raise
    transport, reader = await loop.create_connection(lambda: Reader(hear), sock=link)
    lines = [f"{method} {path} HTTP/1.1", f"host: 127.0.0.1:{port}", "accept: text/event-stream"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    if body:
        lines.append(f"content-length: {len(body.encode())}")
    transport.write("\r\n".join([*lines, "", body]).encode())
    return reader
