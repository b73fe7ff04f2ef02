"""How things look: values as JSON, tables for people."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from unicodedata import east_asian_width

from ..models import Run
from ..terminal import clean

_CELL = 60  # characters of a value in a table
_NARROWEST = 8  # columns of the screen that a shortened column keeps
_GAP = "  "


def when(at: datetime | None) -> str | None:
    """A time as ISO 8601 in UTC, with milliseconds."""
    if at is None:
        return None
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def age(at: datetime) -> str:
    """How long ago it was, in two to four characters: ``12s``, ``5m``, ``3h``, ``12d``."""
    return short_duration(datetime.now(UTC) - at)


def short_duration(lasted: timedelta) -> str:
    """A duration in its largest unit, rounded down."""
    seconds = max(0, int(lasted.total_seconds()))
    for unit, size in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def plain(value: Any) -> Any:
    """A record of ours as plain JSON: its fields by name, times as ISO text."""
    if is_dataclass(value) and not isinstance(value, type):
        return {name: plain(item) for name, item in asdict(value).items()}
    if isinstance(value, datetime):
        return when(value)
    if isinstance(value, dict):
        return {k: plain(v) for k, v in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [plain(item) for item in cast("list[object]", value)]
    return value


def plain_run(run: Run) -> dict[str, Any]:
    """A run as plain JSON."""
    found: dict[str, Any] = plain(run)
    del found["disposition"]  # of a trigger, not of the run
    return {**found, "cursor": run.cursor}


def print_json(value: Any, *, indent: int | None = 2) -> None:
    """Write JSON to stdout, in ASCII: no stored text reaches a terminal as it is."""
    print(json.dumps(value, indent=indent), flush=True)


def brief(value: Any) -> str:
    """A value in one short line."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _CELL else text[: _CELL - 1] + "…"


# -- tables


def screen_width() -> int | None:
    """The columns of the terminal that stdout is; None if it is a file or a pipe."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def print_table(
    head: Sequence[str], rows: Iterable[Sequence[Any]], flexible: Collection[str] = ()
) -> None:
    """Write columns; nothing but the head when there are no rows.

    On a terminal, columns without a value are left out, and the ``flexible`` ones are cut until a row
    fits in a line.
    """
    table = [list(head)]
    table += [["" if cell is None else clean(str(cell)) for cell in row] for row in rows]
    if (width := screen_width()) is not None:
        table = _fitted(table, width, flexible)
    widths = _widths(table)
    for row in table:
        print(_GAP.join(_padded(cell, w) for cell, w in zip(row, widths, strict=True)).rstrip())


def _fitted(table: list[list[str]], width: int, flexible: Collection[str]) -> list[list[str]]:
    kept = [i for i in range(len(table[0])) if len(table) == 1 or any(row[i] for row in table[1:])]
    table = [[row[i] for i in kept] for row in table]
    widths = _widths(table)
    cut = [i for i, name in enumerate(table[0]) if name in flexible]
    while sum(widths) + len(_GAP) * (len(widths) - 1) > width:
        longest = max(cut, key=lambda i: widths[i], default=None)
        if longest is None or widths[longest] <= _NARROWEST:
            break
        widths[longest] -= 1
    return [[_cut(cell, w) for cell, w in zip(row, widths, strict=True)] for row in table]


def _widths(table: list[list[str]]) -> list[int]:
    return [max(map(columns, column)) for column in zip(*table, strict=True)]


def columns(text: str) -> int:
    """The columns of the screen that a text takes: two for each wide character."""
    if text.isascii():
        return len(text)
    return sum(2 if east_asian_width(character) in "WF" else 1 for character in text)


def _padded(text: str, width: int) -> str:
    return text + " " * (width - columns(text))


def _cut(text: str, width: int) -> str:
    if columns(text) <= width:
        return text
    while columns(text) > width - 1:
        text = text[:-1]
    return f"{text}…"
