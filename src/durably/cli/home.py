"""Where runs are kept: the database that a command works on."""

from __future__ import annotations

import os
import sqlite3
from argparse import Namespace
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing
from dataclasses import asdict, dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..durably import Durably, engine_of
from ..errors import SchemaError, StorageError
from ..jobs.job import Job
from ..runtime import Runtime
from ..store.base import Store
from ..store.sqlite.file import connect_to_look, damaged
from ..store.sqlite.store import DIALECT, SQLiteStore
from ..store.sqlite.writer import is_damaged
from ..store.statements import migrations, refuse_newer
from ..store.url import DatabaseOptions, is_postgres, path_of, store_of, without_password
from .target import UsageError, load_durably

DEFAULT = "durably.db"
VARIABLE = "DURABLY_DB"


@dataclass(frozen=True, slots=True)
class Home:
    """A database, its options, and the jobs of the application that it belongs to."""

    database: str
    options: DatabaseOptions = field(default_factory=DatabaseOptions)
    jobs: list[Job[Any, Any]] = field(default_factory=list[Job[Any, Any]])

    @property
    def name(self) -> str:
        """For people, without a password."""
        return without_password(self.database) if self.is_server else str(self.path)

    @property
    def is_server(self) -> bool:
        """Whether it is PostgreSQL's."""
        return is_postgres(self.database)

    @property
    def path(self) -> Path:
        """Its file, which several processes can use."""
        if str(path := path_of(self.database)) == ":memory:":
            raise UsageError("a :memory: database belongs to its process; pass --db PATH")
        return Path(path)

    def with_schema(self, schema: str) -> Home:
        """The same with its tables in a schema, which is for PostgreSQL."""
        if schema and not self.is_server:
            raise UsageError(f"--schema is for PostgreSQL, and {self.name} is a file")
        return replace(self, options=replace(self.options, schema=schema))

    def instance(self, **options: Any) -> Durably:
        """An instance on it, which runs no worker unless an option says so."""
        about: dict[str, Any] = {"worker": False, **asdict(self.options), **options}
        return Durably(self.database, jobs=self.jobs, **about)

    def store(self) -> Store:
        """A store on it, not yet open."""
        return store_of(self.database, Runtime(), self.options)


def home_of(durably: Durably) -> Home:
    """That of an application."""
    jobs = [handle.definition for handle in durably.jobs.values()]
    return Home(durably.database, engine_of(durably).options.database, jobs)


def named_home(args: Namespace) -> Home:
    """That of ``--db`` and ``--schema``, of ``--app``, or the default."""
    if args.app is None:
        return home(args.db, args.schema)
    return home_of(load_durably(args.app))


def home(database: str | None, schema: str = "") -> Home:
    """That of a database's name, or the default; the schema is for PostgreSQL."""
    return Home(database or os.environ.get(VARIABLE) or DEFAULT).with_schema(schema)


def need_driver() -> None:
    """Refuse what is about PostgreSQL where its driver is not installed."""
    if find_spec("asyncpg") is None:
        raise UsageError("PostgreSQL needs the driver asyncpg: pip install 'durably[postgres]'")


@asynccontextmanager
async def opened(home: Home, *, read_only: bool = False) -> AsyncGenerator[Durably]:
    """An instance on an existing database that executes nothing; ``read_only`` leaves no trace."""
    store = home.store()
    if not home.is_server:
        _check_file(home.path)
        if read_only:
            store = SQLiteStore(home.path, Runtime(), read_only=True)
    durably = home.instance(store=store)
    try:
        await durably.start()
        await store.require_schema()
        yield durably
    finally:
        await durably.stop(0)


def _check_file(path: Path) -> None:
    """Before the engine opens a file, which it would make a database of."""
    with closing(open_read_only(path)) as connection:
        version = schema_version(connection, path)
    needed = newest_schema()
    if version < needed:
        raise SchemaError(
            f"{path} has schema {version}, this Durably needs {needed}: run 'durably migrate'"
        )
    refuse_newer(str(path), version, needed)


def open_read_only(path: Path) -> sqlite3.Connection:
    """A connection that can change nothing; the file must exist."""
    if not path.exists():
        raise StorageError(
            f"there is no database {path}; pass --db PATH, set {VARIABLE}, or make it with "
            "'durably migrate'"
        )
    try:
        return connect_to_look(path)
    except sqlite3.Error as error:
        if is_damaged(error):
            raise damaged(path, error) from None
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
