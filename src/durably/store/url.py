"""Which store a database's name stands for."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from ..errors import ConfigurationError
from ..runtime import Runtime
from .base import Store
from .records import Durability
from .sqlite.store import SQLiteStore

# Of two letters at least: C:/ is a directory.
_SCHEME = re.compile(
    r"\s{0,16}(?:[a-z][\w+.-]{1,64}:/|(?:file|sqlite|postgres(?:ql)?):|postgres(?:ql)?//)",
    re.IGNORECASE,
)
_BEFORE_USER = re.compile(
    r"\s*(?:[a-z][\w+.-]+:/{1,2}|postgres(?:ql)?:|[a-z]:[\\/]|[^:@]*//)?", re.IGNORECASE
)
# What a connection string says, apart from a URL; a password goes on to the end, in case it holds a &.
_SECRETS = re.compile(r"\b((?:ssl)?password|sslkey|passfile)(\s*=).*", re.IGNORECASE | re.DOTALL)
_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_QUOTES = "\"'`“”‘’"
_SETTINGS = re.compile(r"\b(?:host|hostaddr|port|user|dbname|(?:ssl)?password)\s*=", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class DatabaseOptions:
    """The options of a database beside its name; see ``Durably``."""

    durability: Durability = "full"
    allow_network_fs: bool = False
    schema: str = ""
    listen_url: str | None = None
    pooled: bool = False


def store_of(database: str | Path, runtime: Runtime, options: DatabaseOptions) -> Store:
    """The store of a path, ``sqlite:///path``, ``:memory:`` or ``postgresql://...``. No I/O."""
    if is_postgres(database):
        _check_name(str(database))
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
    return str(database).lower().startswith(("postgresql://", "postgres://"))


def _postgres(url: str, runtime: Runtime, options: DatabaseOptions) -> Store:
    if find_spec("asyncpg") is None:
        raise ConfigurationError(
            "PostgreSQL needs the driver asyncpg: pip install 'durably[postgres]'"
        )
    # Only here: users of a file need no driver, and need not wait for its import.
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
    name = str(database)
    _check_name(name)
    scheme, separator, rest = name.partition("://")
    if separator and scheme.lower() == "sqlite":
        return rest.removeprefix("/") or ":memory:"
    if _SCHEME.match(name):
        raise ConfigurationError(
            f"'{name.partition(':')[0]}:…' is not a database that Durably knows; pass a path, "
            "sqlite:///path, :memory: or postgresql://user@host/name"
        )
    if without_password(name) != name or _SETTINGS.search(name):
        raise ConfigurationError(
            f"{without_password(name)!r} looks like a server's name and not like a file's; pass "
            "postgresql://user@host/name, or a path without it"
        )
    return database


def _check_name(name: str) -> None:
    """What comes along by accident, from a file or a shell, must not become part of a file's name."""
    shown = repr(without_password(name))
    if not name:
        raise ConfigurationError("the database is empty; pass a path, as 'jobs.db'")
    if any(unicodedata.category(c) in _INVISIBLE for c in name):
        raise ConfigurationError(
            f"the database {shown} has a line end or another control character"
        )
    if name != name.strip():
        raise ConfigurationError(f"the database {shown} begins or ends with a blank; remove it")
    if name[0] in _QUOTES or name[-1] in _QUOTES:
        raise ConfigurationError(f"the database {shown} begins or ends with a quote; remove it")


def absolute(database: str | Path) -> str:
    """The database's name, which a change of the current directory leaves as it is."""
    if is_postgres(database) or (path := str(path_of(database))) == ":memory:":
        return str(database)
    return str(Path(path).absolute())


def without_password(database: str) -> str:
    """The name for logs and people: nothing of what may be a password."""
    found = _BEFORE_USER.match(database)
    start = found.end() if found else 0
    user, colon, rest = database[start:].partition(":")
    # Up to the last @: a password that nobody escaped must not be shown in part.
    secret, at, host = rest.rpartition("@")
    if secret and at:
        database = f"{database[:start]}{user}{colon}***{at}{host}"
    return _SECRETS.sub(r"\1\2***", database)
