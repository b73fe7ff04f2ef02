"""``runs list``: a line for each run, in as much detail as the terminal is wide."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence

from ..jobs.filter import MAX_LIMIT
from ..models import Run
from ..options import whole
from ..terminal import clean
from .connect import connect
from .hints import given
from .ids import shorten
from .selection import filter_options, matching
from .show import age, plain_run, print_json, print_table, screen_width, when

_WIDE = 120  # columns from which ids and times are printed whole
_LONGEST_ERROR = 200


async def list_runs(args: Namespace) -> int:
    """The newest runs that match."""
    whole("limit", args.limit, 1, MAX_LIMIT)
    async with connect(args, read_only=True) as runs:
        matches = matching(runs, args, args.status, limit=args.limit, cursor=args.cursor)
        found = [run async for run in matches]
    if args.json:
        print_json([plain_run(run) for run in found])
        return 0
    print_runs(found)
    if len(found) == args.limit:
        options = f"{given(args)}{filter_options(args)}"
        print(f"more: durably runs list{options} --cursor {found[-1].cursor}", file=sys.stderr)
    return 0


def print_runs(runs: Sequence[Run]) -> None:
    """A table: whole in a file, and so that a run is a line on a terminal."""
    width = screen_width()
    if width is None or width >= _WIDE:
        head = ("ID", "JOB", "STATUS", "PROGRESS", "ATTEMPT", "CREATED", "KEY", "ERROR")
        rows = [
            (run.id, run.job, run.status, _progress(run), run.attempt, when(run.created_at),
             run.idempotency_key, _error(run))
            for run in runs
        ]  # fmt: skip
        print_table(head, rows, ("JOB", "KEY", "ERROR"))
        return
    ids = shorten([run.id for run in runs])
    print_table(
        ("ID", "JOB", "STATUS", "PROGRESS", "AGE", "ERROR"),
        [
            (short, run.job, run.status, _progress(run), age(run.created_at), _error(run))
            for short, run in zip(ids, runs, strict=True)
        ],
        ("JOB", "PROGRESS", "ERROR"),
    )


def _progress(run: Run) -> str:
    if run.progress is None:
        return ""
    total = "" if run.progress.total is None else f"/{run.progress.total:g}"
    return f"{run.progress.current:g}{total}"


def _error(run: Run) -> str:
    """The first line of it."""
    if run.error is None:
        return ""
    lines = str(run.error).splitlines() or [""]
    return clean(lines[0])[:_LONGEST_ERROR]
