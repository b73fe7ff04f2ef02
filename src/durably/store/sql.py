"""The store's transactions, written once for every database.

A transaction is a generator: it yields (statement name or SQL, parameters), receives the rows, and returns
its result. Whoever drives it - a thread with sqlite3, a task with asyncpg - opens the transaction
before and commits after, and may have to run it again when the outcome of a commit is unknown
(``replay``). So a transaction makes no ids and reads no clock.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple, TypeVar

from ..codec import dump_json
from ..errors import LeaseLost, RunConflictError, RunNotFoundError, SchemaError
from ..models import JournalRow, Lease, RunRow
from ..state import (
    CLAIM,
    FINAL,
    PARKED,
    RELEASE,
    TRANSITIONS,
    Status,
    Transition,
)
from .base import (
    SUSPECT,
    Checkpoint,
    Claimed,
    Claims,
    Enqueued,
    Entry,
    NewRun,
    RunFilter,
    Settlement,
)

T = TypeVar("T")
Row = Sequence[Any]
Call = Callable[[Any], Any]
"""What a user does with the connection, within a transaction of ours."""
Transaction = Generator[tuple[str | Call, Mapping[str, Any]], Any, T]
"""Yields statements, by name or as SQL, with their parameters, and gets their rows."""

MAX_LEASE = 600_000  # a run that keeps losing its lease gets a longer one, up to ten minutes
_NONE = 1 << 62  # more recoveries than any run has
_LOOK, _ROUNDS = 64, 16  # how many due runs a claim looks at in one go, and how often
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
        "parked": PARKED,
        "final": _quoted(FINAL),
        "claim_sources": _quoted(CLAIM.sources),
    }
    named = _of(dialect.name, _parse(_read("queries.sql")))
    move, move_all = named.pop("transition"), named.pop("transition_all", None)
    for row in TRANSITIONS:
        own = _words_of(row)
        named.setdefault(row.name, _fill(move, own))  # "claim" has a statement of its own
        if row.fenced and move_all:
            named[f"{row.name}_all"] = _fill(move_all, own)
    return {name: _fill(_fill(text, words), words) for name, text in named.items()}


def _words_of(row: Transition) -> dict[str, str]:
    final = row.target in FINAL
    words = {
        "target": row.target,
        "event": row.event,
        "sources": _quoted(row.sources),
        "fence": "and lease_token = :token" if row.fenced else "",
        "ended_at": "{now}" if final else "null",
    }
    if row is RELEASE:  # it keeps its place in the line: it has been waiting since it was created
        return {**words, "due": "created_at", "later": "r.created_at"}
    return {**words, "due": "{due_at}", "later": "null" if final else "{now} + given.delay"}


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
    """Store new runs; a known idempotency key gives the run that has it, whatever its status."""
    enqueued: list[Enqueued] = []
    for new in runs:
        enqueued.append((yield from enqueue_one(new, now)))  # noqa: PERF401
    return enqueued


def enqueue_one(new: NewRun, now: int) -> Transaction[Enqueued]:
    """One of them."""
    params = {**new._asdict(), "now": now}
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
    for job in jobs:
        if (yield "is_due", {"job": job, "now": now}):
            return True
    return False


class Due(NamedTuple):
    """A row of the statement ``due``, in the order in which runs are taken."""

    due_at: int
    id: str
    status: str
    recoveries: int
    scope: str
    concurrency_key: str | None


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
    for job in ask.jobs:
        params = {"job": job, "now": ask.now, "limit": limit, "skipped": skipped(ask, suspects)}
        rows = yield "due", params
        found += [Due._make(row) for row in rows]
    if len(ask.jobs) > 1:
        found.sort()
    return found[:limit]


def skipped(ask: ClaimRequest, suspects: bool) -> int:
    """From how many recoveries on a lapsed run is left to others."""
    return (_NONE if suspects else SUSPECT - 1) if ask.takeover else 0


def take(ask: ClaimRequest, due: Due) -> Transaction[Claimed | None]:
    """Take a run that is due, or park it if its key is busy; None if it was not to be had."""
    lapsed = due.status == Status.RUNNING
    if due.concurrency_key is not None and not lapsed and (yield "busy", _key(due)):
        yield "park", {"id": due.id}
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
        },
    )
    if not rows:
        return None
    row = RunRow._make(rows[0])
    seq = yield from _append(row, CLAIM)
    return as_claimed(row, ask, seq=seq, resumed=row.generation > 1)


def _key(run: Due | RunRow) -> dict[str, str | None]:
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
        if not (yield "renew", {"run_id": lease.run_id, "token": lease.token, **until}):
            lost.append(lease.run_id)
    return lost


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
    return (yield from _moved(RunRow._make(rows[0]), transition))


def _moved(row: RunRow, transition: Transition) -> Transaction[tuple[RunRow, int]]:
    seq = yield from _append(row, transition, row.error)
    if transition.frees_key:
        yield from hand_on_key(row)
    return row, seq


def hand_on_key(row: RunRow) -> Transaction[None]:
    """The run does not stand in the way any more of others with its concurrency key."""
    if row.concurrency_key is not None:
        key = _key(row)
        if not (yield "busy", key):
            yield "unpark", key


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
    rows = yield (
        transition.name,
        {
            "run_id": run_id,
            "now": now,
            "due_at": None if transition.target in FINAL else now,
            "output": None,
            "error": None,
            "progress": None,
        },
    )
    if not rows:
        found = yield "run", {"run_id": run_id}
        if not found:
            raise RunNotFoundError(run_id)
        raise RunConflictError(run_id, transition.name, RunRow._make(found[0]).status)
    row, seq = yield from _moved(RunRow._make(rows[0]), transition)
    tries.append(seq)
    return row, seq


def expire(owner: str, jobs: Sequence[str], now: int) -> Transaction[list[str]]:
    """A dead owner's leases end now."""
    expired: list[str] = []
    for job in jobs:
        rows = yield "expire", {"owner": owner, "job": job, "now": now}
        expired += [row[0] for row in rows]
    return expired


