"""What every adapter to a server needs: the path below its mount, and the end of streams at a shutdown."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from typing import Any

from .handler import Handler

_POLL_INTERVAL = 0.25  # seconds between two checks whether the server is stopping
_DRAIN = 1.0  # seconds that clients have to read their last events when the server stops


def strip_prefix(path: str, root: str, base: str) -> str:
    """Return the path below the mount point, whether or not it still has that prefix, without a trailing slash.

    ``root`` is the mount point that the server reports, ``base`` the expected one.
    """
    for prefix in (root.strip("/"), base.strip("/")):
        if prefix and (path == f"/{prefix}" or path.startswith(f"/{prefix}/")):
            path = path[len(prefix) + 1 :]
    return path.rstrip("/") or "/"


def abort(receive: Any) -> None:
    """Drop the connection behind an ASGI ``receive``, where the server shows it, as uvicorn does.

    ASGI has no message for it, and a server that closes a connection waits until the client has read
    what was sent, which may be never.
    """
    transport = getattr(getattr(receive, "__self__", None), "transport", None)
    if transport is not None:
        transport.abort()


class ServerWatch:
    """Ends the streams when the server of this process is stopping.

    Servers wait for open responses before they announce a shutdown, so open streams would keep them
    running forever. The server is the object whose method handles the signals; its attributes show
    that it stops. ``cut_off`` is called from time to time, drops the clients that do not read, and
    returns whether there are others; called with 0, it drops at once.
    """

    def __init__(
        self, handler: Handler, cut_off: Callable[[float | None], bool] = lambda _: False
    ) -> None:
        self._handler, self._cut_off = handler, cut_off
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Watch the server for as long as streams are open."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._watch(), name="durably-server-watch")

    async def _watch(self) -> None:
        while self._cut_off(None) or self._handler.streams:
            if _is_stopping():
                self._handler.close_streams(while_=_is_stopping)
                await asyncio.sleep(_DRAIN)
                self._cut_off(0)
                return
            await asyncio.sleep(_POLL_INTERVAL)


def _is_stopping() -> bool:
    """Whether the server of this process is stopping (uvicorn, and gunicorn's workers)."""
    for number in (signal.SIGTERM, signal.SIGINT):
        server = getattr(signal.getsignal(number), "__self__", None)
        if getattr(server, "should_exit", False) is True or getattr(server, "alive", True) is False:
            return True
    return False
