"""Bringing the schema up to date; several processes may do so at once."""

from __future__ import annotations

from ..statements import refuse_newer
from .connection import Session
from .statements import DIALECT, Statements

_LONG = 3600.0  # seconds that a migration may take


def newest_version(statements: Statements) -> int:
    """The number of the last migration that this version knows."""
    return max(statements.migrations)


async def installed_version(session: Session, statements: Statements) -> int:
    """The number of the last migration made; 0 for none. Refuses what a newer version made."""
    if not await session.fetch(_EXISTS, {}):
        return 0
    rows = await session.fetch("select coalesce(max(version), 0) from durably_version", {})
    version = int(rows[0][0])
    refuse_newer("the database", version, newest_version(statements))
    return version


async def migrate(session: Session, statements: Statements) -> None:
    """Make what migrations are missing, in one transaction, one process at a time."""
    if await installed_version(session, statements) == newest_version(statements):
        return  # a role that only works needs no right to change tables
    async with session.transaction():
        await session.execute(_PREPARE)
        version = await installed_version(session, statements)
        for text in _scripts(statements, after=version):
            await session.execute(text, timeout=_LONG)


def migration_sql(schema: str = "", *, after: int = 0) -> str:
    """The migrations after a number as a script, for those who run such things with a tool of their own."""
    scripts = "\n\n".join(_scripts(Statements(schema, DIALECT), after=after))
    return f"begin;\n{scripts}\ncommit;\n"


# Reading a table makes the server hear what others have created meanwhile; to_regclass alone does not.
_EXISTS = "select 1 from pg_class where oid = to_regclass('durably_version')"

# A lock of the transaction, which a pooler cannot lose. Indexes on large tables take their time.
_PREPARE = """
set local statement_timeout = 0;
set local idle_in_transaction_session_timeout = 0;
select pg_advisory_xact_lock(7289343, 1);
"""


def _scripts(statements: Statements, *, after: int) -> list[str]:
    scripts: list[str] = []
    if after == 0:
        first = "create table if not exists durably_version (version integer primary key);"
        if statements.schema:
            scripts.append(f"create schema if not exists {statements.schema};")
        scripts.append(statements.qualify(first))
    for number, text in sorted(statements.migrations.items()):
        if number > after:
            done = f"insert into durably_version (version) values ({number:d});"
            scripts.append(f"{text.strip()}\n{statements.qualify(done)}")
    return scripts
