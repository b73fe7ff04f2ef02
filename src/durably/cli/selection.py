"""Which runs a command is about: those that it names, or those that its filters match."""

from __future__ import annotations

import shlex
from argparse import Namespace
from collections.abc import AsyncIterator, Collection
from dataclasses import replace
from datetime import datetime

from ..models import Run
from ..state import Status
from .connect import Runs
from .target import UsageError

_PAGE = 200
_FILTERS = ("status", "job", "since", "error", "label")


def is_filtered(args: Namespace) -> bool:
    """Whether any filter is given."""
    return any(getattr(args, name) for name in _FILTERS)


def filter_options(args: Namespace) -> str:
    """The filters as they are written on a command line, and the limit."""
    given = [(name, value) for name in ("status", "job") for value in getattr(args, name)]
    given += [("label", f"{name}={value}") for name, value in args.label]
    given += [("since", args.since and args.since.isoformat()), ("error", args.error)]
    given += [("limit", str(args.limit))]
    return "".join(f" --{name} {shlex.quote(value)}" for name, value in given if value)


def movable_statuses(args: Namespace, movable: Collection[Status], command: str) -> list[Status]:
    """The statuses to look for: those given, else all that the command can move."""
    wrong = [status for status in args.status if status not in movable]
    if wrong:
        known = ", ".join(status for status in Status if status in movable)
        raise UsageError(f"'runs {command}' is for runs that are {known}; not for {wrong[0]} ones")
    return [Status(status) for status in args.status or movable]


async def matching(
    runs: Runs,
    args: Namespace,
    statuses: Collection[str],
    *,
    limit: int | None = None,
    cursor: str | None = None,
) -> AsyncIterator[Run]:
    """The runs that match all filters, newest first.

    Job, status and labels are filtered where the runs are; ``--since`` and ``--error`` here, page by page.
    """
    found = 0
    size = _PAGE if args.error or limit is None else min(limit, _PAGE)
    while True:
        page = await runs.get_runs(
            job=args.job,
            status=list(statuses),
            labels=dict(args.label),
            limit=size,
            cursor=cursor,
        )
        for run in page:
            if _is_since(run, args.since) and _has_error(run, args.error):
                yield run
                found += 1
                if found == limit:
                    return
        # Ids follow the clocks of several machines, so a single older run does not end the search.
        if len(page) < size or not any(_is_since(run, args.since) for run in page):
            return
        cursor = page[-1].cursor


async def matching_all(
    runs: Runs, args: Namespace, statuses: Collection[str], limit: int | None
) -> list[Run]:
    """All of them, without their values, of which there may be many."""
    found = matching(runs, args, statuses, limit=limit)
    return [replace(run, input=None, output=None) async for run in found]


def _is_since(run: Run, since: datetime | None) -> bool:
    return since is None or run.created_at >= since


def _has_error(run: Run, text: str | None) -> bool:
    return not text or (run.error is not None and text.casefold() in str(run.error).casefold())
