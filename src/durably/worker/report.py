"""What a run reports while it executes: events, progress and log lines, from any thread.

Reporting harms no run: the lines that wait to be written are bounded, and those dropped are counted and
logged.
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
from ..store.records import Entry
from ..store.snapshots import event_of_run, progress_to_json
from ..telemetry.logs import CURRENT_STEP
from ..values.codec import PLAIN, Unstorable
from ..values.text import clean_text, dump_json, load_json
from .attempt import Attempt
from .failure import MAX_MESSAGE, to_text

PROGRESS_INTERVAL = 0.1  # seconds between two writes of a run's progress
MAX_LOG = 65_536  # characters of a log line, message and data together
MAX_PENDING_LOGS = 1_000  # lines of a run that may wait to be written; more are dropped and counted


class Reporter:
    """Publishes the events, the progress and the log lines of one attempt."""

    def __init__(self, attempt: Attempt) -> None:
        self._attempt, self._context = attempt, attempt.context
        self._row, self._lease, self._log = attempt.row, attempt.lease, attempt.log
        self._labels: dict[str, str] = load_json(attempt.row.labels)
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._progress: str | None = None
        self._progress_timer: asyncio.TimerHandle | None = None
        self._progress_at = float("-inf")
        self._pending_logs = self._dropped_logs = 0
        self._background: set[asyncio.Task[None]] = set()  # keeps them alive until they are done
        self._closed = self._has_warned = False

    @property
    def has_listeners(self) -> bool:
        """Whether the run's events have subscribers; without any, no event need be made."""
        return self._context.has_listeners(self._row.id)

    def publish(
        self, kind: Callable[..., events.AnyEvent], at: int, seq: int | None, **details: Any
    ) -> None:
        """Publish an event of the run, if it has listeners; ``at`` in milliseconds since 1970."""
        if self.has_listeners:
            self._context.publish(
                event_of_run(kind, self._row, at, seq, labels=self._labels, **details)
            )

    @property
    def last_progress(self) -> str | None:
        """The JSON of the last progress, to be stored with the outcome."""
        return self._progress

    def close(self) -> None:
        """The run's body is over: nothing more is reported."""
        self._closed = True
        if self._progress_timer is not None:
            self._progress_timer.cancel()
        if self._dropped_logs:
            self._log(logging.WARNING, ": %d log lines were dropped", self._dropped_logs)

    def progress(self, current: float, total: float | None, message: str | None) -> None:
        """Publish it now; store it at most every ``PROGRESS_INTERVAL`` seconds, and the last one always."""
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
        if self._warn_if_over("step.progress"):
            return
        self._progress = text
        self._context.progress[self._row.id] = progress
        self.publish(events.RunProgress, self._context.runtime.now(), None, progress=progress)
        if self._progress_timer is None:
            since = self._loop.time() - self._progress_at
            delay = max(0.0, PROGRESS_INTERVAL - since)
            self._progress_timer = self._loop.call_later(delay, self._write_progress)

    def _write_progress(self) -> None:
        self._progress_timer = None
        if self._closed or self._progress is None:
            return  # the outcome is stored with the last one
        self._progress_at = self._loop.time()
        now = self._context.runtime.now()
        self._in_background(self._context.store.save_progress(self._lease, self._progress, now))

    def log(self, level: LogLevel, message: str, data: Any) -> None:
        """Publish a line, and store it when log persistence is on."""
        step = CURRENT_STEP.get()
        message = to_text(message, MAX_LOG)
        text = _log_data(data)
        if len(message) + len(text) > MAX_LOG:
            text = dump_json(
                f"left out: {len(text)} characters of data, over the limit of {MAX_LOG}"
            )
        self._on_loop(self._add_log, level, message, text, step)

    def _add_log(self, level: LogLevel, message: str, text: str, step: str | None) -> None:
        if self._warn_if_over("step.log"):
            return
        now = self._context.runtime.now()
        if not self._context.keep_logs:
            if self.has_listeners:
                self._publish_log(now, None, level, message, text, step)
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
        if self.has_listeners:
            self._publish_log(now, seq, level, message, text, step)

    def _publish_log(
        self, now: int, seq: int | None, level: LogLevel, message: str, text: str, step: str | None
    ) -> None:
        line = {"step_name": step, "level": level, "message": message, "data": load_json(text)}
        self.publish(events.LogWrite, now, seq, **line)

    def _warn_if_over(self, what: str) -> bool:
        """Return whether nothing is reported any more; log a call after the run's end."""
        if self._closed:
            self._log(
                logging.WARNING, ": %s was called after the run ended, by a task left behind", what
            )
        return self._closed or self._attempt.interrupt is not None

    def _on_loop(self, fn: Callable[..., None], *args: Any) -> None:
        if threading.get_ident() == self._thread:
            fn(*args)
        else:
            self._loop.call_soon_threadsafe(fn, *args)

    def _in_background(self, write: Coroutine[Any, Any, None]) -> None:
        """Write without waiting for it: a failure must not harm the run."""
        task = self._loop.create_task(write)
        self._background.add(task)
        task.add_done_callback(self._background_done)

    def _background_done(self, task: asyncio.Task[None]) -> None:
        self._background.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log(logging.DEBUG, ": a progress or log line was not kept: %r", error)


def _number(value: Any) -> int | float | None:
    """A number as JSON has it; None if it is not a number, or not finite."""
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
