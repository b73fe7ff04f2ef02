"""Transactions that append to the journal."""

from __future__ import annotations

from ..errors import LeaseLost
from ..state import Transition
from .records import Entry, Lease, RunRow
from .statements import Transaction


def append(row: RunRow, transition: Transition, data: str | None = None) -> Transaction[int]:
    rows = yield (
        "append",
        {
            "run_id": row.id,
            "at": row.updated_at,
            "type": transition.event,
            "attempt": row.generation,
            "started_at": row.started_at,
            "data": data,
        },
    )
    return int(rows[0][0])


def record(lease: Lease, entry: Entry, *, replay: bool = False) -> Transaction[int]:
    """Write the holder's line; the fence is in the statement itself."""
    is_step = entry.type == "step:complete"
    if replay and is_step and (seq := (yield from recorded(lease, entry))) is not None:
        return seq
    rows = yield (
        "record",
        {
            "run_id": lease.run_id,
            "token": lease.token,
            "at": entry.at,
            "type": entry.type,
            "step": entry.step,
            "step_index": entry.step_index,
            "started_at": entry.started_at,
            "data": entry.data,
        },
    )
    if not rows:
        raise LeaseLost(lease.run_id)
    return int(rows[0][0])


def recorded(lease: Lease, entry: Entry) -> Transaction[int | None]:
    """The number of a checkpoint that an earlier try did commit; None if it did not."""
    ours = {"run_id": lease.run_id, "step": entry.step, "attempt": lease.generation}
    rows = yield "recorded", ours
    return int(rows[0][0]) if rows else None


def save_progress(lease: Lease, progress: str, now: int) -> Transaction[None]:
    """Write the live progress."""
    held = {"run_id": lease.run_id, "token": lease.token, "progress": progress, "now": now}
    if not (yield "progress", held):
        raise LeaseLost(lease.run_id)
