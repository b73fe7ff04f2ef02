"""What ``durably doctor`` looks at: each check yields findings, and none changes anything."""

from __future__ import annotations

import os
import re
import socket
import sqlite3
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from ..errors import ConfigurationError
from ..runtime import to_datetime
from ..state import NEVER
from ..store.sqlite import file
from ..store.sqlite.notifier import Presence, presence
from ..store.statements import RETIRED
from .home import newest_schema, schema_version
from .show import when

BIG_WAL = 64 * 1024 * 1024  # bytes; a thousand pages are four megabytes
OVERDUE = 60_000  # milliseconds that a due run may wait for a worker
FUTURE = 60_000  # milliseconds that a clock may be ahead

Status = Literal["ok", "note", "wrong"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found, and what to do about it."""

    check: str
    status: Status
    detail: str
    remedy: str | None = None


@dataclass(frozen=True, slots=True)
class Workers:
    """What is known of the processes that use the database."""

    alive: int | None
    """How many there are; None where that cannot be known."""
    is_dead: Callable[[str], bool]
    """Whether a lease's owner is known to be dead."""


UNKNOWN = Workers(None, lambda _: False)
START = "start one that knows the job: durably worker MODULE:DURABLY"


def workers_beside(path: Path) -> Workers:
    """Those that use a file: each can be reached through the directory beside it."""
    directory = file.companion_of(path)
    if not hasattr(socket, "AF_UNIX"):
        return UNKNOWN
    alive = [presence(bell) for bell in directory.glob("*.bell")].count(Presence.ALIVE)
    return Workers(alive, lambda owner: presence(directory / owner) is Presence.DEAD)


Rows = list[Mapping[str, Any]]


def statements(words: Mapping[str, str]) -> dict[str, str]:
    """The queries about runs, by name, in the dialect of a database."""
    text = files("durably.cli").joinpath("doctor.sql").read_text("utf-8")
    for word, meaning in words.items():
        text = text.replace(f"{{{word}}}", meaning)
    parts = re.split(r"^-- (\w+)\n", text, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def parameters(now: int) -> dict[str, int]:
    """Those of the statements."""
    return {"now": now, "before": now - OVERDUE, "never": NEVER}


# -- the machine and the file


def sqlite() -> Iterator[Finding]:
    """The SQLite that Python was built with."""
    version = f"SQLite {sqlite3.sqlite_version}"
    try:
        file.check_sqlite()
    except ConfigurationError as error:
        yield Finding("sqlite", "wrong", str(error), "use a Python with a newer SQLite")
        return
    turns = "; processes take turns to write its log back" if file.has_checkpoint_race() else ""
    yield Finding("sqlite", "ok", f"{version}{turns}")


def permissions(path: Path) -> Iterator[Finding]:
    """Who may read and write the file and its directory."""
    refused = [str(p) for p in (path, path.parent) if not os.access(p, os.R_OK | os.W_OK)]
    if refused:
        what = f"{' and '.join(refused)} cannot be read and written by this user"
        yield Finding(
            "permissions", "wrong", what, "change the owner or the mode; SQLite needs both"
        )
    elif os.name == "posix" and path.stat().st_mode & (stat.S_IROTH | stat.S_IWOTH):
        mode = stat.filemode(path.stat().st_mode)
        what = f"{path} is {mode}: other users see the inputs and results"
        yield Finding("permissions", "note", what, f"chmod 600 {path}")
    else:
        yield Finding("permissions", "ok", "the file and its directory can be written")


def file_system(path: Path) -> Iterator[Finding]:
    """Whether the file system keeps SQLite's promises, and the file has one name."""
    try:
        file.check_single_name(file.real_path(path))
    except ConfigurationError as error:
        yield Finding("file", "wrong", str(error), "give the file one name")
    try:
        file.check_file_system(path)
    except ConfigurationError as error:
        yield Finding("file system", "wrong", str(error), "move the file to a local disk")
    else:
        yield Finding(
            "file system", "ok", file.file_system_of(path) or "the platform does not tell"
        )


def companion(path: Path) -> Iterator[Finding]:
    """Whether the processes on the file can find each other."""
    directory = file.companion_of(path)
    if not directory.exists():
        yield Finding("companion", "ok", f"no process has made {directory.name} yet")
        return
    if not directory.is_dir() or directory.stat().st_uid != path.stat().st_uid:
        what = f"{directory} is not a directory of the file's owner, who then cannot start a worker"
        remedy = (
            f"chown -R --reference={path} {directory}, or remove it while nothing uses the file"
        )
        yield Finding("companion", "wrong", what, remedy)
        return
    found = [presence(bell) for bell in directory.glob("*.bell")]
    alive = found.count(Presence.ALIVE)
    yield Finding("companion", "ok", f"{alive} processes use the file and can be woken")


def integrity(connection: sqlite3.Connection) -> Iterator[Finding]:
    """Whether SQLite finds the file whole."""
    result = connection.execute("pragma quick_check(1)").fetchone()[0]
    if result == "ok":
        yield Finding("integrity", "ok", "SQLite finds the file whole")
    else:
        yield Finding("integrity", "wrong", result, "restore the file from a backup")


def schema(connection: sqlite3.Connection, path: Path) -> Iterator[Finding]:
    """Whether this Durably can use the tables."""
    yield schema_finding(schema_version(connection, path), newest_schema())


def schema_finding(version: int, needed: int, besides: str = "") -> Finding:
    """What a database's version means."""
    if version == RETIRED:
        what = "retired: its runs were copied to another database"
        return Finding("schema", "wrong", what, "use that one")
    what = f"schema {version}, this Durably needs {needed}{besides}"
    if version < needed:
        return Finding("schema", "wrong", what, "run 'durably migrate'")
    if version > needed:
        return Finding("schema", "wrong", what, "upgrade this Durably")
    return Finding("schema", "ok", f"schema {version}")


def journal(connection: sqlite3.Connection, path: Path) -> Iterator[Finding]:
    """SQLite's own log."""
    mode = connection.execute("pragma journal_mode").fetchone()[0]
    wal = Path(f"{file.real_path(path)}-wal")
    size = wal.stat().st_size if wal.exists() else 0
    what = f"journal mode {mode}, {size:,} bytes in the log"
    if mode != "wal":
        yield Finding("journal", "note", what, "Durably sets mode wal when it opens the file")
    elif size > BIG_WAL:
        remedy = "end readers that hold a transaction open for long; the log is written back then"
        yield Finding("journal", "wrong", what, remedy)
    else:
        yield Finding("journal", "ok", what)


# -- the runs


def runs_in_file(connection: sqlite3.Connection, path: Path, now: int) -> Iterator[Finding]:
    """What a file says of its runs."""
    rows: dict[str, Rows] = {}
    for name, text in statements(_WORDS).items():
        cursor = connection.execute(text, parameters(now))
        columns = [column[0] for column in cursor.description]
        rows[name] = [dict(zip(columns, row, strict=True)) for row in cursor]
    bells = file.companion_of(path)
    if hasattr(socket, "AF_UNIX"):
        yield from _lost_bells(rows["owners"], now, bells)
    yield from Runs(rows, now, workers_beside(path)).findings()


def _lost_bells(owners: Rows, now: int, bells: Path) -> Iterator[Finding]:
    for row in owners:
        if row["until"] > now and not (bells / row["owner"]).exists():
            what = f"worker {row['owner']} cannot be woken through {bells}; it polls"
            yield Finding("companion", "note", what, "its log says why; a restart makes it again")


_WORDS = {"later": "max", "kind": "json_extract(error, '$.type')"}


class Runs:
    """Checks of what a database says of its runs, at one time of the clock that leases end by."""

    def __init__(self, rows: Mapping[str, Rows], now: int, workers: Workers) -> None:
        self._rows = rows
        self._now = now
        self._workers = workers

    def findings(self) -> Iterator[Finding]:
        """All of them."""
        for check in (self._leases, self._overdue, self._abandoned, self._poisoned, self._clock):
            name = check.__name__.removeprefix("_")
            found = [Finding(name, "wrong", what, remedy) for what, remedy in check()]
            yield from found or [Finding(name, "ok", _FINE[name])]

    def _leases(self) -> Iterator[tuple[str, str]]:
        for row in self._rows["owners"]:
            if row["until"] < self._now:
                state = f"which has not renewed its leases since before {_time(row['until'])}"
            elif self._workers.is_dead(row["owner"]):
                state = "which is dead"
            else:
                continue
            yield (
                f"worker {row['owner']}, {state}, holds {row['runs']} runs",
                "start a worker that knows their jobs: durably worker MODULE:DURABLY",
            )

    def _overdue(self) -> Iterator[tuple[str, str]]:
        busy = {row["job"]: row["runs"] for row in self._rows["busy"]}
        for row in self._rows["overdue"]:
            job = row["job"]
            what = f"{row['runs']} runs of job {job!r} have been waiting for a worker since {_time(row['since'])}"
            remedy = f"{START}; 'durably worker --help' has --concurrency"
            if job in busy:
                yield f"{what}; {busy[job]} others are executed, and no slot is free", remedy
            elif self._workers.alive == 0 and not busy:
                yield f"{what}; no worker is alive", START
            else:
                yield f"{what}; no live worker knows the job", START

    def _abandoned(self) -> Iterator[tuple[str, str]]:
        for row in self._rows["abandoned"]:
            yield (
                f"run {row['id']} waits behind concurrency key {row['key']!r}, which no run holds",
                f"durably runs cancel {row['id']}; durably runs retry {row['id']}",
            )

    def _poisoned(self) -> Iterator[tuple[str, str]]:
        for row in self._rows["poisoned"]:
            yield (
                f"run {row['id']} of job {row['job']!r} killed its worker again and again",
                f"see 'durably steps {row['id']}' for where; mend the job, then durably runs retry",
            )

    def _clock(self) -> Iterator[tuple[str, str]]:
        latest = self._rows["latest"][0]["at"] or 0
        if latest > self._now + FUTURE:
            yield (
                f"a run was changed at {_time(latest)}, which is in the future",
                "set the clock of this machine, or the server's; leases end by it",
            )


_FINE = {
    "leases": "no dead worker holds a run",
    "overdue": "no run waits for a worker",
    "abandoned": "no run waits behind a key that nobody holds",
    "poisoned": "no run kept killing its worker",
    "clock": "no run was changed in the future",
}


def _time(at: int) -> str:
    return when(to_datetime(at)) or ""
