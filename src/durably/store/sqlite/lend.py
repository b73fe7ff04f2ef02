"""Lending the writer's connection to a user's function, for the time of one transaction of ours."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

from ...errors import ConfigurationError

_ENDS = (sqlite3.SQLITE_TRANSACTION, sqlite3.SQLITE_SAVEPOINT)
_PLACES = (sqlite3.SQLITE_ATTACH, sqlite3.SQLITE_DETACH)
_WRITES = (
    sqlite3.SQLITE_INSERT,
    sqlite3.SQLITE_UPDATE,
    sqlite3.SQLITE_DELETE,
    sqlite3.SQLITE_DROP_TABLE,
    sqlite3.SQLITE_ALTER_TABLE,
    sqlite3.SQLITE_CREATE_TRIGGER,
)


class Borrowed:
    """A connection within a transaction that is not the borrower's to end.

    ``execute``, ``executemany`` and ``cursor`` are sqlite3's. What would end the transaction, leave
    the file or change Durably's own tables is refused with ``ConfigurationError``.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection: sqlite3.Connection | None = connection
        self._refusal: str | None = None

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        """Run a statement."""
        return self._guarded(lambda connection: connection.execute(sql, parameters))

    def executemany(self, sql: str, parameters: Sequence[Any], /) -> sqlite3.Cursor:
        """Run a statement for each of many parameters."""
        return self._guarded(lambda connection: connection.executemany(sql, parameters))

    def cursor(self) -> sqlite3.Cursor:
        """A cursor of the connection."""
        return self._guarded(lambda connection: connection.cursor())

    def _guarded(self, ask: Callable[[sqlite3.Connection], sqlite3.Cursor]) -> sqlite3.Cursor:
        if self._connection is None:
            raise ConfigurationError("this connection was lent for one step.transaction, now over")
        try:
            return ask(self._connection)
        except sqlite3.DatabaseError:
            if self._refusal is None:
                raise
            why, self._refusal = self._refusal, None
            raise ConfigurationError(f"step.transaction: {why}") from None

    def allows(self, action: int, first: str | None, second: str | None, *_: object) -> int:
        """SQLite's authorizer: called for each thing that a statement does."""
        if action in _ENDS:
            self._refusal = "the transaction is committed when the step returns; do not end it"
        elif action in _PLACES:
            self._refusal = "the transaction is one file's; attach and detach elsewhere"
        elif action == sqlite3.SQLITE_PRAGMA and second is not None:
            self._refusal = f"pragma {first} would change the connection of all other writes"
        elif action in _WRITES and str(first).startswith("durably_"):
            self._refusal = f"table {first} is Durably's own; change runs by its methods"
        else:
            return sqlite3.SQLITE_OK
        return sqlite3.SQLITE_DENY

    def give_back(self) -> None:
        """The borrower has no more to do with it."""
        self._connection = None


def lend(call: Callable[[Borrowed], Any]) -> Callable[[sqlite3.Connection], Any]:
    """``call`` with a borrowed connection, in place of the writer's own."""

    def lent(connection: sqlite3.Connection) -> Any:
        borrowed = Borrowed(connection)
        connection.set_authorizer(borrowed.allows)
        try:
            return call(borrowed)
        finally:
            borrowed.give_back()
            connection.set_authorizer(None)

    return lent
