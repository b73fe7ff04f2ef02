"""Opening and closing, one at a time: each waits for the other, and a stop ends an opening under way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from ..errors import ClosedError


class Lifecycle:
    """What an instance is doing to itself: opening, closing, or neither."""

    def __init__(self) -> None:
        self._opening: asyncio.Task[None] | None = None
        self._closing: asyncio.Future[None] | None = None

    @property
    def is_closing(self) -> bool:
        """Whether a close is under way."""
        return self._closing is not None

    async def open(self, opening: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Open, in a task that ``close`` can end; after what is under way."""
        while (busy := self._opening or self._closing) is not None:
            await asyncio.wait([busy])
        task = self._opening = asyncio.ensure_future(opening())
        caller = asyncio.current_task()
        try:
            await task
        except asyncio.CancelledError:
            if caller is not None and caller.cancelling():
                raise
            raise ClosedError("stop() was called while init() was opening the database") from None
        finally:
            self._opening = None

    async def close(self, closing: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Close; after another close, and after ending an opening under way."""
        while (busy := self._opening or self._closing) is not None:
            if self._opening is not None:
                self._opening.cancel()
            await asyncio.wait([busy])
        closed = self._closing = asyncio.get_running_loop().create_future()
        try:
            await closing()
        finally:
            self._closing = None
            closed.set_result(None)
