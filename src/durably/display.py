"""How records look where a session prints them: a short ``repr``, and a table in a notebook."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from reprlib import Repr
from typing import Any

_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80
_LONG = Repr()
_LONG.maxstring = _LONG.maxother = _LONG.maxlong = 2_000
_LONG.maxdict = _LONG.maxlist = _LONG.maxtuple = _LONG.maxset = 50


def short_repr(record: object, *fields: str) -> str:
    """The record's type with some of its fields, if they have a value, each of them shortened."""
    values = ((name, getattr(record, name)) for name in fields)
    shown = (f"{name}={_SHORT.repr(value)}" for name, value in values if value is not None)
    return f"{type(record).__name__}({', '.join(shown)})"


def html_table(rows: Iterable[tuple[str, Any]], details: str | None = None) -> str:
    """A table of names and values, without those that are None; ``details`` are folded below it.

    Everything is escaped: what a run holds is not the notebook's own.
    """
    cells = "".join(
        f"<tr><th style='text-align: left'>{escape(name)}</th>"
        f"<td style='text-align: left'>{escape(_text(value))}</td></tr>"
        for name, value in rows
        if value is not None
    )
    if not details:
        return f"<table>{cells}</table>"
    folded = f"<details><summary>traceback</summary><pre>{escape(details)}</pre></details>"
    return f"<table>{cells}</table>{folded}"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else _LONG.repr(value)
