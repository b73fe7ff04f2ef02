"""The store's transactions, written once for every database.

A transaction is a generator: it yields (statement name or SQL, parameters), receives the rows, and returns
its result. Whoever drives it - a thread with sqlite3, a task with asyncpg - opens the transaction
before and commits after, and may have to run it again when the outcome of a commit is unknown
(``replay``). So a transaction makes no ids and reads no clock.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple, TypeVar

from ..codec import dump_json
from ..errors import LeaseLost, RunConflictError, RunNotFoundError, SchemaError
from ..models import JournalRow, Lease, RunRow
from ..state import (
    CANCEL,
    CLAIM,
    FINAL,
    NEVER,
    PARKED,
    RELEASE,
    RETRY,
    TRANSITIONS,
    Status,
    Transition,
)
from .base import (
    SUSPECT,
    Checkpoint,
    Claimed,
    Claims,
    Cursor,
    Enqueued,
    Entry,
    JournalRewoundError,
    NewRun,
    Page,
    RunFilter,
    Settlement,
    Standing,
)

T = TypeVar("T")
Row = Sequence[Any]
Call = Callable[[Any], Any]
"""What a user does with the connection, within a transaction of ours."""
Transaction = Generator[tuple[str | Call, Mapping[str, Any]], Any, T]
"""Yields statements, by name or as SQL, with their parameters, and gets their rows."""

_HAND_ON_TRIES = 16
MAX_LEASE = 600_000  # a run that keeps losing its lease gets a longer one, up to ten minutes
_NONE = 1 << 62  # more recoveries than any run has
_LOOK, _ROUNDS = 64, 16  # how many due runs a claim looks at in one go, and how often
_FEW_SIZES = 4  # runs whose sizes are looked at first
_OVERHEAD = 300  # bytes of a run, a step or a line beside its values
# The input counts twice: it may be written twice, as ``input`` and as ``payload``.
_SIZES = "id, 2 * octets(input) + coalesce(octets(output), 0) + coalesce(octets(error), 0) + octets(labels)"
_FEW_JOBS = 8  # jobs that are looked at one by one
_RUN = ", ".join(RunRow._fields)  # not *: a later version's columns must not disturb this one
RETIRED = 1_000_000
"""The version of a database whose runs were copied elsewhere, and are to be executed there only."""
DELETIONS_KEPT = 86_400_000  # a day: how long a watcher may be away and still hear of a deletion


class Dialect(NamedTuple):
    """The words in which two databases differ."""

    name: str
    """Which of the statements that are written for one database alone are its."""
    serial: str
    now: str
    """The clock by which leases are held and runs are due, in milliseconds."""
    moment: str
    """A time on that clock, of the parameter ``?``, which the caller measured by its own ``:now``."""
    for_update: str
    for_share: str
    label: str
    """The value of the label :label_key, from the JSON text in ``labels``."""
    octets: str
    """The function that gives the bytes of a text; JSON is kept as ASCII."""
    escapes: bool
    """Whether a label's name is sought as the JSON text has it (SQLite before 3.45 compares text)."""

    def words(self) -> dict[str, str]:
        """What the braces in the statements stand for."""
        moments = {name: self.moment.replace("?", name) for name in ("due_at", "before")}
        filled = {name: text.replace("{now}", self.now) for name, text in moments.items()}
        return {**self._asdict(), **filled}


def statements(dialect: Dialect) -> dict[str, str]:
    """Every statement of ``queries.sql``, and one for each row of the state table."""
    columns = {f"{table}.run": _columns(table) for table in ("r", "taken", "moved")}
    words = {
        **dialect.words(),
        **columns,
        "run": _RUN,
        "never": NEVER,
        "final": _quoted(FINAL),
        "its_turn": _ITS_TURN,
        "claim_sources": _quoted(CLAIM.sources),
    }
    named = _of(dialect.name, _parse(_read("queries.sql")))
    move, move_all = named.pop("transition"), named.pop("transition_all", None)
    for row in TRANSITIONS:
        own = _words_of(row)
        named.setdefault(row.name, _fill(move, own))  # "claim" has a statement of its own
        if row.fenced and move_all:
            named[f"{row.name}_all"] = _fill(move_all, own)
    for _ in range(3):  # a word may hold others
        named = {name: _fill(text, words) for name, text in named.items()}
    return named


