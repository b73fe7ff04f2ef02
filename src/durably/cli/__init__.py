"""The ``durably`` command. ``main`` parses, calls the command, and turns errors into exit codes."""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import sqlite3
import sys
import traceback
from argparse import Namespace
from collections.abc import Generator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from io import TextIOWrapper

from ..errors import ConfigurationError, DurablyError, InvalidInputError, StorageError
from ..telemetry.tracebacks import DEBUG
from ..terminal import clean
from .hints import completed
from .parser import build_parser
from .remote import AwayError
from .target import UsageError, load

__all__ = ["main"]

_SILENT = logging.NullHandler()

FAILED, USAGE, AWAY, FAULT, INTERRUPTED, PIPE = 1, 2, 3, 70, 130, 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; the exit code (``durably --help`` lists them)."""
    words = list(sys.argv[1:] if argv is None else argv)
    args = Namespace()
    _prepare_streams()
    logging.getLogger("durably").addHandler(_SILENT)  # commands that execute jobs set up logging
    try:
        build_parser().parse_args(words, args)
        return _call(args)
    except SystemExit as leaving:  # argparse, after --help or --version
        return leaving.code if isinstance(leaving.code, int) else 0
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _discard_output()
        return PIPE
    except Exception as error:  # noqa: BLE001 - nobody but us can tell the user
        if "--debug" in words:
            traceback.print_exc()
        code = exit_code(error)
        text = f"{type(error).__name__}: {error}" if code == FAULT else completed(str(error), args)
        lines = [f"durably: error: {text}", *getattr(error, "details", ())]
        with suppress(OSError):
            print("\n".join(map(clean, lines)), file=sys.stderr)
        return code


def _prepare_streams() -> None:
    """Output never fails a command: not for a character that it cannot encode, nor where there is none."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by the caller (>&-), or a program without a console
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115
        elif isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _discard_output() -> None:
    """The reader of our output is gone; Python would complain again when it flushes at the end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            with suppress(OSError, ValueError):  # no file at all
                os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def _call(args: Namespace) -> int:
    if (args.url or args.header) and not args.asks_servers:
        raise UsageError("this command asks no server; --url and --header mean nothing here")
    if getattr(args, "app", None) and getattr(args, "schema", None):
        raise UsageError("--schema goes with --db; an application has its own")
    if not args.url:
        _import_application(args)
    with _debugging() if args.debug else nullcontext():
        result = args.command(args)
        return int(asyncio.run(result) if inspect.iscoroutine(result) else result)


@contextmanager
def _debugging() -> Generator[None]:
    """Tracebacks have Durably's own frames, here and in processes that are started."""
    before = os.environ.get(DEBUG)
    os.environ[DEBUG] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[DEBUG]
        else:
            os.environ[DEBUG] = before


def _import_application(args: Namespace) -> None:
    """Before an event loop runs: modules may do what is refused within one (Django, asyncio.run)."""
    for name in ("app", "durably", "job", "auth"):
        if isinstance(spec := getattr(args, name, None), str):
            load(spec)


def exit_code(error: Exception) -> int:
    """The exit code that an error means."""
    match error:
        case UsageError() | ConfigurationError() | InvalidInputError():
            return USAGE
        case StorageError() | sqlite3.Error() | AwayError():
            return AWAY
        case DurablyError():
            return FAILED
        case _:
            return FAULT
