"""What ``durably doctor`` looks at on a PostgreSQL server. Changes nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import suppress
from typing import Any

from ..runtime import Runtime
from ..store.postgres.connection import NO_URL
from ..store.postgres.driver import DriverError, ServerError, connect
from ..store.postgres.errors import describe
from ..store.postgres.migrate import newest_version
from ..store.postgres.positions import remedy
from ..store.postgres.statements import Statements, compiled
from . import checks
from .checks import Finding
from .home import Home

OLDEST = 13  # the server's version
_TIMEOUT = 10.0  # seconds for a connection, and for an answer
_RECEIVE_TIMEOUT = 5.0  # seconds that a notification may take
_SKEW = 5.0  # seconds that two clocks may differ before it is worth a word
_SPARE = 10  # connections
_DEAD = 50_000  # rows that nobody needs, when there are more of them than of the others
_TABLES = ("durably_runs", "durably_journal")
_WORDS = {"later": "greatest", "kind": "cast(error as json) ->> 'type'"}

Row = Mapping[str, Any]
_TROUBLE = (ServerError, DriverError, OSError, ValueError, OverflowError)


async def examine_server(home: Home) -> AsyncIterator[Finding]:
    """The findings about a server. What depends on something broken is not looked at."""
    try:
        connection = await _connect(home.database)
    except _TROUBLE as error:
        why = NO_URL if isinstance(error, (ValueError, OverflowError)) else describe(error)
        what = f"{home.name} cannot be used: {why}"
        yield Finding("server", "wrong", what, "see that it runs, and check the URL and the role")
        return
    try:
        async for finding in Examination(home, connection).findings():
            yield finding
            if finding.status == "wrong" and finding.check in ("server", "schema", "rights"):
                return
    except _TROUBLE as error:
        what = f"{home.name} does not answer: {describe(error)}"
        yield Finding("server", "wrong", what, "check the role's rights, and the server's log")
    finally:
        with suppress(*_TROUBLE):
            await connection.close(timeout=_TIMEOUT)


async def _connect(url: str) -> Any:
    # Without a cache of prepared statements, and without our settings: as a pooler wants it, and so
    # that the role's own settings are seen.
    return await connect(url, timeout=_TIMEOUT, command_timeout=_TIMEOUT, statement_cache_size=0)


class Examination:
    """A look at one database, over one connection."""

    def __init__(self, home: Home, connection: Any) -> None:
        self._home = home
        self._connection = connection
        self._statements = Statements(home.options.schema)
        self._pooled = False

    async def findings(self) -> AsyncIterator[Finding]:
        """All of them, the fundamental ones first."""
        yield await self._server()
        yield await self._pooler()
        yield await self._listen()
        yield await self._rights()
        yield await self._schema()
        yield await self._machine_clock()
        for finding in await self._sessions():
            yield finding
        yield await self._commits()
        yield await self._connections()
        yield await self._positions()
        async for finding in self._tables():
            yield finding
        for finding in await self._runs():
            yield finding

    async def _ask(self, text: str, **params: Any) -> list[Row]:
        statement = compiled(self._statements.qualify(text))
        # Preparing and executing must meet the same session, which a pooler keeps for a transaction.
        async with self._connection.transaction(readonly=True):
            return [
                dict(row)
                for row in await self._connection.fetch(statement.text, *statement.values(params))
            ]

    async def _one(self, text: str, **params: Any) -> Row:
        return (await self._ask(text, **params))[0]

    def _named(self, table: str) -> str:
        return self._statements.qualify(table)

    # -- the server, and the way to it

    async def _server(self) -> Finding:
        row = await self._one(
            "select current_setting('server_version') as version, pg_is_in_recovery() as standby,"
            " cast(current_setting('server_version_num') as integer) / 10000 as major,"
            " current_setting('default_transaction_read_only') as read_only,"
            " current_setting('server_encoding') as encoding"
        )
        name = f"PostgreSQL {row['version']} at {self._home.name}"
        if row["major"] < OLDEST:
            what = f"{name} is older than {OLDEST}"
            return Finding("server", "wrong", what, "upgrade the server")
        if row["standby"] or row["read_only"] == "on":
            what = f"{name} can only be read"
            return Finding("server", "wrong", what, "give the URL of the primary, for writing")
        if row["encoding"] != "UTF8":
            what = f"{name} has encoding {row['encoding']}: names with other letters are refused"
            return Finding("server", "note", what, "create the database with encoding 'UTF8'")
        return Finding("server", "ok", name)

    async def _pooler(self) -> Finding:
        reported = self._connection.get_server_pid()
        self._pooled = reported != (await self._one("select pg_backend_pid() as pid"))["pid"]
        if not self._pooled:
            return Finding("pooler", "ok", "none is between this machine and the server")
        if self._home.options.listen_url:
            return Finding("pooler", "ok", "there is one, and a listen_url past it")
        return Finding(
            "pooler",
            "note",
            "there is one: workers look for work once each polling_interval",
            "give Durably(listen_url=…), past the pooler, and workers are woken at once",
        )

    async def _listen(self) -> Finding:
        try:
            received = await self._receives()
        except _TROUBLE as error:
            what = f"the connection for LISTEN fails: {describe(error)}"
            return Finding("listen", "wrong", what, "check listen_url")
        if received:
            return Finding("listen", "ok", "notifications arrive")
        what = "notifications do not arrive; polling is all there is"
        remedy = "give Durably(listen_url=…) a way past what is between"
        return Finding("listen", "note", what, remedy)

    async def _receives(self) -> bool:
        channel, received = f"durably_doctor_{Runtime().token()[:12]}", asyncio.Event()

        def hear(*_: object) -> None:
            received.set()

        listener = await _connect(self._home.options.listen_url or self._home.database)
        try:
            await listener.add_listener(channel, hear)
            await self._connection.execute("select pg_notify($1, '')", channel)
            with suppress(TimeoutError):
                await asyncio.wait_for(received.wait(), _RECEIVE_TIMEOUT)
        finally:
            await listener.close(timeout=_TIMEOUT)
        return received.is_set()

    # -- our tables

    async def _schema(self) -> Finding:
        table = self._named("durably_version")
        found = await self._ask("select 1 from pg_class where oid = to_regclass(:name)", name=table)
        version = 0
        if found:
            newest = "select coalesce(max(version), 0) as version from durably_version"
            version = (await self._one(newest))["version"]
        besides = ""
        if not found:
            path = (await self._one("select current_setting('search_path') as path"))["path"]
            where = f"schema {self._home.options.schema}" if self._home.options.schema else path
            besides = f"; there are no tables in {where}"
        return checks.schema_finding(version, newest_version(self._statements), besides)

    async def _rights(self) -> Finding:
        tables = {self._named(table): "select, insert, update, delete" for table in _TABLES}
        tables[self._named("durably_version")] = "select"
        rows = await self._ask(
            "select t.name, t.privileges, current_user as role,"
            "       to_regclass(t.name) is null as absent,"
            "       not has_table_privilege(to_regclass(t.name), r.name) as refused"
            "  from unnest(cast(:names as text[]), cast(:privileges as text[])) as t (name, privileges),"
            "       unnest(string_to_array(t.privileges, ', ')) as r (name)",
            names=list(tables),
            privileges=list(tables.values()),
        )
        role = rows[0]["role"]
        if any(row["absent"] for row in rows):
            return Finding("rights", "ok", f"role {role}; there are no tables to ask about")
        if missing := {row["name"]: row["privileges"] for row in rows if row["refused"]}:
            what = f"role {role} may not do all it must with {', '.join(missing)}"
            grants = [
                f"grant {privileges} on {name} to {role}" for name, privileges in missing.items()
            ]
            return Finding("rights", "wrong", what, "; ".join(grants))
        return Finding("rights", "ok", f"role {role} may read and write")

    async def _positions(self) -> Finding:
        table = self._named("durably_journal")
        try:
            row = await self._one(
                "select (select coalesce(max(position), 0) from durably_journal) as newest,"
                "       case when has_sequence_privilege(name, 'usage, select')"
                "            then coalesce(pg_sequence_last_value(name), 0) end as given"
                "  from cast(pg_get_serial_sequence(:name, 'position') as regclass) as name",
                name=table,
            )
        except ServerError as error:
            return Finding("sequence", "ok", f"it cannot be compared: {describe(error)}")
        if row["given"] is None:
            return Finding("sequence", "ok", "this role may not see where it is")
        if row["given"] >= row["newest"]:
            return Finding("sequence", "ok", "it is not behind the journal")
        what = (
            f"the sequence of {table}.position is at {row['given']} and the journal at {row['newest']}:"
            " it was copied without its sequence, and nothing can be written"
        )
        return Finding("sequence", "wrong", what, remedy(table))

    async def _tables(self) -> AsyncIterator[Finding]:
        for table in _TABLES:
            row = await self._one(
                "select n_live_tup as live, n_dead_tup as dead,"
                " pg_size_pretty(pg_total_relation_size(c.oid)) as size,"
                " current_setting('autovacuum') = 'off' or 'autovacuum_enabled=false'"
                " = any(coalesce(c.reloptions, '{}')) as neglected"
                "  from pg_class as c left join pg_stat_user_tables on relid = c.oid"
                " where c.oid = to_regclass(:name)",
                name=self._named(table),
            )
            yield _vacuumed(table, row)

    # -- how it is set

    async def _machine_clock(self) -> Finding:
        before = time.time()
        row = await self._one("select cast(extract(epoch from clock_timestamp()) as float8) as now")
        after = time.time()
        # Somewhere between the two: a difference that small is no fault of either clock.
        ahead = max(before - row["now"], 0.0) - max(row["now"] - after, 0.0)
        if abs(ahead) <= _SKEW:
            return Finding("machine clock", "ok", "it agrees with the server's")
        what = (
            f"this machine is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} the server"
        )
        remedy = "set it; no lease depends on it, but the times that steps record do"
        return Finding("machine clock", "note", what, remedy)

    async def _sessions(self) -> list[Finding]:
        row = await self._one(
            "select current_user as role, current_setting('statement_timeout') as statement,"
            " current_setting('idle_in_transaction_session_timeout') as transaction,"
            " coalesce(current_setting('idle_session_timeout', true), '0') as idle"
        )
        return list(_timeouts(row, pooled=self._pooled))

    async def _commits(self) -> Finding:
        names = ("fsync", "full_page_writes", "synchronous_commit")
        row = await self._one(
            "select " + ", ".join(f"current_setting('{name}') as {name}" for name in names)
        )
        what = ", ".join(f"{name} = {row[name]}" for name in names)
        if "off" in (row["fsync"], row["full_page_writes"]):
            remedy = "turn both on: a crash of the machine may damage the database"
            return Finding("commits", "note", what, remedy)
        if row["synchronous_commit"] == "off":
            remedy = "set synchronous_commit on for the role: a crash may take the last commits"
            return Finding("commits", "note", what, remedy)
        return Finding("commits", "ok", what)

    async def _connections(self) -> Finding:
        row = await self._one(
            "select count(*) as used, cast(current_setting('max_connections') as integer) as most"
            "  from pg_stat_activity where backend_type = 'client backend'"
        )
        what = f"{row['used']} of {row['most']} in use"
        if row["most"] - row["used"] < _SPARE:
            remedy = "raise max_connections or use a pooler; a process that works keeps up to seven"
            return Finding("connections", "note", what, remedy)
        return Finding("connections", "ok", what)

    # -- the runs

    async def _runs(self) -> list[Finding]:
        clock = "select cast(extract(epoch from statement_timestamp()) * 1000 as bigint) as now"
        now = (await self._one(clock))["now"]
        rows: dict[str, checks.Rows] = {}
        for name, text in checks.statements(_WORDS).items():
            names = compiled(text).names
            given = {key: value for key, value in checks.parameters(now).items() if key in names}
            rows[name] = await self._ask(text, **given)
        return list(checks.Runs(rows, now, checks.UNKNOWN).findings())


def _timeouts(row: Row, *, pooled: bool) -> Iterator[Finding]:
    unset = [
        name
        for name, value in (
            ("statement_timeout", row["statement"]),
            ("idle_in_transaction_session_timeout", row["transaction"]),
        )
        if value == "0"
    ]
    if pooled and unset:
        yield Finding(
            "timeouts",
            "note",
            f"behind a pooler, {' and '.join(unset)} must be the role's, and not set",
            "; ".join(f"alter role {row['role']} set {name} = '12s'" for name in unset),
        )
    elif row["idle"] != "0":
        what = f"the server ends connections that are idle for {row['idle']}; they come back"
        remedy = f"alter role {row['role']} set idle_session_timeout = 0"
        yield Finding("timeouts", "note", what, remedy)
    else:
        yield Finding("timeouts", "ok", "sessions set their own")


def _vacuumed(table: str, row: Row) -> Finding:
    live, dead = row["live"] or 0, row["dead"] or 0
    what = f"{table}: {row['size']}, about {live:,} rows and {dead:,} dead ones"
    if row["neglected"]:
        remedy = "turn autovacuum on: each change of a run leaves a dead row"
        return Finding("tables", "wrong", what, remedy)
    if dead > max(_DEAD, live):
        remedy = f"vacuum (analyze) {table}; end transactions that have been open for long"
        return Finding("tables", "note", what, remedy)
    return Finding("tables", "ok", what)
