"""Renewing leases from a thread with an event loop and a connection of its own.

Whatever keeps the other loop or the other connections busy, leases are kept. Whatever the error, a
renewal is tried again until it succeeds or the next heartbeat supersedes it; meanwhile ``trouble`` says
why, and nothing more is claimed.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple, TypeVar

from ...runtime import Runtime
from ...state import Status
from ...telemetry.background import BackgroundLogger
from ...telemetry.logs import logger
from ..records import Lease
from .connection import Link, Server
from .errors import Backoff, Trouble, describe, translated

T = TypeVar("T")

_TIMEOUT = 5.0  # seconds for a renewal, a fraction of any sensible lease


class Renewal(NamedTuple):
    """Leases to prolong, and who wants to know which of them are lost, or that it failed."""

    leases: Sequence[Lease]
    now: int
    loop: asyncio.AbstractEventLoop
    renewed: Callable[[list[str]], None]
    failed: Callable[[Exception], None]


class Leases:
    """Prolongs leases."""

    def __init__(self, server: Server, runtime: Runtime) -> None:
        self._server = server
        self._runtime = runtime
        self._pending: Renewal | None = None
        self._news: asyncio.Event
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._task: asyncio.Task[None] | None = None
        self._starting = threading.Lock()
        log = BackgroundLogger(logger, threads=runtime.threads)
        self.trouble = Trouble(runtime.monotonic, "leases cannot be renewed", log)
        """Why the last renewal failed, if it did."""

    def why_not(self, loop: asyncio.AbstractEventLoop) -> str | None:
        """Why what is claimed now could not be renewed, if so. Starts what renews."""
        try:
            self._ensure_started(loop)
        except RuntimeError as error:  # no more threads at the moment
            return describe(error)
        return self.trouble.why

    def renew(self, renewal: Renewal) -> None:
        """From any thread. It replaces a renewal that is still pending."""
        self._ensure_started(renewal.loop)
        self._pending = renewal
        if self._loop is not None:
            with suppress(RuntimeError):  # closed meanwhile
                self._loop.call_soon_threadsafe(self._news.set)

    def _ensure_started(self, loop: asyncio.AbstractEventLoop) -> None:
        with self._starting:
            if self._loop is None and not self._closed:
                self._start(loop)

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._news = asyncio.Event()
        if not self._runtime.threads:
            self._loop = loop
            self._task = loop.create_task(self._work(), name="durably-leases")
            return
        own = asyncio.new_event_loop()
        thread = threading.Thread(target=self._run, args=(own,), name="durably-leases", daemon=True)
        try:
            thread.start()
        except BaseException:
            own.close()
            raise
        self._loop, self._thread = own, thread

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            loop.run_until_complete(self._work())
        finally:
            loop.close()

    async def _work(self) -> None:
        link = Link(self._server)
        while not self._closed:
            await self._news.wait()
            self._news.clear()
            renewal, self._pending = self._pending, None
            if renewal is not None:
                await self._renew(link, renewal)
        await link.close()

    async def _renew(self, link: Link, renewal: Renewal) -> None:
        backoff = Backoff(self._runtime)
        while self._pending is None and not self._closed:
            try:
                async with asyncio.timeout(_TIMEOUT):
                    lost = await self._try(link, renewal)
            except Exception as error:  # noqa: BLE001 - nothing may end this thread
                self.trouble.note(error)
                _call(renewal.loop, renewal.failed, translated(error))
                await backoff.pause(error)
            else:
                self.trouble.clear()
                _call(renewal.loop, renewal.renewed, lost)
                return

    async def _try(self, link: Link, renewal: Renewal) -> list[str]:
        leases = renewal.leases
        params = {
            "now": renewal.now,
            "run_id": [lease.run_id for lease in leases],
            "token": [lease.token for lease in leases],
            "duration": [lease.duration for lease in leases],
        }
        async with link.session() as session, session.transaction():
            rows = await session.fetch("renew_all", params)
        held = {run_id for run_id, status in rows if status == Status.RUNNING}
        return [lease.run_id for lease in leases if lease.run_id not in held]

    async def close(self) -> None:
        """Stop renewing."""
        with self._starting:
            self._closed = True
        if self._loop is None:
            return
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._news.set)
        if self._thread is not None:
            await asyncio.get_running_loop().run_in_executor(None, self._thread.join)
        elif self._task is not None:
            await self._task


def _call(loop: asyncio.AbstractEventLoop, fn: Callable[[T], None], value: T) -> None:
    with suppress(RuntimeError):  # that loop is closed, and with it its waiters
        loop.call_soon_threadsafe(fn, value)