def _words_of(row: Transition) -> dict[str, str]:
    final = row.target in FINAL
    words = {
        "target": row.target,
        "event": row.event,
        "sources": _quoted(row.sources),
        "fence": "and lease_token = :token" if row.fenced else "",
        "ended_at": "{now}" if final else "null",
    }
    if row is CANCEL:
        return {**words, **_CANCEL}
    if row is RETRY:
        return {**words, **_RETRY}
    alone, together = _body_runs("cast(:body_runs as boolean)"), _body_runs("given.body_runs", "r.")
    due, later = "{due_at}", "{now} + given.delay"
    if row is RELEASE:
        due = f"coalesce({alone['held_until']}, {_ITS_TURN})"
        later = f"coalesce({together['held_until']}, {_ITS_TURN.replace('created', 'r.created')})"
    return {
        **words,
        **alone,
        **{f"later_{column}": value for column, value in together.items()},
        "due": "null" if final else due,
        "later": "null" if final else later,
    }


def _body_runs(given: str, table: str = "") -> dict[str, str]:
    """A run whose body still runs goes on to hold its key, until its lease would have ended."""
    return {
        "held_until": f"case when {given} then {table}due_at end",
        "key_slot": f"case when {given} then {table}key_slot end",
    }


# What is handed back or un-parked has been waiting since it was created; the clock may say otherwise.
_ITS_TURN = "case when created_at < {now} then created_at else {now} end"
_HELD = "(status = 'running' and due_at > {now} or held_until > {now})"
# Its body may run for as long as its lease lasts: nobody but its holder knows better.
_CANCEL = {
    "due": "null",
    "held_until": f"case when {_HELD} then coalesce(held_until, due_at) end",
    "key_slot": f"case when {_HELD} and key_slot >= 0 then key_slot end",
}
_RETRY = {
    "due": "case when held_until > {now} then held_until else {now} end",
    "held_until": "held_until",
    "key_slot": "key_slot",
}


def _columns(table: str) -> str:
    return ", ".join(f"{table}.{column}" for column in RunRow._fields)


def _of(database: str, named: dict[str, str]) -> dict[str, str]:
    """The statements of one database: its own instead of, and beside, those that all share."""
    shared = {name: text for name, text in named.items() if "@" not in name}
    suffix = f"@{database}"
    own = {name.removesuffix(suffix): t for name, t in named.items() if name.endswith(suffix)}
    return {**shared, **own}


def migrations(dialect: Dialect) -> dict[int, str]:
    """The numbered migrations."""
    folder = files("durably.store").joinpath("migrations")
    found = sorted(item.name for item in folder.iterdir() if item.name.endswith(".sql"))
    words = dialect.words()
    return {
        int(name.partition("_")[0]): _fill(_read(f"migrations/{name}"), words) for name in found
    }


def refuse_newer(database: str, version: int, newest: int) -> None:
    """``SchemaError`` for a database that is not for this Durably to change."""
    if version == RETIRED:
        raise SchemaError(
            f"{database} is retired: its runs were copied to another database, which is to be used in "
            "its stead"
        )
    if version > newest:
        raise SchemaError(
            f"{database} was migrated by a newer Durably (schema {version}, this one knows {newest}); "
            "nothing was changed. Upgrade this process"
        )


@cache
def _read(name: str) -> str:
    return files("durably.store").joinpath(name).read_text("utf-8")


def _parse(text: str) -> dict[str, str]:
    parts = re.split(r"^-- (\w+(?:@\w+)?)\n", text, flags=re.MULTILINE)[1:]
    pairs = zip(parts[::2], parts[1::2], strict=True)
    return {name: re.sub(r"^--.*\n", "", sql, flags=re.MULTILINE).strip() for name, sql in pairs}


def _fill(text: str, words: Mapping[str, Any]) -> str:
    return re.sub(r"\{([\w.]+)\}", lambda m: str(words.get(m[1], m[0])), text)


def _quoted(statuses: Iterable[Status]) -> str:
    return ", ".join(f"'{status}'" for status in sorted(statuses))


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
    return sorted({dump_json([run.job, *_key(run).values()]) for run in runs if run.coalesce})


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
        # The run that had the key was deleted in between.


def any_due(jobs: Sequence[str], now: int) -> Transaction[bool]:
    """Whether one of these jobs has a run that wants a worker."""
    return bool((yield "any_due", {"jobs": dump_json(list(jobs)), "now": now}))


