"""Reading the journal of all runs as it grows, without missing a line.

A line's position is given when it is written, but it is seen when its transaction commits, and those
orders differ: position 7 may appear after 8. So a cursor is a position and the gaps below it. A gap is
looked at again until every transaction that was at work when it was noticed has ended; what is not
there by then never will be (it was rolled back). A run's own lines always come in order, since each is
written under its run's lock.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from ...models import JournalRow
from .. import sql
from ..base import Cursor, Missing


class Look(NamedTuple):
    """What a look at the journal found."""

    lines: list[JournalRow]
    cursor: Cursor


def end_of_tail() -> sql.Transaction[Cursor]:
    """The newest line, and what may still appear before it."""
    end = int((yield "end_of_tail", {})[0][0])
    gaps = yield "missing", {"end": end}
    return Cursor(end, tuple(Missing._make(gap) for gap in gaps))


def tail(cursor: Cursor, limit: int) -> sql.Transaction[Look]:
    """Lines after a cursor, and the cursor after them."""
    first, last = [gap.first for gap in cursor.missing], [gap.last for gap in cursor.missing]
    params = {"position": cursor.position, "limit": limit, "first": first, "last": last}
    rows = yield "tail", params
    oldest, following = rows[0][0], rows[0][1]
    lines = [JournalRow._make(row[2:]) for row in rows if row[2] is not None]
    return Look(lines, _advance(cursor, lines, oldest, following))


def _advance(cursor: Cursor, lines: Sequence[JournalRow], oldest: int, following: int) -> Cursor:
    seen = [line.position for line in lines]
    # In one look all that is committed is seen: what ended before it and is not there is not to come.
    missing = [gap for gap in cursor.missing if gap.until > oldest]
    missing = [rest for gap in missing for rest in _without(gap, seen)]
    position = cursor.position
    for next_one in seen:
        if next_one > position:
            if next_one > position + 1 and oldest < following:
                missing.append(Missing(position + 1, next_one - 1, following))
            position = next_one
    return Cursor(position, tuple(missing))


def _without(gap: Missing, seen: Sequence[int]) -> list[Missing]:
    """What is left of a gap."""
    parts, first = list[Any](), gap.first
    for position in seen:
        if gap.first <= position <= gap.last:
            parts.append((first, position - 1))
            first = position + 1
    parts.append((first, gap.last))
    return [Missing(a, b, gap.until) for a, b in parts if a <= b]
