"""Bugs to plant in a store's SQL: a test that does not see them proves nothing."""

from __future__ import annotations

from typing import Any

from durably.store import statements
from durably.store.sqlite.store import SQLiteStore


def rewrite(store: Any, name: str, old: str, new: str) -> None:
    """Replace a part of a named statement, before the store is opened; {now} is its clock."""
    old, new = (part.replace("{now}", store.dialect.now) for part in (old, new))
    if isinstance(store, SQLiteStore):
        store._statements[name] = _replaced(name, store._statements[name], old, new)
        return
    from durably.store.postgres.statements import compiled  # only where the driver is wanted

    text = _replaced(name, statements.statements(store.dialect)[name], old, new)
    store._statements._named[name] = compiled(store._statements.qualify(text))


def _replaced(name: str, text: str, old: str, new: str) -> str:
    assert old in text, f"{old!r} is not in {name}:\n{text}"
    return text.replace(old, new)
