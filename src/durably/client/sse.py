"""Server-sent events, read as they come: bytes in, messages out. Knows no network.

The rules are those of the HTML standard, §9.2.6: lines end with CR, LF or CRLF; a message ends with an
empty line; a message without its end, where a stream breaks off, is dropped.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

MAX_MESSAGE = (
    64 * 1024 * 1024
)  # bytes; four times the largest output that a server keeps by default
_BOM = b"\xef\xbb\xbf"


class TooLong(Exception):  # noqa: N818 - caught and named by the caller, never seen by a user
    """A message that does not end within ``MAX_MESSAGE`` bytes."""


class Message(NamedTuple):
    """One message: the event's name, its data, and the last id of the stream so far."""

    event: str
    data: str
    last_id: str


class Parser:
    """Parses one stream. ``last_id`` continues an earlier stream."""

    def __init__(self, last_id: str = "", limit: int = MAX_MESSAGE) -> None:
        self.last_id = last_id
        """The id of the last message, for ``Last-Event-ID`` after a reconnect."""
        self.retry: int | None = None
        """Milliseconds to wait before a reconnect, if the server has set them."""
        self._lines = _Lines()
        self._limit = limit
        self._size = 0
        self._id = last_id
        self._event = ""
        self._data: list[str] = []

    def feed(self, chunk: bytes) -> Iterator[Message]:
        """Yield the messages that end in this chunk. Raises ``TooLong``."""
        for line in self._lines.split(chunk):
            if line:
                self._take(line)
            elif (message := self._dispatch()) is not None:
                yield message
        self._check_size(self._lines.pending)

    def _take(self, line: bytes) -> None:
        self._size += len(line)
        self._check_size()
        name, _, value = line.decode("utf-8", "replace").partition(":")
        value = value.removeprefix(" ")
        match name:
            case "data":
                self._data.append(value)
            case "event":
                self._event = value
            case "id" if "\0" not in value:
                self._id = value
            case "retry" if value.isascii() and value.isdigit():
                self.retry = int(value[:18])
            case _:  # a comment, or a field of a later standard
                pass

    def _dispatch(self) -> Message | None:
        data, event = self._data, self._event
        self._data, self._event, self._size = [], "", 0
        self.last_id = self._id
        return Message(event or "message", "\n".join(data), self.last_id) if data else None

    def _check_size(self, pending: int = 0) -> None:
        if self._size + pending > self._limit:
            raise TooLong(f"a message is longer than {self._limit:,} bytes")


class _Lines:
    """Cuts chunks into lines. A line is yielded as soon as its end has certainly begun."""

    def __init__(self) -> None:
        self.pending = 0
        """Bytes of the line that has not ended."""
        self._pieces: list[bytes] = []
        self._first = True
        self._after_cr = False

    def split(self, chunk: bytes) -> Iterator[bytes]:
        if self._after_cr and chunk:
            self._after_cr = False
            chunk = chunk.removeprefix(b"\n")  # the second half of a CRLF whose line was yielded
        for line in chunk.splitlines(keepends=True):
            text = line.rstrip(b"\r\n")
            self._pieces.append(text)
            self.pending += len(text)
            if len(text) < len(line):
                yield self._end()
        self._after_cr = self._after_cr or chunk.endswith(b"\r")

    def _end(self) -> bytes:
        line = b"".join(self._pieces)
        self._pieces.clear()
        self.pending = 0
        if self._first:
            self._first = False
            line = line.removeprefix(_BOM)
        return line
