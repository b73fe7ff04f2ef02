"""The heartbeat: a thread of its own, so that a blocked event loop does not lose its leases.

It also watches the loop: one that has not answered for a while is reported, with its stack.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import traceback
from collections.abc import Callable

from .errors import DurablyError
from .runtime import Runtime

logger = logging.getLogger("durably")

_frames = sys._current_frames  # pyright: ignore[reportPrivateUsage]  # documented, if oddly named
BLOCKED_AFTER = 5.0  # seconds without an answer from the loop


class Heartbeat:
    """Calls ``beat`` every ``interval`` seconds until it is stopped."""

    def __init__(self, runtime: Runtime, interval: float, beat: Callable[[], None]) -> None:
        self._runtime = runtime
        self._interval = interval
        self._beat = beat
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._stopped = threading.Event()
        self._task: asyncio.Task[None] | None = None
        self._asked_at: float | None = None
        self._reported = False

    def start(self) -> None:
        if self._runtime.threads:
            threading.Thread(target=self._run, name="durably-heartbeat", daemon=True).start()
        else:
            self._task = asyncio.create_task(self._run_inline(), name="durably-heartbeat")

    def stop(self) -> None:
        self._stopped.set()
        if self._task is not None:
            self._task.cancel()

    def _run(self) -> None:
        while not self._stopped.wait(self._interval):
            self._beat_once()
            self._watch()

    async def _run_inline(self) -> None:
        while True:
            await self._runtime.sleep(self._interval)
            self._beat_once()

    def _beat_once(self) -> None:
        try:
            self._beat()
        except DurablyError as error:
            logger.debug("no heartbeat: %s", error)
        except Exception:
            logger.exception("the heartbeat failed")

    def _watch(self) -> None:
        now = self._runtime.monotonic()
        if self._asked_at is None:
            self._asked_at = now
            try:
                self._loop.call_soon_threadsafe(self._answer)
            except RuntimeError:  # the loop is closed
                self._stopped.set()
        elif now - self._asked_at > BLOCKED_AFTER and not self._reported:
            self._reported = True
            frame = _frames().get(self._loop_thread)
            stack = "".join(traceback.format_stack(frame)) if frame else "unknown\n"
            logger.warning(
                "the event loop has been blocked for %.1f s; leases are kept, but nothing else runs. "
                "Move blocking work to a plain function, which runs in a thread. It is here:\n%s",
                now - self._asked_at, stack,
            )  # fmt: skip

    def _answer(self) -> None:
        self._asked_at = None
        self._reported = False
