"""Transactions that only read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..values.text import dump_json
from .base import JournalRewoundError
from .records import (
    Checkpoint,
    Cursor,
    JournalRow,
    Page,
    RunFilter,
    RunRow,
    Standing,
)
from .statements import RUN_COLUMNS, Dialect, Row, Transaction

_FEW_SIZES = 4  # runs whose sizes are looked at first


_OVERHEAD = 300  # bytes of a run, a step or a line beside its values


# The input counts twice: it may be written twice, as ``input`` and as ``payload``.
_SIZES = "id, 2 * octets(input) + coalesce(octets(output), 0) + coalesce(octets(error), 0) + octets(labels)"


FEW_JOBS = 8  # jobs that are looked at one by one


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
    filter = {"type": types[0], "other_type": types[1]}
    rows = yield "journal_of", {"run_id": run_id, "after": after, "limit": limit, **filter}
    return [JournalRow._make(row) for row in rows]


_COUNT_STEPS = (
    "select run_id, count(*) from durably_journal"
    " where type = 'step:complete' and run_id in ({}) group by run_id"
)


def select_runs(
    dialect: Dialect, filter: RunFilter, columns: str = RUN_COLUMNS
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
    text = f"select {RUN_COLUMNS} from durably_runs where id in ({names}) order by id desc"
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
