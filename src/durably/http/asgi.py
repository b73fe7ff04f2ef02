"""The handler as an ASGI application."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from .handler import Handler
from .message import Refusal, Request, Response, parse_query

if TYPE_CHECKING:
    from ..durably import Durably

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_STUCK = 30.0  # seconds that a client may not read before its stream is closed
_LOOK = 0.25  # seconds between two looks at whether the server is stopping


class AsgiApp:
    """``app(scope, receive, send)``. Make it with ``durably.asgi(...)``."""

    def __init__(self, durably: Durably, handler: Handler, base_path: str) -> None:
        self._durably = durably
        self.handler = handler
        """The handler behind it."""
        self._base = "/" + base_path.strip("/") if base_path.strip("/") else ""
        self._watch: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or the server's own beginning and end."""
        match scope["type"]:
            case "http":
                await self._http(scope, receive, send)
            case "lifespan":
                await self._lifespan(receive, send)
            case _:  # a websocket: closed before it is accepted
                await send({"type": "websocket.close", "code": 1000})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            request = self._request(scope, receive)
        except Refusal as refusal:
            response = refusal.response()
        else:
            response = await self.handler.handle(request)
        await _start(response, send)
        if isinstance(response.body, bytes):
            await send({"type": "http.response.body", "body": response.body})
        else:
            self._watch_server()
            await _stream(response.body, receive, send)

    def _request(self, scope: Scope, receive: Receive) -> Request:
        headers: dict[str, str] = {}
        for name, value in scope["headers"]:
            key = name.decode("latin-1").lower()
            joined = value.decode("latin-1")
            headers[key] = f"{headers[key]}, {joined}" if key in headers else joined
        client = scope.get("client")
        return Request(
            method=scope["method"],
            path=self._path(scope),
            query=parse_query(scope.get("query_string", b"").decode("latin-1")),
            headers=headers,
            body=_body(receive),
            client=client[0] if client else None,
            server=scope,
        )

    def _path(self, scope: Scope) -> str:
        """The path below us: with or without what mounts us, with or without a trailing slash."""
        path: str = scope["path"]
        for prefix in (scope.get("root_path", "").rstrip("/"), self._base):
            if prefix and (path == prefix or path.startswith(f"{prefix}/")):
                path = path.removeprefix(prefix)
        return path.rstrip("/") or "/"

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self._durably.init()
        except Exception as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            raise
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self.handler.close_streams()
        await self._durably.stop()
        await send({"type": "lifespan.shutdown.complete"})

    # Servers wait for open responses before they tell anybody that they stop, so streams would hold
    # them for ever. The server is the one whose method hears the signals; it knows.

    def _watch_server(self) -> None:
        if self._watch is None or self._watch.done():
            self._watch = asyncio.create_task(self._end_with_server(), name="durably-server-watch")

    async def _end_with_server(self) -> None:
        while self.handler.streams:
            if _is_stopping():
                self.handler.close_streams()
                return
            await asyncio.sleep(_LOOK)


def _is_stopping() -> bool:
    """Whether the server of this process was told to stop (uvicorn, and gunicorn's workers)."""
    for number in (signal.SIGTERM, signal.SIGINT):
        server = getattr(signal.getsignal(number), "__self__", None)
        if getattr(server, "should_exit", False) is True or getattr(server, "alive", True) is False:
            return True
    return False


async def _body(receive: Receive) -> AsyncIterator[bytes]:
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Refusal(400, "incomplete", "the request ended in the middle of its body")
        yield message.get("body", b"")
        if not message.get("more_body", False):
            return


async def _start(response: Response, send: Send) -> None:
    headers = [
        (name.encode("latin-1"), value.encode("latin-1")) for name, value in response.headers
    ]
    if isinstance(response.body, bytes):
        headers.append((b"content-length", b"%d" % len(response.body)))
    await send({"type": "http.response.start", "status": response.status, "headers": headers})


async def _stream(body: AsyncIterator[bytes], receive: Receive, send: Send) -> None:
    """Send what comes until it ends or the client leaves; nothing stays behind either way."""
    sending = asyncio.create_task(_send_all(body, send))
    leaving = asyncio.create_task(_disconnect(receive))
    try:
        await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if sending.done():
            sending.result()
    finally:
        for task in (sending, leaving):
            task.cancel()
        await asyncio.wait({sending, leaving})
        if isinstance(body, AsyncGenerator):
            await body.aclose()


async def _send_all(body: AsyncIterator[bytes], send: Send) -> None:
    try:
        async for chunk in body:
            async with asyncio.timeout(_STUCK):
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
    except (
        TimeoutError
    ):  # it does not read: it comes back, if it wants, with the id of the last event
        return
    finally:
        close: Any = getattr(body, "aclose", None)
        if close is not None:
            await close()
    with suppress(OSError):
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
