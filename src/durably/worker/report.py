"""What a run reports while it goes on: events, progress, log lines. From any thread.

Reporting harms no run: what cannot be written in time is bounded, counted and said.
"""

from __future__ import annotations

import asyncio
import logging
import math
import operator
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any

from pydantic_core import to_jsonable_python

from .. import events
from ..models import LogLevel, Progress
from ..options import MAX_NUMBER
from ..store.records import Entry, Lease, RunRow
from ..store.snapshots import event_of_run, progress_to_json
from ..telemetry.logs import CURRENT_STEP, RunLog
from ..values.codec import PLAIN, Unstorable
from ..values.text import clean_text, dump_json, load_json
from .context import WorkerContext
from .failure import MAX_MESSAGE, to_text

PROGRESS_INTERVAL = 0.1  # seconds between two writes of a run's progress
MAX_LOG = 65_536  # characters of a log line, message and data together
MAX_PENDING_LOGS = 1_000  # lines of a run that may wait to be written; more are dropped and counted


class Reporter:
    """Tells of one attempt at a run."""

    def __init__(
        self,
        context: WorkerContext,
        row: RunRow,
        lease: Lease,
        log: RunLog,
        interrupted: Callable[[], bool],
    ) -> None:
        self._context = context
        self._row, self._lease, self._log = row, lease, log
        self._interrupted = interrupted
        self._labels: dict[str, str] = load_json(row.labels)
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._progress: str | None = None
        self._progress_timer: asyncio.TimerHandle | None = None
        self._progress_at = float("-inf")
        self._pending_logs = self._dropped_logs = 0
        self._background: set[asyncio.Task[None]] = set()  # keeps them alive until they are done
        self._closed = self._has_warned = False

    @property
    def last_progress(self) -> str | None:
        """The text of the last progress, for the settlement to carry."""
        return self._progress

    def close(self) -> None:
        """The run's body is over: nothing more is reported."""
        self._closed = True
        if self._progress_timer is not None:
            self._progress_timer.cancel()
        if self._dropped_logs:
            self._log(logging.WARNING, ": %d log lines were dropped", self._dropped_logs)

    def progress(self, current: float, total: float | None, message: str | None) -> None:
        """Tell it now; write it at most every ``PROGRESS_INTERVAL``, and the last one always."""
        done = _number(current)
        if done is None:
            self._warn_of_progress(current)
            return
        text = None if message is None else to_text(message, MAX_MESSAGE)
        progress = Progress(done, None if total is None else _number(total), text)
        self._on_loop(self._set_progress, progress, progress_to_json(progress))

    def _warn_of_progress(self, current: object) -> None:
        if not self._has_warned:
            self._has_warned = True
            text = ": step.progress(%.100r) is not a finite number; it is left out"
            self._log(logging.WARNING, text, current)

    def _set_progress(self, progress: Progress, text: str) -> None:
        if self._is_over("step.progress"):
            return
        self._progress = text
        self._context.progress[self._row.id] = progress
        self.tell(events.RunProgress, self._context.runtime.now(), None, progress=progress)
        if self._progress_timer is None:
            since = self._loop.time() - self._progress_at
            delay = max(0.0, PROGRESS_INTERVAL - since)
            self._progress_timer = self._loop.call_later(delay, self._write_progress)

    def _write_progress(self) -> None:
        self._progress_timer = None
        if self._closed or self._progress is None:
            return  # the settlement carries the last one
        self._progress_at = self._loop.time()
        now = self._context.runtime.now()
        self._in_background(self._context.store.save_progress(self._lease, self._progress, now))

    def log(self, level: LogLevel, message: str, data: Any) -> None:
        """Tell a line, and write it when log persistence is on."""
        step = CURRENT_STEP.get()
        message = to_text(message, MAX_LOG)
        text = _log_data(data)
        if len(message) + len(text) > MAX_LOG:
            text = dump_json(
                f"left out: {len(text)} characters of data, over the limit of {MAX_LOG}"
            )
        self._on_loop(self._add_log, level, message, text, step)

    def _add_log(self, level: LogLevel, message: str, text: str, step: str | None) -> None:
        if self._is_over("step.log"):
            return
        now = self._context.runtime.now()
        if not self._context.keep_logs:
            if self._context.has_listeners(self._row.id):
                self._tell_log(now, None, level, message, text, step)
            return
        if self._pending_logs >= MAX_PENDING_LOGS:
            self._dropped_logs += 1
            return
        line = f'{{"level":"{level}","message":{dump_json(message)},"data":{text}}}'
        written = self._context.store.record(self._lease, Entry("log:write", now, step, data=line))
        self._pending_logs += 1
        self._in_background(self._keep_log(written, now, level, message, text, step))

    async def _keep_log(
        self,
        written: Awaitable[int],
        now: int,
        level: LogLevel,
        message: str,
        text: str,
        step: str | None,
    ) -> None:
        try:
            seq = await written
        finally:
            self._pending_logs -= 1
        if self._context.has_listeners(self._row.id):
            self._tell_log(now, seq, level, message, text, step)

    def _tell_log(
        self, now: int, seq: int | None, level: LogLevel, message: str, text: str, step: str | None
    ) -> None:
        line = {"step_name": step, "level": level, "message": message, "data": load_json(text)}
        self.tell(events.LogWrite, now, seq, **line)

    def _is_over(self, what: str) -> bool:
        if self._closed:
            self._log(
                logging.WARNING, ": %s was called after the run ended, by a task left behind", what
            )
        return self._closed or self._interrupted()

    def _on_loop(self, fn: Callable[..., None], *args: Any) -> None:
        if threading.get_ident() == self._thread:
            fn(*args)
        else:
            self._loop.call_soon_threadsafe(fn, *args)

    def _in_background(self, write: Coroutine[Any, Any, None]) -> None:
        """A write that nobody waits for: it must not harm the run that asked for it."""
        task = self._loop.create_task(write)
        self._background.add(task)
        task.add_done_callback(self._background_done)

    def _background_done(self, task: asyncio.Task[None]) -> None:
        self._background.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log(logging.DEBUG, ": a progress or log line was not kept: %r", error)

    def tell(
        self, kind: Callable[..., events.AnyEvent], at: int, seq: int | None, **what: Any
    ) -> None:
        """Publish an event of the run, if anybody listens."""
        if self._context.has_listeners(self._row.id):
            self._context.publish(
                event_of_run(kind, self._row, at, seq, labels=self._labels, **what)
            )


def _number(value: Any) -> int | float | None:
    """A number as JSON has it; None for what is none, or not finite."""
    if isinstance(value, str | bytes | bytearray):
        return None
    with suppress(Exception):  # a number of any library
        whole = operator.index(value)
        if abs(whole) <= MAX_NUMBER:
            return whole
    with suppress(Exception):
        number = float(value)
        return number if math.isfinite(number) else None
    return None


def _log_data(data: Any) -> str:
    """Log data is for reading: what JSON cannot hold is shown as text, not refused."""
    try:
        return PLAIN.keep(data).text
    except Unstorable:
        try:
            shown = to_jsonable_python(data, serialize_unknown=True, inf_nan_mode="strings")
            return dump_json(shown)
        except Exception:  # noqa: BLE001 - a log line must not fail a job
            return dump_json(clean_text(type(data).__name__, 200))
