"""The ``durably`` command. ``main`` parses, calls the command, and turns errors into exit codes."""

from __future__ import annotations

import asyncio
import inspect
import os
import sqlite3
import sys
import traceback
from argparse import Namespace
from collections.abc import Sequence

from ..errors import ConfigurationError, DurablyError, InvalidInputError, StorageError
from ..terminal import clean
from .parser import build_parser
from .remote import AwayError
from .target import UsageError

__all__ = ["main"]

FAILED, USAGE, AWAY, FAULT, INTERRUPTED, PIPE = 1, 2, 3, 70, 130, 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; the exit code (``durably --help`` lists them)."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _call(build_parser().parse_args(words))
    except SystemExit as leaving:  # argparse, after --help or --version
        return leaving.code if isinstance(leaving.code, int) else 0
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output is gone; Python would complain again when it flushes at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE
    except Exception as error:  # noqa: BLE001 - nobody but us can tell the user
        if "--debug" in words:
            traceback.print_exc()
        code = exit_code(error)
        text = f"{type(error).__name__}: {error}" if code == FAULT else str(error)
        print(f"durably: error: {clean(text)}", file=sys.stderr)
        return code


def _call(args: Namespace) -> int:
    if (args.url or args.header) and not args.asks_servers:
        raise UsageError("this command asks no server; --url and --header mean nothing here")
    result = args.command(args)
    return int(asyncio.run(result) if inspect.iscoroutine(result) else result)


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
