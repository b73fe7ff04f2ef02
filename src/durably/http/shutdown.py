"""What every kind of server needs: the path below us, the news that the server is stopping, an end."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from typing import Any

from .handler import Handler

_LOOK = 0.25  # seconds between two looks at whether the server is stopping
_LAST = 1.0  # seconds that clients of a server that stops have to read what waits for them


def strip_prefix(path: str, root: str, base: str) -> str:
    """The path below what mounts us: with it or already without, with a trailing slash or without.

    ``root`` is what the server says we are mounted at, ``base`` where we expect to be.
    """
    for prefix in (root.strip("/"), base.strip("/")):
        if prefix and (path == f"/{prefix}" or path.startswith(f"/{prefix}/")):
            path = path[len(prefix) + 1 :]
    return path.rstrip("/") or "/"


def abort(receive: Any) -> None:
    """Drop the connection behind an ASGI ``receive``, where the server shows it, as uvicorn does.

    ASGI has no word for it, and a server that closes a connection waits until the client has read
    what was sent, which may be never.
    """
    transport = getattr(getattr(receive, "__self__", None), "transport", None)
    if transport is not None:
        transport.abort()


class ServerWatch:
    """Ends the streams when the server of this process is told to stop.

    Servers wait for open responses before they tell anybody that they stop, so streams would hold
    them for ever. The server is the object whose method hears the signals, and it knows. ``cut_off``
    is called now and then, drops the clients that do not read, and tells whether there are others;
    0 says to wait no longer.
    """

    def __init__(
        self, handler: Handler, cut_off: Callable[[float | None], bool] = lambda _: False
    ) -> None:
        self._handler, self._cut_off = handler, cut_off
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Look, as long as streams are open."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._look(), name="durably-server-watch")

    async def _look(self) -> None:
        while self._cut_off(None) or self._handler.streams:
            if _is_stopping():
                self._handler.close_streams(while_=_is_stopping)
                await asyncio.sleep(_LAST)
                self._cut_off(0)
                return
            await asyncio.sleep(_LOOK)


def _is_stopping() -> bool:
    """Whether the server of this process was told to stop (uvicorn, and gunicorn's workers)."""
    for number in (signal.SIGTERM, signal.SIGINT):
        server = getattr(signal.getsignal(number), "__self__", None)
        if getattr(server, "should_exit", False) is True or getattr(server, "alive", True) is False:
            return True
    return False
