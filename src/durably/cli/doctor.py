"""``durably doctor``: what is wrong with a database and its runs, and what to do. Changes nothing."""

from __future__ import annotations

import sqlite3
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from ..errors import StorageError
from ..terminal import clean
from . import checks
from .checks import Finding
from .hints import completed
from .home import named_home, need_driver, open_read_only
from .show import plain, print_json

_MARKS = {"ok": "ok   ", "note": "note ", "wrong": "WRONG"}
_NO_FILE = "pass --db PATH or --app MODULE:DURABLY, or make it with 'durably migrate'"
_DAMAGED = "restore it from a backup; 'sqlite3 FILE .recover' may save what is left"


async def doctor(args: Namespace) -> int:
    """Print the findings; 1 if something is wrong."""
    home = named_home(args)
    if home.is_server:
        need_driver()
        from .server_checks import examine_server

        found = [finding async for finding in examine_server(home)]
    else:
        found = list(examine(home.path))
    if args.json:
        print_json([plain(finding) for finding in found])
    else:
        for finding in found:
            print(f"{_MARKS[finding.status]} {finding.check}: {clean(finding.detail)}")
            if finding.remedy:
                print(f"      -> {clean(completed(finding.remedy, args))}")
        wrong = sum(finding.status == "wrong" for finding in found)
        print(f"{wrong} things are wrong" if wrong else "nothing is wrong")
    return 1 if any(finding.status == "wrong" for finding in found) else 0


def examine(path: Path) -> Iterator[Finding]:
    """The findings about a file. What depends on something broken is not looked at."""
    yield from checks.sqlite()
    if not path.is_file():
        yield Finding("file", "wrong", f"there is no file {path}", _NO_FILE)
        return
    yield from checks.permissions(path)
    yield from checks.file_system(path)
    yield from checks.companion(path)
    if path.is_dir() or path.stat().st_nlink > 1:  # SQLite would make a log for this name
        return
    try:
        with closing(open_read_only(path)) as connection:
            yield from _inside(connection, path)
    except (sqlite3.Error, StorageError) as error:
        yield Finding("file", "wrong", f"{path} cannot be read: {error}", _DAMAGED)


def _inside(connection: sqlite3.Connection, path: Path) -> Iterator[Finding]:
    yield from checks.journal(connection, path)
    for check in (checks.integrity(connection), checks.schema(connection, path)):
        for finding in check:
            yield finding
            if finding.status == "wrong":
                return
    now = time.time_ns() // 1_000_000
    yield from checks.runs_in_file(connection, path, now)
