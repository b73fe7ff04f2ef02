"""The journal's positions, which a sequence gives, and which may be behind the lines that are there.

Logical replication, a blue/green switch, COPY and a restore of the data alone bring the lines and not the
sequence. Then positions are given that are taken, and nothing can be written until the sequence is set.
"""

from __future__ import annotations

from .. import statements
from .connection import Link
from .driver import UNIQUE_VIOLATION, state_of
from .errors import PositionsSetError

_CONSTRAINT = "durably_journal_pkey"
_NO_RIGHT = "42501"


class PositionsBehindError(OSError):
    """Only the owner of the table can set the sequence."""

    def __init__(self, table: str) -> None:
        super().__init__(
            f"the sequence of {table}.position is behind its lines, and this role may not set it; let the "
            f"owner of the table run: {remedy(table)}"
        )


def remedy(table: str) -> str:
    """The statement that sets the sequence."""
    return f"select setval(pg_get_serial_sequence('{table}', 'position'), (select max(position) from {table}))"


def is_taken(error: BaseException) -> bool:
    """Whether a line was given a position that another line has."""
    constraint = getattr(error, "constraint_name", None)
    return state_of(error) == UNIQUE_VIOLATION and constraint == _CONSTRAINT


async def set_if_behind(link: Link) -> None:
    """Set the sequence to the newest line if it is behind. A role that may not leaves it."""
    try:
        await link.transact(_set())
    except Exception as error:
        if state_of(error) != _NO_RIGHT:
            raise


async def after(link: Link, error: Exception, table: str) -> Exception:
    """What a write that failed has met: of a position that was taken, what became of the sequence."""
    if not is_taken(error):
        return error
    try:
        await link.transact(_set())
    except Exception as refused:  # noqa: BLE001 - the caller decides
        return PositionsBehindError(table) if state_of(refused) == _NO_RIGHT else refused
    return PositionsSetError("the sequence of the journal's positions was behind, and was set")


def _set() -> statements.Transaction[None]:
    yield "lock_positions", {}
    yield "set_positions", {}
