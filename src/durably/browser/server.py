"""The instance in the worker, from its start to its end."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from typing import Any, TypedDict, cast

from ..durably import Durably, with_log_persistence
from ..errors import StorageError
from ..runtime import Runtime
from ..store.records import Durability
from ..store.sqlite.store import SQLiteStore
from .jobs import jobs_of
from .port import Page, Port


class Settings(TypedDict, total=False):
    """The settings of the instance that a page may choose; see ``Durably``."""

    durability: Durability
    max_concurrent_runs: int
    polling_interval: float
    heartbeat_interval: float
    stale_threshold: float
    retain_runs: float


class Server:
    """An open instance that answers pages."""

    def __init__(self, durably: Durably) -> None:
        self.durably = durably
        self._handler = durably.handler(errors="full")

    def connect(self, page: Page) -> Port:
        """A port for a page."""
        return Port(self._handler, page)

    @property
    def streams(self) -> int:
        """The number of open streams."""
        return self._handler.streams

    async def stop(self, grace: float = 0) -> None:
        """Let runs end for ``grace`` seconds, release what still runs, close the database."""
        self._handler.close_streams()
        await self.durably.stop(grace)


async def start(database: str, modules: str, settings: str = "{}") -> Server:
    """Open the database, which nothing else may have open, and start to work.

    ``database`` is a path; ``modules`` the names of modules with jobs and ``settings`` a ``Settings``
    (and ``persist_logs``), both as JSON. Raises what ``Durably.init`` raises, and what the modules raise.
    """
    data: dict[str, Any] = json.loads(settings)
    persist_logs = data.pop("persist_logs", True)
    given = cast("Settings", data)
    runtime = Runtime()
    store = SQLiteStore(
        database, runtime, durability=given.get("durability", "full"), exclusive=True
    )
    durably = Durably(database, runtime=runtime, store=store, **given)
    for module in json.loads(modules):
        for job in jobs_of(module):
            durably.register(job)
    if persist_logs:
        durably.use(with_log_persistence())
    await durably.init()
    return Server(durably)


def check_commits(path: str, flushes: Callable[[], int]) -> None:
    """Raise ``StorageError`` unless a commit beside the database reaches the disk.

    ``flushes`` returns how often a file was flushed so far. Where the platform's sync does nothing, SQLite
    loses commits, and nothing else would show it.
    """
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("pragma locking_mode = exclusive")
        connection.execute("pragma journal_mode = wal")
        connection.execute("pragma synchronous = full")
        connection.execute("create table if not exists checks (number integer)")
        before = flushes()
        connection.execute("insert into checks values (1)")
        if flushes() == before:
            raise StorageError(
                "a commit was not flushed to the disk: nothing would be durable here"
            )
        connection.execute("delete from checks")
    finally:
        connection.close()
