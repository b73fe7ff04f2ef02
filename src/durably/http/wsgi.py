"""The handler as a WSGI application: requests come on threads, the handler lives on its loop."""

from __future__ import annotations

import atexit
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from ..sync import SyncDurably
from .handler import ENVELOPE, Handler
from .message import Refusal, Request, Response, parse_query
from .mount import ServerWatch, below

if TYPE_CHECKING:
    from ..durably import Durably

Environ = dict[str, Any]
StartResponse = Callable[..., Any]

_GRACE = 5.0  # seconds for what still runs when the interpreter leaves


class WsgiApp:
    """``app(environ, start_response)``. Make it with ``durably.wsgi(...)``.

    Unless the instance is open already (``durably.sync().init()``), the first request opens it and
    starts its worker, in the process that serves: after a fork, not before. It is stopped when the
    interpreter leaves. A stream holds one of the server's threads for as long as it is open.
    """

    def __init__(self, durably: Durably, handler: Handler, base_path: str) -> None:
        self._sync = durably.sync()
        self._limit = durably.max_input_bytes + ENVELOPE
        self.handler = handler
        """The handler behind it."""
        self._base = base_path
        self._opening = threading.Lock()
        self._watch = ServerWatch(handler)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """One request."""
        self._open()
        try:
            request = self._request(environ)
        except Refusal as refusal:
            response = refusal.response()
        else:
            response = self._sync.call(self._handle(request))
        return _begin(response, start_response, self._sync)

    def _open(self) -> None:
        with self._opening:
            if not self._sync.is_open:
                self._sync.init()
                atexit.register(self._sync.stop, _GRACE)

    async def _handle(self, request: Request) -> Response:
        response = await self.handler.handle(request)
        if not isinstance(response.body, bytes):
            self._watch.begin()
        return response

    def _request(self, environ: Environ) -> Request:
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
            path=below(path, root, self._base),
            query=parse_query(environ.get("QUERY_STRING", "")),
            headers=headers,
            body=self._body(environ),
            client=environ.get("REMOTE_ADDR"),
            server=environ,
        )

    def _body(self, environ: Environ) -> bytes:
        """The body, one byte longer than it may be where it is too long; the handler refuses it."""
        length = environ.get("CONTENT_LENGTH") or ""
        if length.isascii() and length.isdigit():
            size = min(int(length[:16]), self._limit + 1)
        elif environ.get("wsgi.input_terminated") and environ["REQUEST_METHOD"] == "POST":
            size = self._limit + 1
        else:
            return b""
        body: bytes = environ["wsgi.input"].read(size)
        return body


class _Chunks(Iterator[bytes]):
    """A stream, from a thread; the server closes it when the client has left."""

    def __init__(self, stream: AsyncIterator[bytes], sync: SyncDurably) -> None:
        self._stream: Any = stream
        self._sync = sync

    def __next__(self) -> bytes:
        chunk = self._sync.call(_next(self._stream))
        if chunk is None:
            raise StopIteration
        return chunk

    def close(self) -> None:
        """Forget the client."""
        self._sync.call(self._stream.aclose())


async def _next(stream: AsyncIterator[bytes]) -> bytes | None:
    return await anext(stream, None)


def _begin(response: Response, start_response: StartResponse, sync: SyncDurably) -> Iterable[bytes]:
    headers = [*response.headers]
    if isinstance(response.body, bytes) and "content-length" not in dict(headers):
        headers.append(("content-length", str(len(response.body))))
    start_response(f"{response.status} {HTTPStatus(response.status).phrase}", headers)
    return [response.body] if isinstance(response.body, bytes) else _Chunks(response.body, sync)


def _text(raw: str) -> str:
    """WSGI gives paths as UTF-8 that was read as Latin-1."""
    return raw.encode("latin-1", "replace").decode("utf-8", "replace")
