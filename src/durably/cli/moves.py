"""The commands that change runs: ``runs retry``, ``cancel``, ``retrigger`` and ``delete``.

Each takes ids, or filters. What filters match is listed and confirmed first.
"""

from __future__ import annotations

import signal
import sys
from argparse import Namespace
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from ..errors import InvalidInputError, JobNotFoundError, RunConflictError, RunNotFoundError
from ..models import Run
from ..state import ACTIVE, FINAL, Status
from ..terminal import clean
from .connect import Runs, connect
from .ids import resolve_all
from .listing import print_runs
from .remote import named_url
from .selection import is_filtered, matching_all, movable_statuses
from .show import plain_run, print_json
from .target import UsageError

_REFUSED = (RunConflictError, RunNotFoundError, JobNotFoundError, InvalidInputError)


@dataclass(frozen=True, slots=True)
class Move:
    """A change of runs, and how it is described."""

    name: str
    sources: frozenset[Status]
    """The statuses of the runs that it can change."""
    done: str
    """What several runs are afterwards."""
    change: Callable[[Runs, str], Awaitable[tuple[Any, str]]]
    """Changes one run; the JSON and the sentence about it."""


async def _retry(runs: Runs, run_id: str) -> tuple[Any, str]:
    run = await runs.retry(run_id)
    return plain_run(
        run
    ), f"run {run.id} is pending again; a worker resumes it from its checkpoints"


async def _cancel(runs: Runs, run_id: str) -> tuple[Any, str]:
    run = await runs.cancel(run_id)
    return plain_run(run), f"run {run.id} is cancelled"


async def _retrigger(runs: Runs, run_id: str) -> tuple[Any, str]:
    run = await runs.retrigger(run_id)
    return plain_run(run), f"run {run.id} is pending: {run_id} over again"


async def _delete(runs: Runs, run_id: str) -> tuple[Any, str]:
    await runs.delete_run(run_id)
    return {"deleted": run_id}, f"run {run_id} is deleted"


RETRY = Move("retry", frozenset({Status.FAILED, Status.CANCELLED}), "pending again", _retry)
CANCEL = Move("cancel", ACTIVE, "cancelled", _cancel)
RETRIGGER = Move("retrigger", FINAL, "triggered again", _retrigger)
DELETE = Move("delete", FINAL, "deleted", _delete)


async def retry(args: Namespace) -> int:
    """Resume failed or cancelled runs."""
    return await _move(args, RETRY)


async def cancel(args: Namespace) -> int:
    """Stop runs."""
    return await _move(args, CANCEL)


async def retrigger(args: Namespace) -> int:
    """Start runs over, as new ones."""
    if args.app is None and named_url(args) is None:
        raise UsageError("pass --app MODULE:DURABLY, which knows the job, or --url")
    return await _move(args, RETRIGGER)


async def delete(args: Namespace) -> int:
    """Delete runs that are over."""
    return await _move(args, DELETE)


async def _move(args: Namespace, move: Move) -> int:
    if bool(args.run_ids) == is_filtered(args):
        raise UsageError(
            "name the runs, or choose them with --status, --job, --since, --error or --label: one of both"
        )
    async with connect(args, read_only=args.dry_run) as runs:
        if args.run_ids:
            ids = await resolve_all(runs, args.run_ids)
            if not args.dry_run:
                return await _move_all(runs, move, ids, args, single=len(args.run_ids) == 1)
            chosen = [await _get(runs, run_id) for run_id in ids]
        else:
            statuses = movable_statuses(args, move.sources, move.name)
            chosen = await matching_all(runs, args, statuses, args.limit)
        if args.dry_run:
            _print_chosen(chosen, move, args)
            return 0
        if not _confirm(chosen, move, args):
            print("nothing was changed", file=sys.stderr)
            return 1
        return await _move_all(runs, move, [run.id for run in chosen], args, single=False)


async def _get(runs: Runs, run_id: str) -> Run:
    run = await runs.get_run(run_id)
    if run is None:
        raise RunNotFoundError(run_id)
    return run


def _print_chosen(chosen: list[Run], move: Move, args: Namespace) -> None:
    if args.json:
        print_json([plain_run(run) for run in chosen])
        return
    print_runs(chosen)
    possible = sum(run.status in move.sources for run in chosen)
    print(f"{possible} runs would be {move.done}", file=sys.stderr)


def _confirm(chosen: list[Run], move: Move, args: Namespace) -> bool:
    """Whether to go on: confirmed in advance, or on the terminal once the runs are listed."""
    if args.yes or not chosen:
        return True
    if not (sys.stdin.isatty() and sys.stdout.isatty()) or args.json:
        raise UsageError(
            f"{len(chosen)} runs would be {move.done}; pass --yes to do that, --dry-run to list them"
        )
    print_runs(chosen)
    # Within asyncio.run an interrupt cancels a task, which no blocked input() would notice.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        answer = input(f"{move.name} these {len(chosen)} runs? [y/N] ")
    except EOFError:
        answer = ""
    finally:
        signal.signal(signal.SIGINT, before)
    return answer.strip().lower() in ("y", "yes")


async def _move_all(
    runs: Runs, move: Move, ids: list[str], args: Namespace, *, single: bool
) -> int:
    """Change each run; what is refused of one of several does not keep the others from it."""
    changed: list[Any] = []
    for run_id in ids:
        try:
            value, sentence = await move.change(runs, run_id)
        except _REFUSED as error:
            if single:
                raise
            print(f"durably: error: {clean(str(error))}", file=sys.stderr)
            continue
        changed.append(value)
        if not args.json:
            print(sentence)
    if args.json:
        print_json(changed[0] if single else changed)
    elif not single:
        which = f"{len(changed)}" if len(changed) == len(ids) else f"{len(changed)} of {len(ids)}"
        print(f"{which} runs are {move.done}", file=sys.stderr)
    return 0 if len(changed) == len(ids) else 1
