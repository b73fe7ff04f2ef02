"""What is copied: the rows of two tables, and the checksums that tell whether all of them arrived."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, NamedTuple

from ..state import FINAL, Status
from ..store.records import RunRow

Row = Sequence[Any]

_MODULUS = 1 << 256


class Table(NamedTuple):
    """A table, column by column, and how its rows arrive."""

    name: str
    columns: tuple[str, ...]
    order: str
    """The column that is unique."""
    large: tuple[str, ...]
    """The columns that may be large."""
    arrives: Callable[[Row], Row]

    @property
    def select(self) -> str:
        """All its rows."""
        return f"select {', '.join(self.columns)} from {self.name} order by {self.order}"


def _without_lease(row: Row) -> Row:
    """A run keeps its status, which only a row of state.py may change. But the right to write to it stays
    behind; if it is running, its lease has ended, and the next worker takes it over. A body that runs
    though its run does not stays behind as well, and holds nothing here."""
    run = RunRow._make(row)
    if run.status == Status.RUNNING:
        return run._replace(lease_token=None, due_at=min(run.updated_at, run.due_at or 0))
    if run.held_until is None:
        return row
    if run.status in FINAL:
        return run._replace(lease_token=None, held_until=None, key_slot=None)
    return run._replace(lease_token=None, held_until=None, due_at=run.created_at)


def _as_it_is(row: Row) -> Row:
    return row


RUNS = Table("durably_runs", RunRow._fields, "id", ("input", "output", "error"), _without_lease)
JOURNAL = Table(
    "durably_journal",
    (
        "position",
        "run_id",
        "seq",
        "at",
        "type",
        "step",
        "step_index",
        "attempt",
        "started_at",
        "data",
    ),
    "position",
    ("data",),
    _as_it_is,
)
TABLES = (RUNS, JOURNAL)


@dataclass(slots=True)
class Sum:
    """How many rows there are, and the sum of their SHA-256: the same in whatever order they come, for
    databases do not agree on the order of texts."""

    rows: int = 0
    total: int = 0

    def add(self, row: Row) -> None:
        """Count a row in."""
        digest = sha256(json.dumps(list(row)).encode()).digest()
        self.rows += 1
        self.total = (self.total + int.from_bytes(digest)) % _MODULUS

    @property
    def checksum(self) -> str:
        """In 64 hexadecimal digits."""
        return f"{self.total:064x}"
