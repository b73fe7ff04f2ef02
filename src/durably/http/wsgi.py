"""The handler as a WSGI application: requests come on threads, the handler runs on its event loop."""

from __future__ import annotations

import asyncio
import atexit
import logging
import threading
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable, Iterator
from dataclasses import replace
from http import HTTPStatus
from typing import Any, TypeVar

from ..errors import ClosedError
from ..lifespan import is_reloaded
from ..runtime import seconds
from ..sync import SyncDurably
from .handler import Handler
from .message import Refusal, Request, Response, parse_query
from .shutdown import ServerWatch, strip_prefix
from .streams import Limits

logger = logging.getLogger("durably")

Environ = dict[str, Any]
T = TypeVar("T")
StartResponse = Callable[..., Any]

_GRACE = 5.0  # seconds for runs that are active when the interpreter exits
# That a client has disconnected shows only at the second write to it.
_PING = 2.0  # seconds
_DEFAULT = Limits(
    streams=12, streams_per_principal=6
)  # of 16 threads, as the documentation advises


def limits_of_threads(limits: Limits | None) -> Limits:
    """Return the limits of a server that needs a thread for each stream: by default few streams, and
    always frequent pings, so that a thread is free again soon after its client has disconnected."""
    limits = limits or _DEFAULT
    return replace(limits, ping=min(seconds(limits.ping), _PING))


class WsgiApp:
    """A WSGI application. Make it with ``durably.wsgi(...)``.

    Unless the instance is open already (``durably.sync().init()``), the first request opens it and
    starts its worker, in the process that serves: after a fork, not before. It is stopped when the
    interpreter exits. A stream needs one of the server's threads for as long as it is open.
    """

    def __init__(self, sync: SyncDurably, handler: Handler, base_path: str) -> None:
        self._sync = sync
        self._limit = handler.max_body_bytes
        self.handler = handler
        """The handler behind it."""
        self._base = base_path
        self._opening = threading.Lock()
        self._watch = ServerWatch(handler)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request."""
        self._open()
        body = _Body(environ, self._limit)
        try:
            request = self._request(environ, body)
        except Refusal as refusal:
            response = refusal.response()
        else:
            response = self._answer(request, body)
        return _begin(response, start_response, self._sync)

    def _answer(self, request: Request, body: _Body) -> Response:
        answer = self._sync.call(body.handled(lambda: self._handle(request)))
        if answer is None:
            try:
                body.read()
            finally:
                answer = self._sync.call(body.handled())
        assert answer is not None
        return answer

    def _open(self) -> None:
        with self._opening:
            if not self._sync.is_open:
                self._sync.init()
                atexit.register(self._sync.stop, 0 if is_reloaded() else _GRACE)

    async def _handle(self, request: Request) -> Response:
        response = await self.handler.handle(request)
        if not isinstance(response.body, bytes):
            self._watch.begin()
        return response

    def _request(self, environ: Environ, body: _Body) -> Request:
        root, path = (_text(environ.get(name, "")) for name in ("SCRIPT_NAME", "PATH_INFO"))
        headers = {
            name[5:].replace("_", "-").lower(): value
            for name, value in environ.items()
            if name.startswith("HTTP_")
        }
        for name in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            if environ.get(name):
                headers[name.replace("_", "-").lower()] = environ[name]
        return Request(
            method=environ["REQUEST_METHOD"],
            path=strip_prefix(path, root, self._base),
            query=parse_query(environ.get("QUERY_STRING", "")),
            headers=headers,
            body=body,
            client=environ.get("REMOTE_ADDR"),
            server=environ,
        )


class _Body(AsyncIterable[bytes]):
    """The body of a request, read only when the handler needs it: after the checks of route and caller.

    Otherwise anyone could block a thread of the server by announcing a body and sending none. It is
    read by the thread of the request, as some servers require, while the handler waits.
    """

    def __init__(self, environ: Environ, limit: int) -> None:
        self._environ, self._limit = environ, limit
        self._data: bytes | None = None
        self._requested, self._tried = asyncio.Event(), asyncio.Event()
        self._handling: asyncio.Task[Response] | None = None

    async def handled(
        self, handle: Callable[[], Coroutine[Any, Any, Response]] | None = None
    ) -> Response | None:
        """Return the handler's response; None if it needs the body first: then read it, and call this again."""
        if handle is not None:
            self._handling = asyncio.create_task(handle())
            requested = asyncio.create_task(self._requested.wait())
            await asyncio.wait({self._handling, requested}, return_when=asyncio.FIRST_COMPLETED)
            requested.cancel()
            if not self._handling.done():
                return None
        self._tried.set()
        assert self._handling is not None
        return await self._handling

    def read(self) -> None:
        """Read the body, at most one byte over the limit: then the handler refuses it."""
        size, is_known = self._limit + 1, True
        length = self._environ.get("CONTENT_LENGTH") or ""
        if length.isascii() and length.isdigit():
            size = min(int(length[:16]), size)
        elif self._environ.get("wsgi.input_terminated"):
            is_known = False
        else:
            size = 0
        try:
            data = self._environ["wsgi.input"].read(size) if size else b""
        except Exception as error:  # noqa: BLE001 - each server raises its own
            logger.debug("a body broke off: %s", error)
            return
        if len(data) == size or not is_known:
            self._data = data

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self._requested.set()
        await self._tried.wait()
        if self._data is None:
            raise Refusal(400, "incomplete", "request body incomplete: the connection ended early")
        yield self._data


class _Chunks(Iterator[bytes]):
    """A stream, iterated by a thread; the server closes it when the client has disconnected."""

    def __init__(self, stream: AsyncIterator[bytes], sync: SyncDurably) -> None:
        self._stream: Any = stream
        self._sync = sync

    def __next__(self) -> bytes:
        chunk = self._call(_next(self._stream))
        if chunk is None:
            raise StopIteration
        return chunk

    def close(self) -> None:
        """End the stream."""
        self._call(self._stream.aclose())

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T | None:
        try:
            return self._sync.call(coroutine)
        except ClosedError:  # the instance was stopped, and with it the stream
            coroutine.close()
            return None


async def _next(stream: AsyncIterator[bytes]) -> bytes | None:
    return await anext(stream, None)


def _begin(response: Response, start_response: StartResponse, sync: SyncDurably) -> Iterable[bytes]:
    headers = [*response.headers]
    if isinstance(response.body, bytes) and "content-length" not in dict(headers):
        headers.append(("content-length", str(len(response.body))))
    start_response(f"{response.status} {HTTPStatus(response.status).phrase}", headers)
    return [response.body] if isinstance(response.body, bytes) else _Chunks(response.body, sync)


def _text(raw: str) -> str:
    """Decode a path, which WSGI passes as UTF-8 read as Latin-1."""
    return raw.encode("latin-1", "replace").decode("utf-8", "replace")
