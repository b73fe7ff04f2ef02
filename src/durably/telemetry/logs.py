"""The log records about runs, and the filter that adds the run to users' own records.

Records about one run go to the logger ``durably.runs``, everything else to ``durably``. Until the
application sets up logging, Python prints warnings and errors to stderr: a run that fails in the
background is reported by nothing else.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Mapping
from contextlib import suppress
from contextvars import ContextVar
from typing import Any

RUNS = "durably.runs"
runs_logger = logging.getLogger(RUNS)

FIELDS = ("run_id", "job", "step", "attempt", "worker", "scope")
"""The attributes of a record about a run."""

CURRENT_RUN: ContextVar[Mapping[str, Any] | None] = ContextVar("durably_run", default=None)
"""The fields of the run whose job or step this is."""
CURRENT_STEP: ContextVar[str | None] = ContextVar("durably_step", default=None)
"""The step whose function executes; log lines have its name."""


class LogContext(logging.Filter):
    """A filter that names the run in records that are logged inside jobs and steps.

    Add it to a handler. It sets ``run_id``, ``job``, ``step``, ``attempt``, ``worker`` and ``scope`` on
    each record, unless the record has an attribute of that name already. Outside of a run, and ``step``
    between steps, they are ``default``. It drops no record.

    ``handler.addFilter(LogContext())``, or ``{"()": "durably.LogContext"}`` in ``dictConfig``.
    """

    def __init__(self, default: Any = None) -> None:
        super().__init__()
        self.default = default

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the run's fields to a record; always True."""
        run = None if is_ours(record) else CURRENT_RUN.get()  # ours name their run themselves
        fields = {**run, "step": CURRENT_STEP.get()} if run is not None else {}
        for name in FIELDS:
            if getattr(record, name, None) is None:
                value = fields.get(name)
                setattr(record, name, self.default if value is None else value)
        return True


def is_ours(record: logging.LogRecord) -> bool:
    """Whether a record is one of Durably's own."""
    return record.name == "durably" or record.name.startswith("durably.")


def _show_stored_traceback(record: logging.LogRecord) -> bool:
    """Show a traceback as it is stored with the run: bounded, and encodable, as handlers need it."""
    if text := vars(record).pop("traceback", None):
        record.exc_text = text.rstrip()
    return True


runs_logger.addFilter(_show_stored_traceback)


class RunLog:
    """Logs records about one attempt at a run."""

    __slots__ = ("_job", "fields")

    def __init__(self, run_id: str, job: str, attempt: int, owner: str, scope: str) -> None:
        self._job = one_line(job)
        self.fields: dict[str, Any] = {
            "run_id": run_id,
            "job": job,
            "attempt": attempt,
            "worker": worker_name(owner),
            "scope": scope,
        }

    def __call__(
        self,
        level: int,
        text: str,
        *args: object,
        error: BaseException | None = None,
        **fields: Any,
    ) -> None:
        """Log ``text`` after the run's id and job, with fields besides the run's own."""
        if runs_logger.isEnabledFor(level):
            args = (self.fields["run_id"], self._job, *args)
            extra = {"step": CURRENT_STEP.get(), **self.fields, **fields}
            write(runs_logger, level, "run %s (%s)" + text, *args, exc_info=error, extra=extra)

    def announce(self, text: str, *args: object, **fields: Any) -> None:
        """Log and print a text about the run, see the function ``announce``."""
        args = (self.fields["run_id"], self._job, *args)
        announce(runs_logger, "run %s (%s)" + text, *args, extra={**self.fields, **fields})


def write(logger: logging.Logger, level: int, text: str, *args: object, **options: Any) -> None:
    """Log a record. An error of a filter or a handler harms no run: it is printed, as logging does."""
    try:
        if (
            extra := options.get("extra")
        ) and logging.getLogRecordFactory() is not logging.LogRecord:
            # Logging refuses to overwrite what a factory sets, such as a run_id of its own.
            taken = vars(logging.makeLogRecord({}))
            options["extra"] = {k: v for k, v in extra.items() if k not in taken}
        logger.log(level, text, *args, stacklevel=3, **options)
    except Exception:  # noqa: BLE001 - whatever it is
        if logging.raiseExceptions and sys.stderr is not None:  # pyright: ignore[reportUnnecessaryComparison]  # pythonw has none
            traceback.print_exc()


class SafeLogger(logging.LoggerAdapter[logging.Logger]):
    """A logger that raises nothing: a filter or handler that fails must not end a background task."""

    def log(self, level: int, msg: object, *args: object, **options: Any) -> None:
        """Log a record; every other method of the logger calls this one."""
        write(self.logger, level, str(msg), *args, **options)


logger = SafeLogger(logging.getLogger("durably"))


def announce(logger: logging.Logger, text: str, *args: object, **options: Any) -> None:
    """Log what a person at a terminal must read, and print it if no handler shows it."""
    write(logger, logging.INFO, text, *args, **options)
    if not _is_shown(logger, logging.INFO) and sys.stderr is not None:  # pyright: ignore[reportUnnecessaryComparison]
        with suppress(OSError, ValueError):  # closed
            sys.stderr.write(f"durably: {text % args}\n")
            sys.stderr.flush()


def _is_shown(logger: logging.Logger, level: int) -> bool:
    """Whether a handler would show a record of this level."""
    if not logger.isEnabledFor(level):
        return False
    at: logging.Logger | None = logger
    while at is not None:
        if any(h.level <= level and not isinstance(h, logging.NullHandler) for h in at.handlers):
            return True
        at = at.parent if at.propagate else None
    return False


def one_line(text: str) -> str:
    """Escape a text so that it cannot forge a line of a log."""
    return text if text.isprintable() else repr(text)[1:-1]


def worker_name(owner: str) -> str:
    """The name of a worker in logs, PID-RANDOM: the owner of its leases."""
    return owner.removesuffix(".bell")


def format_duration(seconds: float) -> str:
    """Format a duration for people: ``0.12 s``, ``12.3 s``, ``3 min 5 s``, ``2 h 10 min``."""
    if seconds < 59.95:
        return f"{seconds:.2f} s" if seconds < 1 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def count(number: int, noun: str) -> str:
    """Format a number with its noun: ``1 step``, ``2 steps``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
