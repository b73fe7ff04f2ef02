"""Which store a database's name stands for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from .errors import ConfigurationError
from .runtime import Runtime
from .store.base import Durability, Store
from .store.sqlite import SQLiteStore

# Up to the last @: a password that nobody escaped must not be shown in part.
_PASSWORD = re.compile(r"(?<=://)([^:/@]*:).*(?=@)|([?&]password=)[^&]*")


@dataclass(frozen=True, slots=True)
class DatabaseOptions:
    """What may be said about a database beside its name; see ``Durably``."""

    durability: Durability = "full"
    allow_network_fs: bool = False
    schema: str = ""
    listen_url: str | None = None
    pooled: bool = False


def store_of(database: str | Path, runtime: Runtime, options: DatabaseOptions) -> Store:
    """The store of a path, ``sqlite:///path``, ``:memory:`` or ``postgresql://...``. No I/O."""
    if is_postgres(database):
        return _postgres(str(database), runtime, options)
    if options.schema or options.listen_url or options.pooled:
        raise ConfigurationError("schema, listen_url and pooled are for PostgreSQL")
    return SQLiteStore(
        path_of(database),
        runtime,
        durability=options.durability,
        allow_network_fs=options.allow_network_fs,
    )


def is_postgres(database: str | Path) -> bool:
    """Whether it is on a PostgreSQL server."""
    return str(database).startswith(("postgresql://", "postgres://"))


def _postgres(url: str, runtime: Runtime, options: DatabaseOptions) -> Store:
    if find_spec("asyncpg") is None:
        raise ConfigurationError(
            "PostgreSQL needs the driver asyncpg: pip install 'durably[postgres]'"
        )
    # Only here: whoever uses a file needs no driver, and need not wait for its import.
    module = import_module("durably.store.postgres.store")
    store: Store = module.PostgresStore(
        url,
        runtime,
        schema=options.schema,
        listen_url=options.listen_url,
        pooled=options.pooled,
        durability=options.durability,
    )
    return store


def path_of(database: str | Path) -> str | Path:
    """The file of a database: a path, ``sqlite:///path`` or ``:memory:``."""
    if isinstance(database, Path):
        return database
    scheme, separator, rest = database.partition("://")
    if not separator:
        if not database:
            raise ConfigurationError("the database is empty; pass a path, as 'jobs.db'")
        return database
    if scheme == "sqlite":
        return rest.removeprefix("/") or ":memory:"
    raise ConfigurationError(
        f"{scheme}:// is no database that Durably knows; pass a path, sqlite:///path, :memory: or "
        "postgresql://user@host/name"
    )


def without_password(database: str) -> str:
    """The name for logs and people."""
    return _PASSWORD.sub(r"\1\2***", database) if "://" in database else database
