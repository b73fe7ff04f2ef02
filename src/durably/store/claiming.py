"""Transactions that claim due runs."""

from __future__ import annotations

from collections.abc import Sequence

from ..state import (
    CLAIM,
    NEVER,
    PARKED,
    Status,
)
from ..values.text import dump_json
from .journal import append
from .keys import hand_on, key_of
from .leasing import MAX_LEASE
from .reads import FEW_JOBS
from .records import (
    SUSPECT,
    Claimed,
    ClaimRequest,
    Claims,
    Due,
    Lease,
    RunRow,
)
from .statements import Transaction

_LOOK, _ROUNDS = 64, 16  # how many due runs a claim looks at in one go, and how often
_NONE = 1 << 62  # more recoveries than any run has


def any_due(jobs: Sequence[str], now: int) -> Transaction[bool]:
    """Whether one of these jobs has a run that wants a worker."""
    return bool((yield "any_due", {"jobs": dump_json(list(jobs)), "now": now}))


def claim(ask: ClaimRequest, *, replay: bool = False) -> Transaction[Claims]:
    """Take the runs that have been due longest; park those whose concurrency key is busy.

    A run that lapsed twice without a step is a suspect: it may be what kills the workers, and it is
    taken without another suspect beside it, so that it cannot drag those to the same end.
    """
    claimed: list[Claimed] = []
    suspects = ask.suspects
    if replay:
        mine = yield "claimed", {"token": ask.token, "owner": ask.owner}
        claimed = [as_claimed(RunRow._make(row), ask, resumed=True) for row in mine]
    for attempt in range(_ROUNDS):
        look = max(_LOOK, ask.limit) if attempt else ask.limit  # usually no key is busy
        due = yield from _due(ask, look, suspects)
        for candidate in due:
            if len(claimed) >= ask.limit:
                return Claims(claimed, True)
            lapsed = candidate.status == Status.RUNNING
            if lapsed and candidate.recoveries >= SUSPECT - 1 and not suspects:
                continue
            if got := (yield from take(ask, candidate)):
                claimed.append(got)
                suspects = suspects and got.row.recoveries < SUSPECT
        if len(due) < look:
            return Claims(claimed, False)
    return Claims(claimed, True)


def _due(ask: ClaimRequest, limit: int, suspects: bool) -> Transaction[list[Due]]:
    found: list[Due] = []
    common = {"now": ask.now, "skipped": skipped(ask, suspects)}
    jobs = ask.jobs
    if len(jobs) > FEW_JOBS:  # then most have nothing to do: one statement tells which have
        rows = yield "due_jobs", {**common, "jobs": dump_json(list(jobs))}
        jobs = [row[0] for row in rows]
    for job in jobs:
        rows = yield "due", {**common, "job": job, "limit": limit}
        found += [Due._make(row) for row in rows]
    if len(jobs) > 1:
        found.sort()
    return found[:limit]


def skipped(ask: ClaimRequest, suspects: bool) -> int:
    """From how many recoveries on a lapsed run is left to others."""
    return (_NONE if suspects else SUSPECT - 1) if ask.takeover else 0


def take(ask: ClaimRequest, due: Due) -> Transaction[Claimed | None]:
    """Take a run that is due, or park it if its key is held; None if it was not to be had."""
    lapsed = due.status == Status.RUNNING
    has_place = due.key_slot is not None and due.key_slot != PARKED
    if due.concurrency_key is not None and not lapsed and not has_place:
        until = yield from _held_by_others(due, ask.now)
        if until is not None:
            yield "park", {"id": due.id, "until": until}
            return None
    count = 0
    if lapsed and not (yield "progressed", {"run_id": due.id}):
        count = due.recoveries + 1
    # A lease that was lost twice without a step in between was too short for this run.
    lease = min(ask.lease << max(0, count - 1), max(MAX_LEASE, ask.lease))
    rows = yield (
        "claim",
        {
            "id": due.id,
            "owner": ask.owner,
            "token": ask.token,
            "recoveries": count,
            "due_at": ask.now + lease,
            "now": ask.now,
            "key_slot": None if due.concurrency_key is None else 0,
            "seen_slot": due.key_slot if has_place else PARKED,
        },
    )
    if not rows:
        return None
    row = RunRow._make(rows[0])
    seq = yield from append(row, CLAIM)
    return as_claimed(row, ask, seq=seq, resumed=row.generation > 1)._replace(lapsed=lapsed)


def _held_by_others(due: Due, now: int) -> Transaction[int | None]:
    """Until when other runs hold this one's key; None if none does."""
    key = key_of(due)
    for _ in (yield "evict", {**key, "now": now}):
        heir = yield from hand_on(key, now)
        if heir is not None and heir < due.id:  # it has waited longer, and is due now
            return NEVER
    holders = yield "key_holders", key
    return min((until or NEVER for _, until in holders), default=None)


def as_claimed(row: RunRow, ask: ClaimRequest, *, seq: int = 0, resumed: bool) -> Claimed:
    """A run as its new holder gets it."""
    lease = Lease(row.id, ask.token, row.generation, (row.due_at or 0) - row.updated_at)
    return Claimed(row, lease, seq, resumed, ask.now)
