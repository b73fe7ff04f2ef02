"""Reading the journal of all runs as it grows, without missing a line.

A line's position is given when it is written, but it is seen when its transaction commits, and those
orders differ: position 7 may appear after 8. So a cursor is a position and the gaps below it. A gap is
looked at again while a transaction is at work that may fill it, and once more after the last of them
has ended; what is not there by then never will be (it was rolled back). A run's own lines always come
in order, since each is written under its run's lock.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from .. import reads, statements
from ..records import Cursor, JournalRow, Missing

_NOBODY = frozenset[str]()


class Look(NamedTuple):
    """What a look at the journal found."""

    lines: list[JournalRow]
    cursor: Cursor


def end_of_tail() -> statements.Transaction[Cursor]:
    """The newest line, and what may still appear before it."""
    end = int((yield "end_of_tail", {})[0][0])
    gaps = yield "missing", {"end": end}
    writers = (yield from _writers()) if gaps else _NOBODY
    return Cursor(end, tuple(Missing(first, last, writers) for first, last in gaps))


def tail(cursor: Cursor, limit: int) -> statements.Transaction[Look]:
    """Lines after a cursor, and the cursor after them."""
    first, last = [gap.first for gap in cursor.missing], [gap.last for gap in cursor.missing]
    params = {"position": cursor.position, "limit": limit + 1, "first": first, "last": last}
    rows = yield "tail", params
    lines, after = yield from reads.advance(cursor, [JournalRow._make(row) for row in rows])
    _, gaps = gaps_after(cursor, [line.position for line in lines])
    # The writers of now are queried after the read: those not among them had ended before the next one.
    writers = (yield from _writers()) if gaps else _NOBODY
    still = (gap._replace(writers=gap.writers & writers) for gap in gaps if gap.writers)
    new = (Missing(gap.first, gap.last, writers) for gap in gaps if gap.first > cursor.position)
    return Look(lines, after._replace(missing=(*still, *new)))


def _writers() -> statements.Transaction[frozenset[str]]:
    return frozenset(row[0] for row in (yield "writers", {}))


def gaps_after(cursor: Cursor, seen: Sequence[int]) -> tuple[int, list[Missing]]:
    """After a look that saw these positions, the newest one and what is missing below it.

    A gap that nobody was left to fill was looked at for the last time. New ones have no writers yet.
    """
    open_gaps = [gap for gap in cursor.missing if gap.writers]
    gaps = [rest for gap in open_gaps for rest in _without(gap, seen)]
    position = cursor.position
    for newer in seen:
        if newer > position:
            if newer > position + 1:
                gaps.append(Missing(position + 1, newer - 1, _NOBODY))
            position = newer
    return position, gaps


def _without(gap: Missing, seen: Iterable[int]) -> list[Missing]:
    """What is left of a gap."""
    left: list[Missing] = []
    first = gap.first
    for position in (*(p for p in seen if gap.first <= p <= gap.last), gap.last + 1):
        if first < position:
            left.append(Missing(first, position - 1, gap.writers))
        first = position + 1
    return left