class Due(NamedTuple):
    """A row of the statement ``due``, in the order in which runs are taken."""

    due_at: int
    id: str
    status: str
    recoveries: int
    scope: str
    concurrency_key: str | None
    key_slot: int | None


class ClaimRequest(NamedTuple):
    """What a worker asks for."""

    jobs: Sequence[str]
    owner: str
    token: str
    now: int
    lease: int
    limit: int
    takeover: bool
    suspects: bool = True


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
    if len(jobs) > _FEW_JOBS:  # then most have nothing to do: one statement tells which have
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
    seq = yield from _append(row, CLAIM)
    return as_claimed(row, ask, seq=seq, resumed=row.generation > 1)._replace(lapsed=lapsed)


def _held_by_others(due: Due, now: int) -> Transaction[int | None]:
    """Until when other runs hold this one's key; None if none does."""
    key = _key(due)
    for _ in (yield "evict", {**key, "now": now}):
        heir = yield from _hand_on(key, now)
        if heir is not None and heir < due.id:  # it has waited longer, and is due now
            return NEVER
    holders = yield "key_holders", key
    return min((until or NEVER for _, until in holders), default=None)


def _key(run: Due | RunRow | NewRun) -> dict[str, str | None]:
    """A concurrency key is its scope's: another scope's equal one is another key."""
    return {"scope": run.scope, "concurrency_key": run.concurrency_key}


def as_claimed(row: RunRow, ask: ClaimRequest, *, seq: int = 0, resumed: bool) -> Claimed:
    """A run as its new holder gets it."""
    lease = Lease(row.id, ask.token, row.generation, (row.due_at or 0) - row.updated_at)
    return Claimed(row, lease, seq, resumed, ask.now)


def _append(row: RunRow, transition: Transition, data: str | None = None) -> Transaction[int]:
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
        yield from _hand_on(_key(row), now)
    return row


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


def save_progress(lease: Lease, progress: str, now: int) -> Transaction[None]:
    """Write the live progress."""
    held = {"run_id": lease.run_id, "token": lease.token, "progress": progress, "now": now}
    if not (yield "progress", held):
        raise LeaseLost(lease.run_id)


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
    seq = yield from _append(row, transition, row.error)
    if transition.frees_key:
        yield from hand_on_key(row, now)
    return row, seq


def hand_on_key(row: RunRow, now: int) -> Transaction[None]:
    """The run does not stand in the way any more of others with its concurrency key, or not for long."""
    if row.concurrency_key is not None:
        key = _key(row)
        if row.held_until is None:
            yield from _hand_on(key, now)
        else:
            yield "heir", {**key, "until": row.held_until}


def _hand_on(key: dict[str, str | None], now: int) -> Transaction[str | None]:
    """The run that has waited longest for a key is due; its id."""
    for _ in range(_HAND_ON_TRIES):
        if rows := (yield "unpark", {**key, "now": now}):
            return str(rows[0][0])
        if not (yield "is_parked", key):
            return None
        # Another transaction has just moved the one that was chosen: then it is the next one's turn.
    return None


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
    seq = yield from _append(row, transition)
    if transition.frees_key:
        yield from _leave_key(before, row, now)
    tries.append(seq)
    return row, seq


def _leave_key(before: RunRow, row: RunRow, now: int) -> Transaction[None]:
    """A parked run hands nothing on but its time to look again: so no two that leave wait for each other."""
    if before.key_slot != PARKED:
        yield from hand_on_key(row, now)
    elif before.due_at is not None and before.due_at < NEVER:
        yield "heir", {**_key(row), "until": before.due_at}


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


def owners(jobs: Sequence[str], now: int) -> Transaction[list[str]]:
    """Who holds leases."""
    found: dict[str, None] = {}
    for job in jobs:
        rows = yield "owners", {"job": job, "now": now}
        found.update(dict.fromkeys(row[0] for row in rows))
    return list(found)


def run(run_id: str) -> Transaction[RunRow | None]:
    """One run."""
    rows = yield "run", {"run_id": run_id}
    return RunRow._make(rows[0]) if rows else None


