"""Requests, responses and refusals: what the handler receives and returns, without a framework."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from ..wire.strict_json import dump

MAX_QUERY = 8_192  # bytes
MAX_PARAMETERS = 200


@dataclass(frozen=True, slots=True)
class Request:
    """A request, with its path below the handler's base path (``/trigger``)."""

    method: str
    path: str
    query: Sequence[tuple[str, str]] = ()
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    """By lower-case name."""
    body: bytes | AsyncIterable[bytes] = b""
    client: str | None = None
    """The peer's address; None when it is not known."""
    server: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What else the server knows: the ASGI scope or the WSGI environ, for ``authenticate``."""

    def one(self, name: str) -> str | None:
        """Return a query parameter that may be given once; None if it is missing."""
        values = [value for key, value in self.query if key == name]
        if len(values) > 1:
            raise Refusal(
                400, "invalid_request", f"{name} must be given once, got {len(values)} values"
            )
        return values[0] if values else None

    async def read(self, limit: int) -> bytes:
        """Read the body; ``Refusal`` 413 as soon as it is longer than ``limit`` bytes."""
        length = self.headers.get("content-length", "")
        is_number = length.isascii() and length.isdigit()
        if is_number and (len(length) > 15 or int(length) > limit):
            raise _too_large(limit)
        if isinstance(self.body, bytes):
            if len(self.body) > limit:
                raise _too_large(limit)
            return self.body
        parts: list[bytes] = []
        size = 0
        async for part in self.body:
            size += len(part)
            if size > limit:
                raise _too_large(limit)
            parts.append(part)
        return b"".join(parts)


@dataclass(frozen=True, slots=True)
class Response:
    """A response. ``body`` is bytes, or a stream of them that the server sends as they come."""

    status: int
    headers: Sequence[tuple[str, str]]
    body: bytes | AsyncIterator[bytes]


class Refusal(Exception):  # noqa: N818 - the protocol's term
    """A request that is refused or failed.

    ``code`` is a stable identifier, ``message`` is for a person; ``more`` is added to the body.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        headers: Sequence[tuple[str, str]] = (),
        more: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message
        self.headers, self.more = headers, more or {}

    def response(self) -> Response:
        """Return the refusal as a JSON response."""
        body = {"error": self.message, "code": self.code, **self.more}
        return respond(body, self.status, self.headers)


def respond(
    value: Any,
    status: int = 200,
    headers: Sequence[tuple[str, str]] = (),
    *,
    body: bytes = b"",
    kind: str = "application/json",
) -> Response:
    """Build a response, JSON unless ``body`` is given; never cached, never taken for another type."""
    always = (
        ("content-type", kind),
        ("cache-control", "no-store"),
        ("x-content-type-options", "nosniff"),
    )
    return Response(status, (*always, *headers), body or dump(value))


def parse_query(raw: str) -> list[tuple[str, str]]:
    """Parse a query string of which each character is a byte; ``Refusal`` if it is too long or not UTF-8."""
    if len(raw) > MAX_QUERY:
        raise Refusal(414, "query_too_long", f"query must be at most {MAX_QUERY:,} bytes")
    if raw.count("&") >= MAX_PARAMETERS:
        raise Refusal(
            400, "invalid_request", f"query must have at most {MAX_PARAMETERS} parameters"
        )
    try:
        text = raw.encode("latin-1").decode("utf-8")
        return parse_qsl(text, keep_blank_values=True, errors="strict")
    except ValueError:
        raise Refusal(400, "invalid_request", "query must be percent-encoded UTF-8") from None


def _too_large(limit: int) -> Refusal:
    return Refusal(413, "too_large", f"body must be at most {limit:,} bytes")