def any_put_off(jobs: Sequence[str], now: int) -> Transaction[bool]:
    """Whether the clock was set back since one of these jobs' runs was touched."""
    for job in jobs:
        if (yield "is_put_off", {"job": job, "now": now}):
            return True
    return False


def hurry(jobs: Sequence[str], now: int, lease: int) -> Transaction[None]:
    """After the clock was set back: nobody waits until it is there again."""
    for job in jobs:
        yield "hurry", {"job": job, "now": now, "lease": lease}


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


def journal(run_id: str, after: int, limit: int) -> Transaction[list[JournalRow]]:
    """A run's history."""
    rows = yield "journal", {"run_id": run_id, "after": after, "limit": limit}
    return [JournalRow._make(row) for row in rows]


def journal_of(
    run_id: str, types: tuple[str, str], after: int, limit: int
) -> Transaction[list[JournalRow]]:
    """A run's lines of two types."""
    wanted = {"type": types[0], "other_type": types[1]}
    rows = yield "journal_of", {"run_id": run_id, "after": after, "limit": limit, **wanted}
    return [JournalRow._make(row) for row in rows]


def delete(run_id: str, now: int, *, replay: bool = False) -> Transaction[RunRow | None]:
    """Delete a final run and its journal; one line stays to tell of it."""
    rows = yield "delete_run", {"run_id": run_id}
    if not rows:
        found = yield "run", {"run_id": run_id}
        if found:
            raise RunConflictError(run_id, "delete", RunRow._make(found[0]).status)
        if replay:
            return None
        raise RunNotFoundError(run_id)
    row = RunRow._make(rows[0])
    scope = dump_json(row.scope)
    gone = f'{{"job":{dump_json(row.job)},"labels":{row.labels},"scope":{scope}}}'
    told = {"run_id": run_id, "at": now, "type": "run:delete", "attempt": row.generation}
    # The line is written before the others go, so that no position is ever used twice.
    yield "append", {**told, "started_at": None, "data": gone}
    yield "forget_journal", {"run_id": run_id}
    yield "forget_deletions", {"before": now - DELETIONS_KEPT}
    return row


def purge(before: int, now: int, limit: int) -> Transaction[list[RunRow]]:
    """Delete what ended before a time; each is looked at again when it goes."""
    purged: list[RunRow] = []
    for row in (yield "purgeable", {"before": before, "now": now, "limit": limit}):
        gone = yield from delete(row[0], now)
        if gone is not None:
            purged.append(gone)
    return purged


def select_runs(dialect: Dialect, filter: RunFilter) -> tuple[str, dict[str, Any]]:
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
    return f"select {_RUN} from durably_runs{where}{order}", params


def one(text: str, params: Mapping[str, Any]) -> Transaction[Sequence[Row]]:
    """A single statement."""
    rows: Sequence[Row] = yield text, params
    return rows


def checkpoints(run_id: str) -> Transaction[dict[str, Checkpoint]]:
    """A run's committed steps."""
    rows = yield "checkpoints", {"run_id": run_id}
    return {name: Checkpoint(index or 0, data) for name, index, data in rows}


def tail(position: int, limit: int) -> Transaction[list[JournalRow]]:
    """Lines after a position."""
    rows = yield "tail", {"position": position, "limit": limit}
    return [JournalRow._make(row) for row in rows]


def state(run_id: str) -> Transaction[tuple[RunRow, int] | None]:
    """A run and the number of its newest line."""
    rows = yield "state", {"run_id": run_id}
    return (RunRow._make(rows[0][:-1]), rows[0][-1]) if rows else None


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
    """How many steps of each run are committed."""
    counts: list[int] = []
    for run_id in run_ids:
        counts.append((yield "count_steps", {"run_id": run_id})[0][0])  # noqa: PERF401
    return counts
