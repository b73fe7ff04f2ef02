"""The handler behind a message port: a page's requests come as messages, and so do the answers.

The protocol's messages are JavaScript objects; what crosses here are their parts, as numbers and
strings, so that no proxy of an object has to be kept on either side.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from typing import Any, Protocol
from urllib.parse import unquote

from ..http import Handler, Refusal, Request, Response
from ..http.message import parse_query

logger = logging.getLogger("durably")

WINDOW = 64  # chunks of a stream that the page has not acknowledged yet


class Page(Protocol):
    """Where answers are sent: the page at the other end of the port."""

    def head(self, id: int, status: int, headers: str, /) -> None:
        """``{id, status, headers}``; the headers as JSON."""
        ...

    def chunk(self, id: int, text: str, /) -> None:
        """``{id, chunk}``"""
        ...

    def end(self, id: int, /) -> None:
        """``{id, end}``"""
        ...


class Port:
    """Answers one page. Its requests are numbered by the page."""

    def __init__(self, handler: Handler, page: Page) -> None:
        self._handler, self._page = handler, page
        self._active: dict[int, tuple[asyncio.Task[None], asyncio.Semaphore]] = {}

    def ask(self, id: int, method: str, path: str, headers: str, body: str) -> None:
        """``{id, method, path, headers, body}``; the headers as JSON, by lower-case name."""
        window = asyncio.Semaphore(WINDOW)
        task = asyncio.ensure_future(self._answer(id, method, path, headers, body, window))
        self._active[id] = task, window
        task.add_done_callback(lambda _: self._active.pop(id, None))

    def more(self, id: int, chunks: int) -> None:
        """``{id, more}``: the page has taken this many chunks."""
        if id in self._active:
            for _ in range(chunks):
                self._active[id][1].release()

    def cancel(self, id: int) -> None:
        """``{id, cancel}``: the page does not need the rest."""
        if id in self._active:
            self._active[id][0].cancel()

    def close(self) -> None:
        """Cancel everything: the page is gone."""
        for id in list(self._active):
            self.cancel(id)

    async def _answer(
        self, id: int, method: str, path: str, headers: str, body: str, window: asyncio.Semaphore
    ) -> None:
        try:
            request = _request(method, path, json.loads(headers), body)
        except Refusal as refusal:
            response = refusal.response()
        else:
            response = await self._handler.handle(request)
        self._page.head(id, response.status, json.dumps(dict(response.headers)))
        try:
            async for text in _texts(response):
                await window.acquire()
                self._page.chunk(id, text)
        except Exception:
            logger.exception("an answer failed")
        finally:
            close: Any = getattr(response.body, "aclose", None)
            if close is not None:
                await close()
        self._page.end(id)


async def _texts(response: Response) -> AsyncIterator[str]:
    """The body, which is JSON or whole frames: text wherever it is cut."""
    if isinstance(response.body, bytes):
        yield response.body.decode()
    else:
        async for chunk in response.body:
            yield chunk.decode()


def _request(method: str, path: str, headers: dict[str, str], body: str) -> Request:
    path, _, query = path.partition("?")
    # Nobody but pages of this origin can send messages here, hence a client on this machine.
    at = {"host": "localhost", **headers}
    return Request(method, unquote(path), parse_query(query), at, body.encode(), client="127.0.0.1")
