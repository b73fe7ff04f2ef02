"""PgBouncer before a PostgreSQL, in transaction mode: each transaction may get another session."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from tests import debian, postgres
from tests.ports import free_port

_PATIENCE = 60.0  # seconds for a start
_SETTINGS = """
[databases]
* = host={host} port={port} user={user}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {own_port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 4
max_client_conn = 200
logfile = {folder}/log
{more}
"""


@contextlib.contextmanager
def pooler(url: str, **settings: object) -> Iterator[str]:
    """The database's URL through a pooler, for the length of a block; its settings as in pgbouncer.ini."""
    program = debian.program("pgbouncer", "usr/sbin/pgbouncer")
    parts, own_port = urlsplit(url), free_port()
    folder = Path(tempfile.mkdtemp(prefix="durably-pooler-"))
    file = folder / "pgbouncer.ini"
    more = "\n".join(f"{name} = {value}" for name, value in settings.items())
    file.write_text(
        _SETTINGS.format(
            host=parts.hostname, port=parts.port or 5432, user=parts.username, own_port=own_port,
            folder=folder, more=more,
        )
    )  # fmt: skip
    through = urlunsplit(parts._replace(netloc=f"{parts.username}@127.0.0.1:{own_port}"))
    environment = {**os.environ, **program.env}
    process = subprocess.Popen(
        [program.path, file],
        env=environment,
        cwd=folder,
        stderr=subprocess.DEVNULL,
        **_user(folder),
    )
    try:
        _await(through, process, folder / "log")
        yield through
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _user(folder: Path) -> dict[str, object]:
    """PgBouncer, as PostgreSQL, refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _await(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    async def ask() -> None:
        connection = await asyncpg.connect(url, timeout=5, statement_cache_size=0)
        await connection.close()

    end = time.monotonic() + _PATIENCE
    while True:
        assert process.poll() is None, f"PgBouncer ended: {log.read_text() if log.exists() else ''}"
        try:
            return postgres.run(ask())
        except (OSError, asyncpg.PostgresError):
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.05)
