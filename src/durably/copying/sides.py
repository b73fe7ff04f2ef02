"""What a database must be able to do to be copied from or to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Sequence
from typing import NamedTuple

from ..errors import DurablyError
from .tables import Row, Table

BATCH_ROWS = 1000
BATCH_BYTES = 4_000_000
"""How much is in memory at once: so many rows, or fewer when they are large."""
LOCK_TIMEOUT = 10
"""Seconds to wait until nobody writes."""


class CopyError(DurablyError):
    """It cannot be copied; nothing was."""


class Holder(NamedTuple):
    """A worker with leases that have not run out."""

    owner: str
    runs: int
    until: int
    """In milliseconds, by the database's clock."""


class Side(ABC):
    """A database that nobody else can write to while it is held."""

    name: str
    """For people, without a password."""

    @abstractmethod
    def exists(self) -> bool:
        """Whether there may be tables."""

    @abstractmethod
    async def hold(self) -> None:
        """Begin a transaction that keeps writers out; ``CopyError`` when they do not leave in time."""

    @abstractmethod
    async def release(self) -> None:
        """End it. What was not committed never was."""

    @abstractmethod
    async def commit(self) -> None:
        """Make what was written last, and end."""

    @abstractmethod
    async def schema_version(self) -> int:
        """The number of the last migration; 0 for none."""

    @abstractmethod
    async def is_retired(self) -> bool:
        """Whether it was retired."""

    @abstractmethod
    async def holders(self) -> list[Holder]:
        """The workers that hold runs now, but for those that are known to be dead."""

    @abstractmethod
    async def users(self) -> list[str]:
        """The other processes that have it open, as far as can be known."""

    @abstractmethod
    async def count(self, table: Table) -> int:
        """How many rows there are."""

    @abstractmethod
    def batches(self, table: Table) -> AsyncGenerator[Sequence[Row]]:
        """All rows, some at a time."""

    @abstractmethod
    async def write(self, table: Table, rows: Sequence[Row]) -> None:
        """Add rows."""

    @abstractmethod
    async def settle(self) -> None:
        """All rows are written: go on numbering after the highest."""

    @abstractmethod
    async def retire(self) -> None:
        """Mark it so that no Durably opens it any more."""


def is_full(rows: int, size: int) -> bool:
    """Whether a batch takes no more."""
    return rows >= BATCH_ROWS or size >= BATCH_BYTES


def size_of(row: Row) -> int:
    """About how many bytes a row has."""
    return sum(len(value) for value in row if isinstance(value, str))
