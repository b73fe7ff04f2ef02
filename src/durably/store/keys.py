"""Concurrency keys: who holds one, and who is next."""

from __future__ import annotations

from ..state import NEVER, PARKED
from .records import Due, NewRun, RunRow
from .statements import Transaction

_HAND_ON_TRIES = 16


def key_of(run: Due | RunRow | NewRun) -> dict[str, str | None]:
    """A concurrency key is its scope's: another scope's equal one is another key."""
    return {"scope": run.scope, "concurrency_key": run.concurrency_key}


def hand_on_key(row: RunRow, now: int) -> Transaction[None]:
    """The run does not stand in the way any more of others with its concurrency key, or not for long."""
    if row.concurrency_key is not None:
        key = key_of(row)
        if row.held_until is None:
            yield from hand_on(key, now)
        else:
            yield "heir", {**key, "until": row.held_until}


def hand_on(key: dict[str, str | None], now: int) -> Transaction[str | None]:
    """The run that has waited longest for a key is due; its id."""
    for _ in range(_HAND_ON_TRIES):
        if rows := (yield "unpark", {**key, "now": now}):
            return str(rows[0][0])
        if not (yield "is_parked", key):
            return None
        # Another transaction has just moved the one that was chosen: then it is the next one's turn.
    return None


def leave_key(before: RunRow, row: RunRow, now: int) -> Transaction[None]:
    """A parked run hands nothing on but its time to look again: so no two that leave wait for each other."""
    if before.key_slot != PARKED:
        yield from hand_on_key(row, now)
    elif before.due_at is not None and before.due_at < NEVER:
        yield "heir", {**key_of(row), "until": before.due_at}
