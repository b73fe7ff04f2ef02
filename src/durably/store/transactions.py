"""The store's transactions, written once for every database.

A transaction is a generator: it yields (statement name or SQL, parameters), receives the rows, and returns
its result. Whoever drives it - a thread with sqlite3, a task with asyncpg - opens the transaction
before and commits after, and may have to run it again when the outcome of a commit is unknown
(``replay``). So a transaction makes no ids and reads no clock.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..errors import LeaseLost, RunConflictError, RunNotFoundError
from ..state import (
    FINAL,
    Transition,
)
from ..values.text import dump_json
from .journal import append, record, recorded
from .keys import hand_on, hand_on_key, key_of, leave_key
from .records import (
    Entry,
    Lease,
    RunRow,
    Settlement,
)
from .statements import Call, Transaction

DELETIONS_KEPT = 86_400_000  # a day: how long a watcher may be away and still hear of a deletion


# The run that had the key was deleted in between.


def transact(
    lease: Lease, entry: Entry, call: Call, now: Callable[[], int], *, replay: bool = False
) -> Transaction[tuple[int, Any]]:
    """The user's writes and the checkpoint that tells of them, in one; the number, and what ``call``
    made, whose ``text`` is the checkpoint. Of an earlier try that was committed: the number, None."""
    if replay and (seq := (yield from recorded(lease, entry))) is not None:
        return seq, None
    held = {"run_id": lease.run_id, "token": lease.token, "now": now()}
    if not (yield "hold", held):
        raise LeaseLost(lease.run_id)
    kept = yield call, {}
    written = entry._replace(at=now(), data=kept.text)
    return (yield from record(lease, written)), kept


def settle(
    lease: Lease, transition: Transition, settlement: Settlement, *, replay: bool = False
) -> Transaction[tuple[RunRow, int]]:
    """A fenced row of the table, its journal line, and the concurrency key handed on."""
    rows = yield (
        transition.name,
        {
            "run_id": lease.run_id,
            "token": lease.token,
            "now": settlement.now,
            "due_at": settlement.due_at,
            "body_runs": settlement.body_runs,
            "output": settlement.output,
            "error": settlement.error,
            "progress": settlement.progress,
        },
    )
    if not rows:
        found = yield "run", {"run_id": lease.run_id}
        row = RunRow._make(found[0]) if found else None
        if replay and row and row.status == transition.target and row.lease_token == lease.token:
            return row, 0
        raise LeaseLost(lease.run_id)
    if settlement.forget_steps:
        yield "forget_steps", {"run_id": lease.run_id}
    return (yield from _moved(RunRow._make(rows[0]), transition, settlement.now))


def _moved(row: RunRow, transition: Transition, now: int) -> Transaction[tuple[RunRow, int]]:
    seq = yield from append(row, transition, row.error)
    if transition.frees_key:
        yield from hand_on_key(row, now)
    return row, seq


def move(
    run_id: str, transition: Transition, now: int, tries: list[int]
) -> Transaction[tuple[RunRow, int]]:
    """An unfenced row of the table (cancel, retry).

    ``tries``: the numbers that earlier tries gave their line, none of which is known to be
    committed; this one adds its own.
    """
    for seq in tries:
        # Was it done after all? Then the run may be anywhere by now, and must not be moved again.
        if (yield "is_line", {"run_id": run_id, "seq": seq, "type": transition.event}):
            found = yield "run", {"run_id": run_id}
            return RunRow._make(found[0]), seq
    found = yield "lock_run", {"run_id": run_id}
    if not found:
        raise RunNotFoundError(run_id)
    before = RunRow._make(found[0])
    rows = yield (
        transition.name,
        {"run_id": run_id, "now": now, "output": None, "error": None, "progress": None},
    )
    if not rows:
        raise RunConflictError(run_id, transition.name, before.status)
    row = RunRow._make(rows[0])
    seq = yield from append(row, transition)
    if transition.frees_key:
        yield from leave_key(before, row, now)
    tries.append(seq)
    return row, seq


def delete(run_id: str, now: int, *, replay: bool = False) -> Transaction[RunRow | None]:
    """Delete a final run and its journal; one line stays to tell of it."""
    rows = yield "delete_run", {"run_id": run_id, "now": now}
    if not rows:
        found = yield "run", {"run_id": run_id}
        if found:
            raise _cannot_delete(RunRow._make(found[0]))
        if replay:
            return None
        raise RunNotFoundError(run_id)
    row = RunRow._make(rows[0])
    if row.key_slot is not None:  # its holder died, and no claim has evicted it since
        yield from hand_on(key_of(row), now)
    # Without the labels: what people wrote into a run goes with it.
    gone = dump_json({"job": row.job, "scope": row.scope})
    record = {"run_id": run_id, "at": now, "type": "run:delete", "attempt": row.generation}
    # The line is written before the others go, so that no position is ever used twice.
    yield "append", {**record, "started_at": None, "data": gone}
    yield "forget_journal", {"run_id": run_id}
    yield "forget_deletions", {"before": now - DELETIONS_KEPT}
    return row


def _cannot_delete(row: RunRow) -> RunConflictError:
    why = None
    if row.status in FINAL:
        why = f"worker {row.lease_owner} is still stopping its body; delete it when it is no longer stopping"
    return RunConflictError(row.id, "delete", row.status, why)


def purge(before: int, now: int, limit: int) -> Transaction[list[RunRow]]:
    """Delete what ended before a time; each is looked at again when it goes."""
    purged: list[RunRow] = []
    for row in (yield "purgeable", {"before": before, "now": now, "limit": limit}):
        try:
            gone = yield from delete(row[0], now, replay=True)
        except RunConflictError:  # it was retried meanwhile
            continue
        if gone is not None:  # else somebody else deleted it
            purged.append(gone)
    return purged
