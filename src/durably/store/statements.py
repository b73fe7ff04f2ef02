"""The statements of ``queries.sql`` and the migrations, filled in for a dialect."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple, TypeVar

from ..errors import SchemaError
from ..state import (
    CANCEL,
    CLAIM,
    FINAL,
    NEVER,
    RELEASE,
    RETRY,
    TRANSITIONS,
    Status,
    Transition,
)
from .records import (
    RunRow,
)

T = TypeVar("T")


Row = Sequence[Any]


Call = Callable[[Any], Any]
"""What a user does with the connection, within a transaction of ours."""


Transaction = Generator[tuple[str | Call, Mapping[str, Any]], Any, T]
"""Yields statements, by name or as SQL, with their parameters, and gets their rows."""


RUN_COLUMNS = ", ".join(
    RunRow._fields
)  # not *: a later version's columns must not disturb this one


RETIRED = 1_000_000
"""The version of a database whose runs were copied elsewhere, and are to be executed there only."""


class Dialect(NamedTuple):
    """The words in which two databases differ."""

    name: str
    """Which of the statements that are written for one database alone are its."""
    serial: str
    now: str
    """The clock by which leases are held and runs are due, in milliseconds."""
    moment: str
    """A time on that clock, of the parameter ``?``, which the caller measured by its own ``:now``."""
    for_update: str
    for_share: str
    label: str
    """The value of the label :label_key, from the JSON text in ``labels``."""
    octets: str
    """The function that gives the bytes of a text; JSON is kept as ASCII."""
    escapes: bool
    """Whether a label's name is sought as the JSON text has it (SQLite before 3.45 compares text)."""

    def words(self) -> dict[str, str]:
        """What the braces in the statements stand for."""
        moments = {name: self.moment.replace("?", name) for name in ("due_at", "before")}
        filled = {name: text.replace("{now}", self.now) for name, text in moments.items()}
        return {**self._asdict(), **filled}


def statements(dialect: Dialect) -> dict[str, str]:
    """Every statement of ``queries.sql``, and one for each row of the state table."""
    columns = {f"{table}.run": _columns(table) for table in ("r", "taken", "moved")}
    words = {
        **dialect.words(),
        **columns,
        "run": RUN_COLUMNS,
        "never": NEVER,
        "final": _quoted(FINAL),
        "its_turn": _ITS_TURN,
        "claim_sources": _quoted(CLAIM.sources),
    }
    named = _of(dialect.name, _parse(_read("queries.sql")))
    move, move_all = named.pop("transition"), named.pop("transition_all", None)
    for row in TRANSITIONS:
        own = _words_of(row)
        named.setdefault(row.name, _fill(move, own))  # "claim" has a statement of its own
        if row.fenced and move_all:
            named[f"{row.name}_all"] = _fill(move_all, own)
    for _ in range(3):  # a word may hold others
        named = {name: _fill(text, words) for name, text in named.items()}
    return named


def _words_of(row: Transition) -> dict[str, str]:
    final = row.target in FINAL
    words = {
        "target": row.target,
        "event": row.event,
        "sources": _quoted(row.sources),
        "fence": "and lease_token = :token" if row.fenced else "",
        "ended_at": "{now}" if final else "null",
    }
    if row is CANCEL:
        return {**words, **_CANCEL}
    if row is RETRY:
        return {**words, **_RETRY}
    alone, together = _body_runs("cast(:body_runs as boolean)"), _body_runs("given.body_runs", "r.")
    due, later = "{due_at}", "{now} + given.delay"
    if row is RELEASE:
        due = f"coalesce({alone['held_until']}, {_ITS_TURN})"
        later = f"coalesce({together['held_until']}, {_ITS_TURN.replace('created', 'r.created')})"
    return {
        **words,
        **alone,
        **{f"later_{column}": value for column, value in together.items()},
        "due": "null" if final else due,
        "later": "null" if final else later,
    }


def _body_runs(given: str, table: str = "") -> dict[str, str]:
    """A run whose body still runs goes on to hold its key, until its lease would have ended."""
    return {
        "held_until": f"case when {given} then {table}due_at end",
        "key_slot": f"case when {given} then {table}key_slot end",
    }


# What is handed back or un-parked has been waiting since it was created; the clock may say otherwise.
_ITS_TURN = "case when created_at < {now} then created_at else {now} end"


_HELD = "(status = 'running' and due_at > {now} or held_until > {now})"


# Its body may run for as long as its lease lasts: nobody but its holder knows better.
_CANCEL = {
    "due": "null",
    "held_until": f"case when {_HELD} then coalesce(held_until, due_at) end",
    "key_slot": f"case when {_HELD} and key_slot >= 0 then key_slot end",
}


_RETRY = {
    "due": "case when held_until > {now} then held_until else {now} end",
    "held_until": "held_until",
    "key_slot": "key_slot",
}


def _columns(table: str) -> str:
    return ", ".join(f"{table}.{column}" for column in RunRow._fields)


def _of(database: str, named: dict[str, str]) -> dict[str, str]:
    """The statements of one database: its own instead of, and beside, those that all share."""
    shared = {name: text for name, text in named.items() if "@" not in name}
    suffix = f"@{database}"
    own = {name.removesuffix(suffix): t for name, t in named.items() if name.endswith(suffix)}
    return {**shared, **own}


def migrations(dialect: Dialect) -> dict[int, str]:
    """The numbered migrations."""
    folder = files("durably.store").joinpath("migrations")
    found = sorted(item.name for item in folder.iterdir() if item.name.endswith(".sql"))
    words = dialect.words()
    return {
        int(name.partition("_")[0]): _fill(_read(f"migrations/{name}"), words) for name in found
    }


def refuse_newer(database: str, version: int, newest: int) -> None:
    """``SchemaError`` for a database that is not for this Durably to change."""
    if version == RETIRED:
        raise SchemaError(
            f"{database} is retired: its runs were copied to another database, which is to be used in "
            "its stead"
        )
    if version > newest:
        raise SchemaError(
            f"{database} was migrated by a newer Durably (schema {version}, this one knows {newest}); "
            "nothing was changed. Upgrade this process"
        )


@cache
def _read(name: str) -> str:
    return files("durably.store").joinpath(name).read_text("utf-8")


def _parse(text: str) -> dict[str, str]:
    parts = re.split(r"^-- (\w+(?:@\w+)?)\n", text, flags=re.MULTILINE)[1:]
    pairs = zip(parts[::2], parts[1::2], strict=True)
    return {name: re.sub(r"^--.*\n", "", sql, flags=re.MULTILINE).strip() for name, sql in pairs}


def _fill(text: str, words: Mapping[str, Any]) -> str:
    return re.sub(r"\{([\w.]+)\}", lambda m: str(words.get(m[1], m[0])), text)


def _quoted(statuses: Iterable[Status]) -> str:
    return ", ".join(f"'{status}'" for status in sorted(statuses))
