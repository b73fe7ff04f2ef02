"""``durably doctor``: what is wrong with a database and its runs, and what to do. Changes nothing."""

from __future__ import annotations

import sqlite3
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

from ..errors import ConfigurationError, StorageError
from .checks import Finding, database, machine, runs
from .show import clean, plain, print_json
from .target import named_database, open_read_only, path_of

Check = Callable[[sqlite3.Connection, Path, int], Iterator[Finding]]

_MARKS = {"ok": "ok   ", "note": "note ", "wrong": "WRONG"}
OF_THE_FILE: tuple[Check, ...] = (database.integrity, database.schema, database.journal)
OF_THE_RUNS: tuple[Check, ...] = (
    runs.leases,
    runs.lapsed,
    runs.overdue,
    runs.abandoned,
    runs.poisoned,
    runs.clock,
)


def doctor(args: Namespace) -> int:
    """Print the findings; 1 if something is wrong."""
    found = list(examine(path_of(named_database(args)[0])))
    if args.json:
        print_json([plain(finding) for finding in found])
    else:
        for finding in found:
            print(f"{_MARKS[finding.status]} {finding.check}: {clean(finding.detail)}")
            if finding.remedy:
                print(f"      -> {clean(finding.remedy)}")
    return 1 if any(finding.status == "wrong" for finding in found) else 0


def examine(path: Path) -> Iterator[Finding]:
    """The findings about a database, one check after the other."""
    yield from machine.sqlite(path)
    if not path.is_file():
        yield Finding("file", "wrong", f"there is no file {path}", _NO_FILE)
        return
    yield from machine.permissions(path)
    yield from machine.file_system(path)
    with closing(open_read_only(path)) as connection:
        connection.row_factory = sqlite3.Row
        try:
            usable = True
            for check in (*OF_THE_FILE, *OF_THE_RUNS):
                if usable or check in OF_THE_FILE:
                    for finding in check(connection, path, time.time_ns() // 1_000_000):
                        usable = usable and finding.is_usable
                        yield finding
        except sqlite3.Error as error:
            yield Finding("file", "wrong", f"{path} cannot be read: {error}", _DAMAGED)


_NO_FILE = "pass --db PATH or --app MODULE:DURABLY, or make it with 'durably migrate'"
_DAMAGED = "restore it from a backup; 'sqlite3 FILE .recover' may save what is left"
