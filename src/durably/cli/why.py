"""Why a run is not moving, in words: what it waits for, and what to do where no worker takes it."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from ..durably import Durably, engine_of
from ..errors import DurablyError
from ..models import Run
from ..state import PARKED, Status
from ..store.records import Standing
from .checks import START, UNKNOWN, Workers, workers_beside
from .connect import Runs
from .home import Home
from .show import short_duration, when

if TYPE_CHECKING:
    from ..client import DurablyClient

SOON = 5_000  # milliseconds within which a live worker takes up what is due


async def explain(runs: Runs, run: Run, home: Home | None, args: Namespace) -> list[str]:
    """What a run waits for; nothing for one that is over, or just executed."""
    if not isinstance(runs, Durably):
        return [] if run.is_final else await _of_server(runs, run)
    standing = await engine_of(runs).runs.get_standing(run.id)
    if standing is None or home is None:
        return []
    reasons = list(_reasons(standing, UNKNOWN if home.is_server else workers_beside(home.path)))
    if args.app and not run.is_final and runs.get_job(run.job) is None:
        reasons.append(f"{args.app} does not register job {run.job!r}")
    return reasons


def _reasons(standing: Standing, workers: Workers) -> Iterator[str]:
    row, held_for = standing.row, standing.held_for or 0
    status = Status(row.status)
    if status == Status.RUNNING:
        yield from _of_lease(standing, workers)
    elif status.is_final:
        if held_for > 0:
            key = f"; until then it holds concurrency key {row.concurrency_key!r}"
            yield (
                f"a worker is stopping its body, for {_long(held_for)} at most"
                f"{key if row.concurrency_key else ''}"
            )
    elif row.key_slot == PARKED or standing.blockers:
        yield from _of_key(standing)
    elif held_for > 0:
        yield f"it was handed back while its body ran: waits until that ends, for {_long(held_for)} at most"
    elif (standing.due_in or 0) > 0:
        why = f"; its worker died {row.recoveries} times" if row.recoveries else ""
        yield f"delayed until {_at(standing.due_in or 0)}, for {_long(standing.due_in or 0)}{why}"
    else:
        yield from _of_workers(standing, workers)


def _of_lease(standing: Standing, workers: Workers) -> Iterator[str]:
    owner, left = standing.row.lease_owner or "", standing.due_in or 0
    if left <= 0:
        yield (
            f"the lease of worker {owner} ended {_long(-left)} ago; the next worker takes the run over: "
            f"{START}"
        )
    elif workers.is_dead(owner):
        yield f"worker {owner} is dead; the next worker takes the run over: {START}"
    else:
        yield f"worker {owner} executes it; if that worker is gone, its lease ends in {_long(left)}"


def _of_key(standing: Standing) -> Iterator[str]:
    key = standing.row.concurrency_key
    for run_id, status in standing.blockers:
        state = f"which is {status}"
        if Status(status).is_final:
            state += ", and whose body is being stopped"
        yield f"waits behind run {run_id} of concurrency key {key!r}, {state}"
    if not standing.blockers:
        yield (
            f"waits behind a pending run of concurrency key {key!r}; if there is none, this says what "
            "to do: durably doctor"
        )


def _of_workers(standing: Standing, workers: Workers) -> Iterator[str]:
    job, waited = standing.row.job, -(standing.due_in or 0)
    busy = [(owner, count) for owner, known, count in standing.executed if known == job]
    if busy:
        runs = sum(count for _, count in busy)
        yield f"due for {_long(waited)}: waits for a free slot; {runs} runs of job {job!r} are executed"
    elif workers.alive == 0 and not standing.executed:
        yield f"due for {_long(waited)}: no worker is alive; {START}"
    elif waited < SOON:
        yield "due: the next free worker that knows its job takes it"
    else:
        some = f"{workers.alive} processes use the database, and " if workers.alive else ""
        free = " and has a free slot" if standing.executed else ""
        yield f"due for {_long(waited)}: {some}no live worker knows job {job!r}{free}; {START}"


async def _of_server(runs: DurablyClient, run: Run) -> list[str]:
    """As far as a server says, which keeps leases and keys to itself."""
    if run.status == Status.RUNNING:
        return []
    try:
        known = [job.name for job in await runs.get_jobs()]
    except DurablyError:  # it may show this client nothing but its runs
        known = [run.job]
    if run.job not in known:
        return [f"the server does not know job {run.job!r}; a worker elsewhere may"]
    return ["waits for a worker, or behind a run of its concurrency key: with --db this says which"]


def _at(milliseconds: int) -> str:
    return when(datetime.now(UTC) + timedelta(milliseconds=milliseconds)) or ""


def _long(milliseconds: int) -> str:
    return short_duration(timedelta(milliseconds=milliseconds))
