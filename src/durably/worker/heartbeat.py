"""The heartbeat: a thread of its own, so that a blocked event loop does not lose its leases.

It also watches the loop: one that does not answer for a while is logged, with its stack.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType

from ..errors import DurablyError
from ..runtime import Runtime
from ..telemetry.background import BackgroundLogger
from ..telemetry.logs import logger
from ..telemetry.tracebacks import is_own

_frames = sys._current_frames  # pyright: ignore[reportPrivateUsage]  # documented, if oddly named
_ASYNCIO = str(Path(asyncio.__file__).parent)
BLOCKED_AFTER = 5.0  # seconds without an answer from the loop


class Heartbeat:
    """Calls ``beat`` every ``interval`` seconds until it is stopped.

    Calls ``on_error`` on the event loop with what ``beat`` raises.
    """

    def __init__(
        self,
        runtime: Runtime,
        interval: float,
        beat: Callable[[], None],
        on_error: Callable[[Exception], None],
    ) -> None:
        self._runtime = runtime
        self._interval = interval
        self._beat = beat
        self._on_error = on_error
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._stopped = threading.Event()
        self._task: asyncio.Task[None] | None = None
        self._probed_at: float | None = None
        self._has_warned = False
        self._log = BackgroundLogger(logger, threads=runtime.threads)

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
            self._log(logging.DEBUG, "no heartbeat: %s", error)
            self._report(error)
        except Exception as error:  # noqa: BLE001 - whatever it is, the next beat is tried
            self._log(logging.ERROR, "the heartbeat failed", exc_info=error)
            self._report(error)

    def _report(self, error: Exception) -> None:
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._on_error, error)

    def _watch(self) -> None:
        now = self._runtime.monotonic()
        if self._probed_at is None:
            self._probed_at = now
            try:
                self._loop.call_soon_threadsafe(self._answered)
            except RuntimeError:  # the loop is closed
                self._stopped.set()
        elif now - self._probed_at > BLOCKED_AFTER and not self._has_warned:
            self._has_warned = True
            self._log(
                logging.WARNING,
                "the event loop has been blocked for %.1f s; leases are kept, but nothing else runs. "
                "Move blocking work to a plain function, which runs in a thread. It is here:\n%s",
                now - self._probed_at, _stack_of(_frames().get(self._loop_thread)),
            )  # fmt: skip

    def _answered(self) -> None:
        self._probed_at = None
        self._has_warned = False


def _stack_of(frame: FrameType | None) -> str:
    """The stack of a thread, without the frames of its event loop and of Durably."""
    stack = traceback.extract_stack(frame) if frame else traceback.StackSummary()
    users = [at for at in stack if not (is_own(at.filename) or at.filename.startswith(_ASYNCIO))]
    return "".join(traceback.format_list(users or stack)) or "unknown\n"
