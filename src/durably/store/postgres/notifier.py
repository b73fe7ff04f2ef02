"""LISTEN and NOTIFY: processes tell each other at once that something was committed.

A signal says only that there is something to look for, never what. It may be lost with a connection:
then the next poll finds what it announced. Each process sends few, however much it commits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from ...runtime import Runtime
from ...telemetry.logs import logger
from ..base import Notice
from .connection import Server
from .errors import describe

_KINDS = {Notice.JOURNAL: "journal", Notice.DUE: "due", Notice.CANCEL: "cancel"}
_NOTICES = {kind: notice for notice, kind in _KINDS.items()}
DUE_BY_OTHERS = f"{_KINDS[Notice.DUE]} transaction"
"""What a transaction of the user's says when it is committed: this process, too, did not know."""
_PAUSE, _LONG_PAUSE = 0.005, 0.05  # seconds between two signals: of due runs, for watchers alone
_LAST_DELAY = 10.0  # seconds between two attempts to listen
_PROBE = 10.0  # seconds of silence after which the connection is tried
# What a crash of the server takes away, polling finds; so nobody's commit waits for a signal's.
_NOTIFY = "select set_config('synchronous_commit', 'off', true), pg_notify($1, $2)"


class Signals:
    """Sends and hears signals, over one connection."""

    def __init__(
        self,
        server: Server,
        runtime: Runtime,
        on_notify: Callable[[Notice], None],
        *,
        listens: bool,
    ) -> None:
        self._server = server
        self._runtime = runtime
        self._on_notify = on_notify
        self._listens = listens
        self.channel = f"durably_{server.statements.schema}".rstrip("_")
        """Where signals of these tables are sent."""
        self._name = runtime.token()[:16]
        self._unsent: Notice | None = None
        self._urgent = asyncio.Event()
        self._news = asyncio.Event()
        self.is_listening = False
        """Whether signals arrive at the moment."""
        self.received = 0
        """How many did."""
        self._task = asyncio.create_task(self._work(), name="durably-signals")

    def send(self, notice: Notice) -> None:
        """Something was committed. Never waits, never fails."""
        self._unsent = notice if self._unsent is None else max(self._unsent, notice)
        self._news.set()
        if notice is not Notice.JOURNAL:
            self._urgent.set()

    async def close(self) -> None:
        """Say what is left to say, and stop."""
        if self._unsent is not None and self.is_listening:
            await self._runtime.sleep(2 * _PAUSE)
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _work(self) -> None:
        failures = 0
        while True:
            connection: Any = None
            try:
                connection = await self._server.connect()
                if self._listens:
                    await connection.add_listener(self.channel, self._receive)
                    connection.add_termination_listener(self._ended)
                    self.is_listening = True
                    self._count(Notice.CANCEL)  # whatever was sent while nobody listened
                failures = 0
                await self._serve(connection)
            except Exception as error:  # noqa: BLE001 - polling goes on meanwhile
                logger.debug("no signals for a while: %s", describe(error))
            finally:
                self.is_listening = False
                if connection is not None:
                    connection.terminate()
            failures += 1  # full jitter: many lost it at the same moment
            limit = min(_LAST_DELAY, 0.1 * 2 ** min(failures, 10))
            await self._runtime.sleep(self._runtime.random.uniform(0, limit))

    async def _serve(self, connection: Any) -> None:
        while not connection.is_closed():
            try:
                async with asyncio.timeout(_PROBE):
                    await self._news.wait()
            except TimeoutError:
                await connection.execute("select 1")
                continue
            self._news.clear()
            if self._unsent is not None and not connection.is_closed():
                notice, self._unsent = self._unsent, None
                self._urgent.clear()
                await connection.execute(_NOTIFY, self.channel, f"{_KINDS[notice]} {self._name}")
                await (self._rest() if notice is Notice.JOURNAL else self._runtime.sleep(_PAUSE))

    async def _rest(self) -> None:
        """Not too often; but a due run does not wait for the watchers' pause."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_LONG_PAUSE):
                await self._urgent.wait()

    def _ended(self, _connection: Any) -> None:
        self._news.set()

    def _receive(self, _connection: Any, _pid: int, _channel: str, payload: object) -> None:
        kind, _, sender = str(payload).partition(" ")
        if sender != self._name:
            self._count(_NOTICES.get(kind, Notice.DUE))  # of a newer version: look for everything

    def _count(self, notice: Notice) -> None:
        self.received += 1
        self._on_notify(notice)
