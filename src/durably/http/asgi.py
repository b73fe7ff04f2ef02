"""The handler as an ASGI application."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, MutableMapping
from contextlib import suppress
from contextvars import Context
from typing import Any

from ..engine.engine import Engine
from ..lifespan import Lifespan
from .handler import Handler
from .message import Refusal, Request, Response, parse_query
from .shutdown import ServerWatch, abort, strip_prefix

logger = logging.getLogger("durably")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_STUCK = 30.0  # seconds without reading after which a client is cut off
_GONE = 1.0  # seconds until the server reports the disconnect
_PIECE = 65_536  # bytes of a large response that are sent at once
_UNREAD = 67_108_864  # bytes of large responses that may wait for their clients


class AsgiApp:
    """An ASGI application. Make it with ``durably.asgi(...)``."""

    def __init__(self, engine: Engine, handler: Handler, base_path: str) -> None:
        self._engine = engine
        self.handler = handler
        """The handler behind it."""
        self._base = base_path
        self._sending: dict[asyncio.Task[None], _Sender] = {}
        self._watch = ServerWatch(handler, self._cut_off)
        self._has_lifespan = False
        self._opening: asyncio.Task[None] | None = None
        self._keeping: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the server's lifespan."""
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
            response = await self._open() or await self.handler.handle(request)
        try:
            await _start(response, send)
            if isinstance(response.body, bytes) and len(response.body) <= _PIECE:
                await send({"type": "http.response.body", "body": response.body})
            else:
                self._watch.begin()
                await self._stream(response.body, receive, send)
        finally:
            await _close(response.body)

    async def _open(self) -> Response | None:
        """Open the instance where nothing else does: no lifespan, and not the application either."""
        engine = self._engine
        if engine.is_open or self._has_lifespan or (engine.times_opened and self._keeping is None):
            return None
        if self._opening is None or self._opening.done():
            # In a separate context: what it starts outlives the request.
            self._opening = asyncio.create_task(engine.init(), context=Context())
        try:
            await asyncio.shield(self._opening)
        except Exception:
            logger.exception("the instance could not be opened")
            message = "Durably could not be opened; see the server's log"
            retry = [("retry-after", "1")]
            return Refusal(503, "not_started", message, headers=retry).response()
        if self._keeping is None or self._keeping.done():
            keeping = asyncio.create_task(self._keep(), name="durably-asgi", context=Context())
            self._keeping = keeping
        return None

    async def _keep(self) -> None:
        """Release the runs when the event loop ends, which cancels the tasks that are left on it."""
        try:
            await asyncio.Event().wait()
        finally:
            await self._engine.stop(0)

    async def _stream(
        self, body: bytes | AsyncIterator[bytes], receive: Receive, send: Send
    ) -> None:
        """Send a body until it ends or the client disconnects; no task is left behind either way."""
        sender = _Sender(send, len(body) if isinstance(body, bytes) else 0)
        parts = _pieces(body) if isinstance(body, bytes) else body
        sending = asyncio.create_task(sender.send_all(parts))
        leaving = asyncio.create_task(_disconnect(receive))
        self._sending[sending] = sender
        self._drop_unread()
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if sending.cancelled():
                abort(
                    receive
                )  # data that the client does not read would stay in the server forever
                await asyncio.wait({leaving}, timeout=_GONE)
            elif sending.done():
                sending.result()
        finally:
            del self._sending[sending]
            for task in (sending, leaving):
                task.cancel()
            await asyncio.wait({sending, leaving})

    def _cut_off(self, patience: float | None = None) -> bool:
        """Drop the clients that do not read; return whether there were any clients.

        They can reconnect with the id of the last event that they read.
        """
        patience = _STUCK if patience is None else patience
        before = asyncio.get_running_loop().time() - patience
        for task, sender in self._sending.items():
            if sender.waits_since < before:
                task.cancel()
        return bool(self._sending)

    def _drop_unread(self) -> None:
        """Limit the memory of large responses: clients that have not read for longest are dropped first."""
        by_patience = sorted(self._sending.items(), key=lambda item: item[1].waits_since)
        total = sum(sender.size for _, sender in by_patience)
        for task, sender in by_patience:
            if total <= _UNREAD or sender.waits_since == float("inf"):
                return
            total -= sender.size
            if sender.size:
                sender.size = 0
                task.cancel()

    def _request(self, scope: Scope, receive: Receive) -> Request:
        client = scope.get("client")
        return Request(
            method=scope["method"],
            path=strip_prefix(scope["path"], scope.get("root_path", ""), self._base),
            query=parse_query(scope.get("query_string", b"").decode("latin-1")),
            headers=_headers(scope["headers"]),
            body=_body(receive),
            client=client[0] if client else None,
            server=scope,
        )

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        self._has_lifespan = True
        lifespan = Lifespan(self._engine.init, self._engine.stop_within, None)
        try:
            await lifespan.__aenter__()
        except Exception as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            raise
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self.handler.close_streams()
        await lifespan.__aexit__(None)
        await send({"type": "lifespan.shutdown.complete"})


def _headers(raw: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for name, value in raw:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        between = "; " if key == "cookie" else ", "  # HTTP/2 may send each cookie by itself
        headers[key] = f"{headers[key]}{between}{text}" if key in headers else text
    return headers


async def _body(receive: Receive) -> AsyncIterator[bytes]:
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Refusal(400, "incomplete", "request body incomplete: the connection ended early")
        yield message.get("body", b"")
        if not message.get("more_body", False):
            return


async def _start(response: Response, send: Send) -> None:
    headers = [
        (name.encode("latin-1"), value.encode("latin-1")) for name, value in response.headers
    ]
    if isinstance(response.body, bytes) and b"content-length" not in dict(headers):
        headers.append((b"content-length", b"%d" % len(response.body)))
    await send({"type": "http.response.start", "status": response.status, "headers": headers})


class _Sender:
    """Sends a stream. ``waits_since`` is when it started to send the chunk that is not taken yet.

    ``size``: the bytes of a complete response, which are held until all of it is sent.
    """

    def __init__(self, send: Send, size: int) -> None:
        self._send, self.size = send, size
        self._loop = asyncio.get_running_loop()
        self.waits_since = float("inf")

    async def send_all(self, body: AsyncIterator[bytes]) -> None:
        async for chunk in body:
            self.waits_since = self._loop.time()
            await self._send({"type": "http.response.body", "body": chunk, "more_body": True})
            self.waits_since = float("inf")
        self.waits_since = self._loop.time()
        with suppress(OSError):
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})


async def _pieces(body: bytes) -> AsyncIterator[bytes]:
    """Split a large response, so that each part shows that the client still reads."""
    for start in range(0, len(body), _PIECE):
        yield body[start : start + _PIECE]


async def _close(body: bytes | AsyncIterator[bytes]) -> None:
    close: Any = getattr(body, "aclose", None)
    if close is not None:
        await close()


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
