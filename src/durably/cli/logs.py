"""How the commands that execute jobs log: to stderr, as lines for people or as JSON."""

from __future__ import annotations

import json
import logging
import sys
from argparse import ArgumentParser, Namespace
from datetime import UTC, datetime
from typing import Any

from ..telemetry.logs import FIELDS, LogContext, is_ours
from ..terminal import clean, clean_lines
from .show import when

LEVELS = ("debug", "info", "warning", "error")
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


def add_arguments(parser: ArgumentParser, level: str) -> None:
    """``--log-level`` and ``--log-format``; ``level`` is the default for the help."""
    parser.add_argument("--log-level", choices=LEVELS, metavar="LEVEL",
                        help=f"log from this level on: {', '.join(LEVELS)} ({level})")  # fmt: skip
    parser.add_argument("--log-format", choices=("text", "json"), metavar="F",
                        help="text, or json: one object a line (text)")  # fmt: skip


def set_up(args: Namespace, level: str = "info") -> logging.Handler:
    """Log to stderr, from ``level`` on; an application that has set up logging keeps its own.

    With ``--log-level`` or ``--log-format`` the command's logging replaces the application's.
    """
    handler = _Stderr()
    handler.setFormatter(_JsonFormatter() if args.log_format == "json" else _TextFormatter())
    handler.addFilter(LogContext())
    is_chosen = args.log_level is not None or args.log_format is not None
    chosen = (args.log_level or level).upper()
    logging.basicConfig(level=chosen, handlers=[handler], force=is_chosen)
    return handler


class _Stderr(logging.StreamHandler[Any]):
    """Writes to what is stderr by then: a progress bar puts itself in its place for a while."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


class _TextFormatter(logging.Formatter):
    """``TIME LEVEL message``; what users log in a run is followed by the run. Steers no terminal."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created).astimezone()
        is_terminal = sys.stderr.isatty()
        time = f"{at:%H:%M:%S}" if is_terminal else at.isoformat(sep=" ", timespec="milliseconds")
        text = f"{time} {record.levelname:7} {clean_lines(record.getMessage())}{_place(record)}"
        if record.exc_info and not record.exc_text:
            record.exc_text = self.formatException(record.exc_info)
        more = (record.exc_text, record.stack_info)
        return "\n".join([text, *(clean_lines(part).rstrip() for part in more if part)])


def _place(record: logging.LogRecord) -> str:
    run_id = getattr(record, "run_id", None)
    if run_id is None or is_ours(record):
        return ""
    job, step = getattr(record, "job", None), getattr(record, "step", None)
    at = "" if step is None else f", step {step!r}"
    return clean(f"  [{job}{at}, run {run_id}]")


class _JsonFormatter(logging.Formatter):
    """One JSON object: time, level, logger, message, the run's fields, and what else ``extra=`` had."""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {
            "time": when(datetime.fromtimestamp(record.created, UTC)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        extra = {k: v for k, v in vars(record).items() if k not in _STANDARD and k not in fields}
        fields |= {k: v for k, v in extra.items() if v is not None or k not in FIELDS}
        if record.exc_info and not record.exc_text:
            record.exc_text = self.formatException(record.exc_info)
        if record.exc_text:
            fields["exception"] = record.exc_text
        if record.stack_info:
            fields["stack"] = record.stack_info
        return json.dumps(fields, default=str, skipkeys=True)
