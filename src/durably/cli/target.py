"""What a command works on: an object named MODULE:NAME, and a database."""

from __future__ import annotations

import importlib
import os
import sqlite3
import sys
from argparse import Namespace
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

from ..databases import is_postgres
from ..durably import Durably
from ..errors import SchemaError, StorageError
from ..handle import JobHandle
from ..job import Job
from ..store.sql import migrations
from ..store.sqlite import DIALECT

DEFAULT = "durably.db"
VARIABLE = "DURABLY_DB"


class UsageError(Exception):
    """The command was not given what it needs."""


def load(spec: str) -> Any:
    """The object that MODULE:NAME names; the current directory is searched for the module."""
    module, separator, name = spec.partition(":")
    if not separator or not module or not name:
        raise UsageError(f"{spec!r} is not MODULE:NAME, as 'app:durably'")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        found = importlib.import_module(module)
    except (Exception, SystemExit) as error:
        raise UsageError(
            f"module {module!r} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    for part in name.split("."):
        if not hasattr(found, part):
            raise UsageError(f"module {module!r} has no {name!r}")
        found = getattr(found, part)
    return found


def load_durably(spec: str) -> Durably:
    """The instance that MODULE:NAME names."""
    found = load(spec)
    if not isinstance(found, Durably):
        raise UsageError(f"{spec} is no Durably instance, but a {type(found).__name__}")
    return found


def load_job(spec: str) -> tuple[Job[Any, Any], str | None]:
    """The job that MODULE:NAME names; of a handle, also the database of its instance."""
    found: Job[Any, Any] | JobHandle[Any, Any] | None = load(spec)  # most likely
    match found:
        case Job() as job:
            return job, None
        case JobHandle() as handle:
            return handle.definition, _home_of(handle, sys.modules[spec.partition(":")[0]])
        case other:
            raise UsageError(f"{spec} is no job, but a {type(other).__name__}")


def _home_of(handle: JobHandle[Any, Any], module: object) -> str | None:
    for value in vars(module).values():
        if isinstance(value, Durably) and value.get_job(handle.name) is handle:
            return value.database
    return None


def default_database() -> str:
    """Where the database is when nothing says otherwise."""
    return os.environ.get(VARIABLE) or DEFAULT


def named_database(args: Namespace) -> tuple[str, list[Job[Any, Any]]]:
    """The database of ``--db`` or ``--app``, and the app's jobs."""
    if args.app is None:
        return args.db or default_database(), []
    app = load_durably(args.app)
    return app.database, [handle.definition for handle in app.jobs.values()]


def path_of(database: str) -> Path:
    """The file of a database that several processes can use."""
    if (path := database.removeprefix("sqlite:///")) in (":memory:", "sqlite://"):
        raise UsageError("a :memory: database belongs to its process; pass --db PATH")
    if is_postgres(database):
        raise UsageError(
            "this command reads a SQLite file; runs on PostgreSQL are asked for by --url, of a "
            "'durably serve' on that database"
        )
    return Path(path)


def open_read_only(path: Path) -> sqlite3.Connection:
    """A connection that can change nothing; the file must exist."""
    if not path.exists():
        raise StorageError(
            f"there is no database {path}; pass --db PATH, set {VARIABLE}, or make it with "
            "'durably migrate'"
        )
    try:
        return sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
    except sqlite3.Error as error:
        raise StorageError(f"{path} cannot be opened: {error}") from None


def schema_version(connection: sqlite3.Connection, path: Path) -> int:
    """The number of the last migration; 0 for a file without any."""
    try:
        exists = connection.execute("select 1 from sqlite_master where name = 'durably_version'")
        if not exists.fetchone():
            return 0
        newest = connection.execute("select coalesce(max(version), 0) from durably_version")
        return int(newest.fetchone()[0])
    except sqlite3.Error as error:
        raise StorageError(f"{path} is not a usable SQLite database: {error}") from None


def newest_schema() -> int:
    """The schema that this Durably needs."""
    return max(migrations(DIALECT))


def _check_schema(path: Path) -> None:
    """Before the engine opens a file, which it would make a database of."""
    with closing(open_read_only(path)) as connection:
        version = schema_version(connection, path)
    needed = newest_schema()
    if version < needed:
        raise SchemaError(
            f"{path} has schema {version}, this Durably needs {needed}: run 'durably migrate'"
        )
    if version > needed:
        raise SchemaError(
            f"{path} was migrated by a newer Durably (schema {version}, this one knows {needed}); "
            "upgrade this one"
        )


@asynccontextmanager
async def opened(database: str, jobs: Iterable[Job[Any, Any]] = ()) -> AsyncGenerator[Durably]:
    """An instance on an existing database that executes nothing."""
    durably = Durably(database, jobs=jobs, worker=False)
    _check_schema(path_of(database))
    await durably.start()
    try:
        yield durably
    finally:
        await durably.stop(0)
