"""Transactions that renew, check and end leases."""

from __future__ import annotations

from collections.abc import Sequence

from ..state import FINAL, Status
from .keys import hand_on, hand_on_key, key_of
from .records import Lease, RunRow
from .statements import Row, Transaction

MAX_LEASE = 600_000  # a run that keeps losing its lease gets a longer one, up to ten minutes


def renew(leases: Sequence[Lease], now: int) -> Transaction[list[str]]:
    """Prolong leases; the ids of those that are lost."""
    lost: list[str] = []
    for lease in leases:
        until = {"due_at": now + lease.duration, "now": now}
        rows = yield "renew", {"run_id": lease.run_id, "token": lease.token, **until}
        if not is_ours(rows):
            lost.append(lease.run_id)
    return lost


def is_ours(renewed: Sequence[Row]) -> bool:
    """Whether a renewed run is still to be executed: one that was cancelled is only held."""
    return bool(renewed) and renewed[0][1] == Status.RUNNING


def no_longer_ours(leases: Sequence[Lease]) -> Transaction[list[str]]:
    """Which of these runs were cancelled, or are another worker's."""
    found: list[str] = []
    for lease in leases:
        rows = yield "no_longer_ours", {"run_id": lease.run_id, "token": lease.token}
        found += [row[0] for row in rows]
    return found


def let_go(lease: Lease, now: int) -> Transaction[RunRow | None]:
    """The body has ended of a run that was held for it; None if it was not, or is no longer."""
    rows = yield "let_go", {"run_id": lease.run_id, "token": lease.token, "now": now}
    if not rows:
        return None
    row = RunRow._make(rows[0])
    if row.concurrency_key is not None and row.status in FINAL:
        yield from hand_on(key_of(row), now)
    return row


def expire(owner: str, jobs: Sequence[str], now: int) -> Transaction[list[str]]:
    """A dead owner's leases end now."""
    expired: list[str] = []
    for job in jobs:
        rows = yield "expire", {"owner": owner, "job": job, "now": now}
        expired += [row[0] for row in rows]
    for row in map(RunRow._make, (yield "expire_holds", {"owner": owner, "now": now})):
        expired.append(row.id)
        if row.concurrency_key is not None and row.status in FINAL:
            yield from hand_on_key(row, now)
    return expired


def any_put_off(jobs: Sequence[str], now: int, lease: int) -> Transaction[bool]:
    """Whether the clock was set back since one of these jobs' runs was touched."""
    if (yield "is_held_too_long", {"now": now, "lease": lease}):
        return True
    for job in jobs:
        if (yield "is_put_off", {"job": job, "now": now}):
            return True
    return False


def hurry(jobs: Sequence[str], now: int, lease: int) -> Transaction[None]:
    """After the clock was set back: nobody waits until it is there again."""
    for job in jobs:
        yield "hurry", {"job": job, "now": now, "lease": lease}
    for row in map(RunRow._make, (yield "hurry_holds", {"now": now, "lease": lease})):
        if row.concurrency_key is not None and row.status in FINAL:
            yield from hand_on_key(row, now)
