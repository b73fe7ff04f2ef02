"""The leases of all runs that execute in one worker: renewed by the heartbeat, checked on demand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any

from ..errors import StorageError
from ..telemetry.logs import logger
from .context import WorkerContext
from .execution import Execution
from .heartbeat import Heartbeat
from .takeover import TakeoverGuard


class Leases:
    """Keeps the leases of ``executions``, and interrupts those that are lost."""

    def __init__(
        self,
        context: WorkerContext,
        executions: Mapping[str, Execution[Any, Any]],
        interval: float,
        takeover: TakeoverGuard,
        spawn: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self._context, self._executions = context, executions
        self._takeover, self._spawn = takeover, spawn
        self._loop = asyncio.get_running_loop()
        self._heartbeat = Heartbeat(context.runtime, interval, self.renew, self._beat_failed)
        self._checking: asyncio.Task[None] | None = None
        self._must_check = False

    def start(self) -> None:
        """Renew the leases at every heartbeat."""
        self._heartbeat.start()

    def stop(self) -> None:
        """Stop renewing and checking."""
        if self._checking is not None:
            self._checking.cancel()
        self._heartbeat.stop()

    # -- renewing

    def renew(self) -> None:
        """Renew the leases of everything that executes here; from any thread."""
        self._takeover.note_running()
        executions = list(self._executions.values())
        if executions:
            runtime = self._context.runtime
            beat = runtime.now(), runtime.monotonic()
            leases = [execution.attempt.lease for execution in executions]
            renewed = partial(self._renewed, executions, beat)
            self._context.store.renew(leases, beat[0], self._loop, renewed, self._beat_failed)

    def _beat_failed(self, error: Exception) -> None:
        self._context.report_error("heartbeat", error, None)

    def _renewed(
        self, executions: list[Execution[Any, Any]], beat: tuple[int, float], lost: list[str]
    ) -> None:
        for execution in executions:
            if execution.run_id not in lost:
                execution.attempt.renewed(*beat)
            elif self._executions.get(execution.run_id) is execution:
                self._spawn(self._interrupt(execution))

    async def _interrupt(self, execution: Execution[Any, Any]) -> None:
        if execution.attempt.is_ours:
            execution.stop(await execution.attempt.why_lost())

    # -- checking

    def check(self) -> None:
        """Stop what another process has cancelled, now and not at the next heartbeat."""
        self._must_check = True
        if self._checking is None and self._executions:
            self._checking = asyncio.create_task(self._check(), name="durably-check")

    async def _check(self) -> None:
        try:
            while self._must_check:
                self._must_check = False
                await self._check_once()
        except StorageError as error:
            logger.debug("the leases could not be checked; the next heartbeat does: %s", error)
        finally:
            self._checking = None

    async def _check_once(self) -> None:
        executions = [e for e in self._executions.values() if e.attempt.is_ours]
        leases = [execution.attempt.lease for execution in executions]
        lost = await self._context.store.no_longer_ours(leases) if leases else []
        for execution in executions:
            if execution.run_id in lost:
                await self._interrupt(execution)
