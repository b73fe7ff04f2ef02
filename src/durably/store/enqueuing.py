"""Transactions that store new runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..values.text import dump_json
from .keys import key_of
from .records import (
    Enqueued,
    NewRun,
    RunRow,
)
from .statements import Transaction


def enqueue(runs: Sequence[NewRun], now: int) -> Transaction[list[Enqueued]]:
    """Store new runs; a known idempotency key gives the run that has it, whatever its status.

    Keys are inserted in one order, so that no two batches wait for each other.
    """
    enqueued: dict[str, Enqueued] = {}
    # Those without a key come first, in their order: they wait for nobody.
    keyed = sorted((run for run in runs if run.idempotency_key is not None), key=_idempotency)
    for new in (*(run for run in runs if run.idempotency_key is None), *keyed):
        enqueued[new.id] = yield from enqueue_one(new, now)
    return [enqueued[new.id] for new in runs]


def _idempotency(run: NewRun) -> tuple[str, str, str]:
    return run.idempotency_key or "", run.job, run.scope


def keys_to_lock(runs: Iterable[NewRun]) -> list[str]:
    """What to lock, where several transactions write at once, before new runs may be coalesced."""
    return sorted({dump_json([run.job, *key_of(run).values()]) for run in runs if run.coalesce})


def enqueue_one(new: NewRun, now: int) -> Transaction[Enqueued]:
    """One of them."""
    params = {**new._asdict(), "now": now}
    # Its own row comes first: an earlier try may have stored it. (Others that decide this wait for us.)
    if new.coalesce and (found := (yield "enqueued", params) or (yield "waits", params)):
        row = RunRow._make(found[0])
        return Enqueued(row, row.id == new.id)
    while True:
        if rows := (yield "enqueue", params):
            row = RunRow._make(rows[0])
            yield "append_first", {"id": new.id, "at": row.created_at}
            return Enqueued(row, True)
        if found := (yield "enqueued", params):
            row = RunRow._make(found[0])
            return Enqueued(row, row.id == new.id)