def journal(run_id: str, after: int, limit: int, size: int) -> Transaction[Page[JournalRow]]:
    """A run's history after a number: lines that hold at most ``size`` bytes together, or one."""
    rows = yield "journal", {"run_id": run_id, "after": after, "limit": limit, "size": size}
    lines = [JournalRow._make(row[:-1]) for row in rows]
    return Page(lines, lines[-1].seq if rows and len(rows) < rows[0][-1] else None)


def journal_of(
    run_id: str, types: tuple[str, str], after: int, limit: int
) -> Transaction[list[JournalRow]]:
    """A run's lines of two types."""
    wanted = {"type": types[0], "other_type": types[1]}
    rows = yield "journal_of", {"run_id": run_id, "after": after, "limit": limit, **wanted}
    return [JournalRow._make(row) for row in rows]


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
        yield from _hand_on(_key(row), now)
    # Without the labels: what people wrote into a run goes with it.
    gone = dump_json({"job": row.job, "scope": row.scope})
    told = {"run_id": run_id, "at": now, "type": "run:delete", "attempt": row.generation}
    # The line is written before the others go, so that no position is ever used twice.
    yield "append", {**told, "started_at": None, "data": gone}
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


_COUNT_STEPS = (
    "select run_id, count(*) from durably_journal"
    " where type = 'step:complete' and run_id in ({}) group by run_id"
)


def select_runs(
    dialect: Dialect, filter: RunFilter, columns: str = _RUN
) -> tuple[str, dict[str, Any]]:
    """The listing's SQL: clauses from this closed set, values always as parameters."""
    clauses: list[str] = []
    params: dict[str, Any] = {"limit": filter.limit, "offset": filter.offset}
    for column, values in (("job", filter.jobs), ("status", filter.statuses)):
        if values:
            names = [f"{column}_{i}" for i in range(len(values))]
            params.update(zip(names, values, strict=True))
            clauses.append(f"{column} in ({', '.join(':' + name for name in names)})")
    if filter.scope is not None:
        params["scope"] = filter.scope
        # The second half is what lets the partial index serve.
        clauses.append("scope = :scope and scope <> ''" if filter.scope else "scope = :scope")
    for i, (key, value) in enumerate(filter.labels.items()):
        sought = dump_json(key)[1:-1] if dialect.escapes else key
        params |= {f"label_key_{i}": sought, f"label_{i}": value}
        clauses.append(dialect.label.replace(":label_key", f":label_key_{i}") + f" = :label_{i}")
    if filter.after is not None:
        params["after"] = filter.after
        clauses.append("id < :after")
    where = f" where {' and '.join(clauses)}" if clauses else ""
    # Ids are made in the order of time, so the primary key serves: no index of its own to keep up.
    order = " order by id desc limit :limit offset :offset"
    return f"select {columns} from durably_runs{where}{order}", params


def page_of_runs(dialect: Dialect, filter: RunFilter, size: int) -> Transaction[Page[RunRow]]:
    """The first runs of a listing that hold at most ``size`` bytes together."""
    columns = _SIZES.replace("octets", dialect.octets)
    most = filter.limit + 1  # one more, to know whether there is more
    sizes: list[Row] = []
    part = replace(filter, limit=min(_FEW_SIZES, most))
    while True:  # a few, and then more: where they are large, the others are not looked at
        found = yield select_runs(dialect, part, columns)
        sizes += found
        count = _fitting(sizes, size)
        if len(found) < part.limit or count < len(sizes) or len(sizes) == most:
            break
        limit = min(3 * len(sizes), most - len(sizes))
        part = replace(filter, limit=limit, offset=0, after=sizes[-1][0])
    ids = [row[0] for row in sizes[: min(count, filter.limit)]]
    params = {f"id_{i}": id for i, id in enumerate(ids)}
    names = ", ".join(f":{name}" for name in params)
    text = f"select {_RUN} from durably_runs where id in ({names}) order by id desc"
    rows: Sequence[Row] = (yield text, params) if ids else ()
    more = ids[-1] if len(ids) < len(sizes) else None
    return Page([RunRow._make(row) for row in rows], more)


