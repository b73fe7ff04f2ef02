"""How things look: values as JSON, tables for people."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, is_dataclass
from datetime import datetime
from typing import Any, cast

from ..models import Run
from ..terminal import clean

_CELL = 60  # characters of a value in a table


def when(at: datetime | None) -> str | None:
    """A time as ISO 8601 in UTC, with milliseconds."""
    if at is None:
        return None
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


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


def print_table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write columns; nothing but the head when there are no rows."""
    table = [list(head)]
    table += [["" if cell is None else clean(str(cell)) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        print("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip())
