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
    """What the page may say about the instance; see ``Durably``."""

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
        """How many streams are open."""
        return self._handler.streams

    async def stop(self, grace: float = 0) -> None:
        """Let runs end for ``grace`` seconds, hand back what still runs, close the database."""
        self._handler.close_streams()
        await self.durably.stop(grace)


async def start(database: str, modules: str, settings: str = "{}") -> Server:
    """Open the database, which nobody else may have open, and begin to work.

    ``database`` is a path; ``modules`` the names of modules with jobs and ``settings`` a ``Settings``
    (and ``persist_logs``), both as JSON. Raises what ``Durably.init`` raises, and what the modules raise.
    """
    said: dict[str, Any] = json.loads(settings)
    persist_logs = said.pop("persist_logs", True)
    given = cast("Settings", said)
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
    """``StorageError`` unless a commit beside the database reaches the disk.

    ``flushes`` tells how often a file was flushed so far. SQLite on a platform whose sync does nothing
    is as quick as it is forgetful, and nothing else would show it.
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
                "a commit was not flushed to the disk; nothing would be durable here"
            )
        connection.execute("delete from checks")
    finally:
        connection.close()
