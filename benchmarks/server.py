"""The PostgreSQL of the columns that need one: one server for all, a database for each measurement."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
from tests.postgres import VARIABLE, Server


class PostgresServer:
    """A server of our own with its defaults, or the one that DURABLY_TEST_DATABASE_URL names."""

    def __init__(self) -> None:
        url = os.environ.get(VARIABLE)
        self._own = None if url else Server(durable=True)
        self._url = url or self._own.url
        self._pid, self.settings = asyncio.run(self._ask())
        self._count = 0

    async def _ask(self) -> tuple[int | None, str]:
        connection = await asyncpg.connect(self._url)
        try:
            told = {
                name: await connection.fetchval(f"show {name}")
                for name in ("server_version", "synchronous_commit", "fsync", "data_directory")
            }
        finally:
            await connection.close()
        lock = Path(told.pop("data_directory")) / "postmaster.pid"
        pid = int(lock.read_text().split()[0]) if lock.exists() else None
        return pid, ", ".join(f"{name} {value}" for name, value in told.items())

    def create(self, template: str | None = None) -> str:
        """A new database, empty or a copy; its URL."""
        self._count += 1
        name = f"durably_bench_{os.getpid()}_{self._count}"
        made = f" template {_name(template)}" if template else ""
        asyncio.run(self._execute(f"create database {name}{made}", "checkpoint"))
        return urlsplit(self._url)._replace(path=f"/{name}").geturl()

    def drop(self, url: str) -> None:
        asyncio.run(self._execute(f"drop database if exists {_name(url)} with (force)"))

    async def _execute(self, *statements: str) -> None:
        connection = await asyncpg.connect(self._url)
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    def cpu_seconds(self) -> float:
        """User and system time of all its processes so far; 0 where they are not ours to see."""
        if self._pid is None:
            return 0.0
        parent = _stat(self._pid)
        children = Path(f"/proc/{self._pid}/task/{self._pid}/children")
        if parent is None or not children.exists():
            return 0.0
        living = (_stat(int(pid)) for pid in children.read_text().split())
        ticks = sum(parent) + sum(sum(stat[:2]) for stat in living if stat)
        return ticks / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        if self._own is not None:
            self._own.close()


def _stat(pid: int) -> list[int] | None:
    """A process's user and system time, and those of its children that are gone, in ticks."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return [int(word) for word in text.rpartition(")")[2].split()[11:15]]


def _name(url: str) -> str:
    return urlsplit(url).path.removeprefix("/")
