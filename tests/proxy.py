"""A TCP proxy that does what networks do: cuts, silences, and answers that never arrive."""

from __future__ import annotations

import asyncio
import struct
from contextlib import suppress
from dataclasses import dataclass

_SSL_REQUEST = 80877103


async def _startup(reader: asyncio.StreamReader) -> int:
    """Read a first message; what it asks for."""
    length, code = struct.unpack("!ii", await reader.readexactly(8))
    await reader.readexactly(length - 8)
    return code


@dataclass
class Cut:
    """Which chunk from a client ends its connection, counted from when it was armed."""

    at: int
    after: bool
    """The server gets the chunk and answers, and the client never hears of it."""
    says: bytes = b""
    """Only chunks that hold this are counted."""


class Proxy:
    """Forwards connections to a port, as long as it is let."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._server: asyncio.Server | None = None
        self._pipes: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._flows = asyncio.Event()
        self._flows.set()
        self._cut: Cut | None = None
        self._count = 0
        self.port = 0
        self.cuts = 0
        """How many connections it has cut."""
        self.chunks = 0
        """How many chunks clients have sent."""
        self.refusal: tuple[str, str] | None = None
        """The SQLSTATE and the words with which new connections are refused, as by a pooler."""
        self.refused = 0
        """How many were."""
        self.rate = float("inf")
        """Bytes a second that a client gets through."""
        self._held_at: bytes | None = None
        self.held = asyncio.Event()
        """Set while a chunk is held back."""

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut_all()
        for pipe in list(self._pipes):
            pipe.cancel()
        await asyncio.gather(*self._pipes, return_exceptions=True)

    def arm(self, cut: Cut) -> None:
        """Cut once, when it comes to that."""
        self._cut, self._count = cut, 0

    def cut_all(self) -> None:
        """Reset every connection."""
        for writer in list(self._writers):
            writer.transport.abort()

    def hold(self) -> None:
        """Swallow nothing, deliver nothing: a cable that was pulled."""
        self._flows.clear()

    def hold_at(self, says: bytes) -> None:
        """Hold, as soon as a client sends this."""
        self._held_at = says

    def flow(self) -> None:
        """As before."""
        self._flows.set()
        self.held.clear()

    async def _refuse(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, state: str, words: str
    ) -> None:
        self.refused += 1
        with suppress(OSError, asyncio.IncompleteReadError):
            if await _startup(reader) == _SSL_REQUEST:
                writer.write(b"N")
                await _startup(reader)
            fields = f"SFATAL\0VFATAL\0C{state}\0M{words}\0\0".encode()
            writer.write(b"E" + struct.pack("!i", len(fields) + 4) + fields)
            await writer.drain()
        writer.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refusal is not None:
            await self._refuse(reader, writer, *self.refusal)
            return
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, far_writer}
        silenced = asyncio.Event()
        ways = (
            self._up(reader, far_writer, writer, silenced),
            self._down(far_reader, writer, silenced),
        )
        tasks = [asyncio.create_task(way) for way in ways]
        self._pipes |= set(tasks)
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for end in (writer, far_writer):
            end.transport.abort()
            self._writers.discard(end)
        for task in tasks:
            task.cancel()
            self._pipes.discard(task)

    async def _up(self, reader, far_writer, writer, silenced) -> None:
        with suppress(OSError):
            while chunk := await reader.read(65536):
                if self._held_at is not None and self._held_at in chunk:
                    self._held_at = None
                    self.hold()
                if not self._flows.is_set():
                    self.held.set()
                await self._flows.wait()
                self.chunks += 1
                await asyncio.sleep(len(chunk) / self.rate)
                if self._is_cut(chunk):
                    if self._after:
                        silenced.set()
                        far_writer.write(chunk)
                        await far_writer.drain()
                        await asyncio.sleep(0.05)  # it does what it was asked
                    self.cuts += 1
                    return
                far_writer.write(chunk)
                await far_writer.drain()

    def _is_cut(self, chunk: bytes) -> bool:
        if self._cut is None or self._cut.says not in chunk:
            return False
        self._count += 1
        if self._count <= self._cut.at:
            return False
        self._after, self._cut = self._cut.after, None
        return True

    async def _down(self, far_reader, writer, silenced) -> None:
        with suppress(OSError):
            while chunk := await far_reader.read(65536):
                await self._flows.wait()
                if silenced.is_set():
                    continue
                writer.write(chunk)
                await writer.drain()