def page_of_journal(
    run_id: str, types: tuple[str, str], after: int, limit: int, size: int
) -> Transaction[Page[JournalRow]]:
    """A run's first lines of two types after a number that hold at most ``size`` bytes together."""
    params = {"run_id": run_id, "after": after, "type": types[0], "other_type": types[1]}
    sizes = yield "journal_sizes", {**params, "limit": min(limit, size // _OVERHEAD) + 1}
    count = min(_fitting(sizes, size), limit)
    lines = yield from journal_of(run_id, types, after, count)
    return Page(lines, sizes[count - 1][0] if count < len(sizes) else None)


def _fitting(sizes: Sequence[Row], size: int) -> int:
    """How many of the rows, whose second column is their size, hold that many bytes: one at least."""
    total = 0
    for count, row in enumerate(sizes):
        total += row[1] + _OVERHEAD
        if count and total > size:
            return count
    return len(sizes)


def one(text: str, params: Mapping[str, Any]) -> Transaction[Sequence[Row]]:
    """A single statement."""
    rows: Sequence[Row] = yield text, params
    return rows


def decided(run_id: str, after: int, limit: int) -> Transaction[Sequence[Row]]:
    """A part of what a resume needs; see ``DecidedSteps``."""
    rows: Sequence[Row] = yield "decided", {"run_id": run_id, "after": after, "limit": limit}
    return rows


def checkpoint(run_id: str, step: str) -> Transaction[Checkpoint | None]:
    """One committed step."""
    rows = yield "checkpoint", {"run_id": run_id, "step": step}
    return Checkpoint(rows[0][0] or 0, rows[0][1]) if rows else None


def tail(cursor: Cursor, limit: int) -> Transaction[tuple[list[JournalRow], Cursor]]:
    """Lines after a cursor, and the cursor after them."""
    rows = yield "tail", {"position": cursor.position, "limit": limit + 1}
    return (yield from advance(cursor, [JournalRow._make(row) for row in rows]))


def advance(
    cursor: Cursor, lines: list[JournalRow]
) -> Transaction[tuple[list[JournalRow], Cursor]]:
    """Of the lines from a cursor on those that are new, and the cursor after them.

    The cursor's own line tells whether this is still the journal that it was read from.
    """
    own = next((line for line in lines if line.position == cursor.position), None)
    if own is not None and cursor.line not in (None, (own.run_id, own.seq)):
        raise JournalRewoundError
    if not lines and cursor.position and (yield "end_of_tail", {})[0][0] < cursor.position:
        raise JournalRewoundError
    newest = max(lines, key=lambda line: line.position, default=None)
    if newest is not None and newest.position >= cursor.position:
        cursor = cursor._replace(position=newest.position, line=(newest.run_id, newest.seq))
    return [line for line in lines if line is not own], cursor


def state(run_id: str) -> Transaction[tuple[RunRow, int] | None]:
    """A run and the number of its newest line."""
    rows = yield "state", {"run_id": run_id}
    return (RunRow._make(rows[0][:-1]), rows[0][-1]) if rows else None


def standing(run_id: str, now: int) -> Transaction[Standing | None]:
    """How a run stands, and what may keep it from moving."""
    row = yield from run(run_id)
    delays = yield "delays", {"run_id": run_id, "now": now}
    if row is None or not delays:
        return None
    blockers: Sequence[Row] = ()
    if row.concurrency_key is not None:
        key = {"scope": row.scope, "concurrency_key": row.concurrency_key}
        blockers = yield "blockers", key
    executed = yield "executed", {"now": now}
    due_in, held_for = delays[0]
    return Standing(
        row,
        due_in,
        held_for,
        [(id, status) for id, status in blockers if id != run_id],
        [(owner, job, count) for owner, job, count in executed],
    )


def in_progress(owner: str) -> Transaction[list[RunRow]]:
    """The runs that others than this owner execute and that say how far they are."""
    rows = yield "in_progress", {"owner": owner}
    return [RunRow._make(row) for row in rows]


def oldest_due(jobs: Sequence[str], now: int) -> Transaction[dict[str, int]]:
    """Since when each job's first due run waits."""
    found: dict[str, int] = {}
    for job in jobs:
        if rows := (yield "oldest_due", {"job": job, "now": now}):
            found[job] = rows[0][0]
    return found


def count_steps(run_ids: Sequence[str]) -> Transaction[list[int]]:
    """How many steps of each run are committed, by one statement."""
    if not run_ids:
        return []
    params = {f"id_{i}": id for i, id in enumerate(run_ids)}
    names = ", ".join(f":{name}" for name in params)
    rows = yield _COUNT_STEPS.format(names), params
    counts = {str(row[0]): int(row[1]) for row in rows}
    return [counts.get(run_id, 0) for run_id in run_ids]
