"""Where the runs under attack are, and how a harness reads them: a SQLite file, or a PostgreSQL database.

Both are read with the plain driver, knowing nothing of the product but its two tables.
"""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import asyncpg

from tests import postgres

SQLITE, POSTGRES = "sqlite", "postgresql"
_RUNS = "select * from durably_runs"
_JOURNAL = (
    "select position, run_id, seq, type, step, step_index, attempt, data"
    " from durably_journal order by position"
)
_HELD = "select id from durably_runs where status = 'running' and lease_owner like {}"
# Connections end with their process; but a pooler keeps some, which do nothing.
_AT_WORK = """
select count(*) from pg_stat_activity
 where datname = current_database() and backend_type = 'client backend' and pid <> pg_backend_pid()
   and not (state = 'idle' and state_change < clock_timestamp() - interval '500 ms')
"""
_PATIENCE = 60.0  # seconds for a server that restarts, and for what dead processes left at work


class Journaled(NamedTuple):
    """A line of the journal."""

    position: int
    run_id: str
    seq: int
    type: str
    step: str | None
    step_index: int | None
    attempt: int
    data: str | None


@dataclass
class Snapshot:
    """The database as the harness read it."""

    runs: dict[str, dict[str, Any]]
    journal: dict[str, list[Journaled]]
    integrity: str = "ok"

    @property
    def committed(self) -> set[tuple[str, str]]:
        return {
            (line.run_id, line.step or "")
            for lines in self.journal.values()
            for line in lines
            if line.type == "step:complete"
        }


class Place(Protocol):
    """A database, as a harness sees it."""

    def read(self, *, dead: bool) -> Snapshot:
        """All of it; ``dead`` when no process uses it any more."""
        ...

    def held(self, pid: int) -> set[str] | None:
        """The runs whose leases a process has; None while it keeps everybody from writing."""
        ...

    def close(self) -> None:
        """Disconnect."""
        ...


def _snapshot(
    runs: Iterable[Mapping[str, Any]], journal: Iterable[Iterable[Any]], integrity: str = "ok"
) -> Snapshot:
    lines: dict[str, list[Journaled]] = defaultdict(list)
    for row in journal:
        line = Journaled._make(row)
        lines[line.run_id].append(line)
    return Snapshot({row["id"]: dict(row) for row in runs}, dict(lines), integrity)


class File:
    """A SQLite file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self, *, dead: bool) -> Snapshot:
        """A dead process's log is left to the engine: then a copy is read."""
        if not self._path.exists():
            return Snapshot({}, {})
        if not dead:
            return self._read(f"file:{self._path}?mode=ro")
        with tempfile.TemporaryDirectory(prefix="dur") as scratch:
            for suffix in ("", "-wal"):
                if (source := Path(f"{self._path}{suffix}")).exists():
                    shutil.copy(source, Path(scratch) / f"copy{suffix}")
            return self._read(f"file:{scratch}/copy?mode=rw")

    def _read(self, uri: str) -> Snapshot:
        connection = sqlite3.connect(uri, uri=True, timeout=30.0, isolation_level=None)
        connection.row_factory = sqlite3.Row
        try:
            connection.execute("begin")
            tables = {row[0] for row in connection.execute("select name from sqlite_master")}
            if not {"durably_runs", "durably_journal"} <= tables:
                return Snapshot({}, {})
            integrity = connection.execute("pragma integrity_check").fetchone()[0]
            return _snapshot(connection.execute(_RUNS), connection.execute(_JOURNAL), integrity)
        finally:
            connection.close()

    def held(self, pid: int) -> set[str] | None:
        connection = sqlite3.connect(self._path, timeout=0.2, isolation_level=None)
        try:
            connection.execute("begin immediate")
            rows = connection.execute(_HELD.format("?"), (f"{pid}-%",)).fetchall()
            connection.execute("rollback")
        except sqlite3.OperationalError:
            return None
        finally:
            connection.close()
        return {row[0] for row in rows}

    def close(self) -> None:
        pass


class Database:
    """A PostgreSQL database, over a connection that is kept, and made again when the server restarts."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._runner = asyncio.Runner()
        self._connection: Any = None

    def read(self, *, dead: bool) -> Snapshot:
        """What a dead process asked for last may still be under way: that is waited for."""
        if dead:
            self._await_silence()
        return self._runner.run(self._again(self._read))

    async def _read(self, connection: Any) -> Snapshot:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            if await connection.fetchval("select to_regclass('durably_journal')") is None:
                return Snapshot({}, {})
            return _snapshot(await connection.fetch(_RUNS), await connection.fetch(_JOURNAL))

    def _await_silence(self) -> None:
        end = time.monotonic() + _PATIENCE
        while self._fetch(_AT_WORK)[0][0]:
            assert time.monotonic() < end, "connections of dead processes do not end"
            time.sleep(0.002)

    def held(self, pid: int) -> set[str] | None:
        return {row[0] for row in self._fetch(_HELD.format("$1"), f"{pid}-%")}

    def _fetch(self, statement: str, *values: Any) -> list[Any]:
        return self._runner.run(self._again(lambda c: c.fetch(statement, *values)))

    async def _again(self, ask: Any) -> Any:
        """Ask, through whatever happens to the server meanwhile."""
        end = time.monotonic() + _PATIENCE
        while True:
            try:
                if self._connection is None:
                    self._connection = await asyncpg.connect(self._url)
                return await ask(self._connection)
            except (OSError, asyncpg.InterfaceError, asyncpg.PostgresError):
                if time.monotonic() > end:
                    raise
                if self._connection is not None:
                    self._connection.terminate()
                    self._connection = None
                await asyncio.sleep(0.05)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
        self._runner.close()


def place_of(folder: Path, url: str) -> Place:
    """The database of a URL; "" for a file in the folder."""
    return Database(url) if url else File(folder / "runs.db")


@contextmanager
def new_database(kind: str) -> Iterator[str]:
    """The URL of a new, empty database for the length of a block; "" for a file of the harness's own.

    ``kind``: "sqlite"; "postgresql" for a server of our own (or the one of ``DURABLY_TEST_DATABASE_URL``);
    else the URL of a server, on which a database is made.
    """
    if kind == SQLITE:
        yield ""
        return
    server = None if kind == POSTGRES else kind
    with asyncio.Runner() as runner:
        url = runner.run(postgres.create_database(server))
        try:
            yield url
        finally:
            runner.run(postgres.drop_database(url, server))


Way = Callable[[str], str]
"""How processes reach a database: its URL, changed."""


def straight(url: str) -> str:
    """The way of most."""
    return url


def name_of(kind: str) -> str:
    """What a report calls it: a URL may hold a password."""
    return kind.partition(":")[0]
