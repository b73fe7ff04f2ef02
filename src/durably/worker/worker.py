"""The worker: claims due runs and executes them.

One task claims: it fills the free slots whenever the worker is woken or a poll finds something due. Each
claimed run executes in a task of its own (``execution``). ``leases`` keeps what they hold, ``takeover``
decides whether lapsed leases of other workers count, and ``maintenance`` does the rest, between two polls.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..errors import (
    DatabaseReplacedError,
    ForkedError,
    HandedBack,
    LeaseLost,
    RunCancelled,
    StorageError,
)
from ..jobs.job import Job
from ..store.records import Claimed, Claims
from ..telemetry.logs import announce, count, logger
from .context import WorkerContext
from .execution import Execution
from .leases import Leases
from .maintenance import Maintenance
from .takeover import TakeoverGuard

HAND_BACK = 5.0  # seconds that an interrupted run has to end before it is handed back without it
_QUIET = 1.0  # seconds of waiting for runs before it is announced
_MAX_NAMED = 5  # runs that are named then


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """How a worker works; durations in seconds."""

    name: str
    polling_interval: float
    heartbeat_interval: float
    stale_threshold: float
    max_concurrent_runs: int


class Worker:
    """Executes up to ``max_concurrent_runs`` runs at once, of the jobs that it knows."""

    def __init__(
        self,
        context: WorkerContext,
        jobs: Mapping[str, Job[Any, Any]],
        options: WorkerOptions,
        *,
        is_dead: Callable[[str], bool] = lambda _: False,
        purge: Callable[[], Coroutine[Any, Any, Any]] | None = None,
    ) -> None:
        self._context = context
        self._jobs = jobs
        self._options = options
        self._runtime, self._store = context.runtime, context.store
        self._executions: dict[str, Execution[Any, Any]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._busy = 0
        self._backlog = True
        self._woken = asyncio.Event()
        self._stopping = self._claiming = False
        self._cancelled: dict[str, int] = {}  # during a claim: the attempt that was cancelled
        self._main: asyncio.Task[None] | None = None
        self._polled_at = float("-inf")
        self._loop = asyncio.get_running_loop()
        self._max_runs: int | None = None
        interval, threshold = options.heartbeat_interval, options.stale_threshold
        self._takeover = TakeoverGuard(self._runtime, self._store, interval, threshold)
        self._leases = Leases(context, self._executions, interval, self._takeover, self._spawn)
        self._maintenance = Maintenance(context, jobs, options.name, threshold, is_dead, purge)
        self.claimed = 0
        """How many runs this worker has claimed."""

    @property
    def running(self) -> int:
        """How many runs it executes now."""
        return self._busy

    @property
    def is_idle(self) -> bool:
        """Whether it neither claims nor executes anything, and every outcome is written."""
        return not self._claiming and not self._tasks

    @property
    def is_working(self) -> bool:
        """Whether it claims runs: False also once it had to stop by itself."""
        return self._main is not None and not self._main.done()

    # -- start and stop

    def start(self) -> None:
        """Begin to claim runs."""
        self._leases.start()
        context = self._runtime.new_context()
        self._main = asyncio.create_task(self._work(), name="durably-worker", context=context)

    def wake(self) -> None:
        """Claim as soon as possible: a run may be due."""
        self._backlog = True
        self._woken.set()

    async def work_until_idle(self, max_runs: int | None = None) -> None:
        """Without ``start``: execute what is due until nothing is, or ``max_runs`` were claimed."""
        self._max_runs = max_runs
        self._leases.start()
        try:
            await self._maintenance.expire_dead_workers()
            while True:
                more = await self._claim()
                if self._tasks:
                    await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
                elif not more:
                    return
        finally:
            self._leases.stop()

    async def stop(self, grace: float, patience: float = HAND_BACK) -> None:
        """Claim no more, let runs end for ``grace`` seconds, then hand the rest back.

        ``patience``: seconds that what was interrupted has to end; functions in threads may not.
        """
        self._stopping = True
        self._woken.set()
        self._maintenance.cancel()
        limit = HAND_BACK
        try:
            await self._end_claiming()
            if grace > 0:
                await self._wait(grace, "to end; Ctrl-C hands back what still runs")
            self._interrupt_all()
            limit = 0.0
            await self._wait(patience, "that cannot be interrupted; Ctrl-C leaves now")
        finally:  # cancelling this ends the waiting, not the hand-back
            self._interrupt_all()
            await self._hand_back(limit)

    async def _wait(self, limit: float, what_for: str) -> None:
        """Wait for what executes, and announce it when that takes a while."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=min(limit, _QUIET))
        if self._tasks and limit > _QUIET:
            _announce(list(self._executions.values()), limit, what_for)
            await asyncio.wait(self._tasks, timeout=limit - _QUIET)

    async def _end_claiming(self) -> None:
        """Wait for what is being claimed. Cancelling this ends the grace period, too."""
        task = asyncio.current_task()
        if self._main is None or task is None:
            return
        before = task.cancelling()
        try:
            await self._main
        except asyncio.CancelledError:
            if task.cancelling() > before:
                raise

    def _interrupt_all(self) -> None:
        for execution in list(self._executions.values()):
            execution.stop(HandedBack("this worker is stopping"))

    async def _hand_back(self, limit: float) -> None:
        """Hand back every run that is left, though some functions in threads may run on."""
        try:
            if settling := [execution.settled for execution in self._executions.values()]:
                await asyncio.wait(settling, timeout=limit)
        finally:
            for execution in list(self._executions.values()):
                await execution.hand_back()
            self._leases.stop()

    # -- claiming

    async def _work(self) -> None:
        first = True
        while not self._stopping:
            self._woken.clear()
            try:
                if first:
                    await self._maintenance.expire_dead_workers()
                    first = False
                if not await self._claim():
                    await self._sleep()
            except (DatabaseReplacedError, ForkedError) as error:
                self._abandon(error)
                return
            except Exception as error:
                if not self._stopping:
                    unexpected = None if isinstance(error, StorageError) else error
                    logger.warning("no runs can be claimed: %s", error, exc_info=unexpected)
                    self._context.report_error("claim", error, None)
                    self._backlog = True
                    await self._pause()

    async def _claim(self) -> bool:
        """Take what is due into the free slots; True when more is due and a slot is free for it."""
        free = self._options.max_concurrent_runs - self._busy
        if self._max_runs is not None:
            free = min(free, self._max_runs - self.claimed)
        if free <= 0 or not self._backlog or not self._jobs:
            return False
        self._backlog = False
        if not self._runtime.threads:
            # The loop may have been blocked beyond the next heartbeat: renewed before the claim, our own
            # runs do not look lapsed to us.
            self._leases.renew()
        self._claiming = True
        requested_at = self._runtime.monotonic()
        claiming = asyncio.ensure_future(self._request_claim(free))
        try:
            claims = await asyncio.shield(claiming)
            self._start_all(claims.taken)
        except asyncio.CancelledError:
            # The event loop is shutting down: ``stop`` hands back what was taken.
            self._start_all((await claiming).taken)
            raise
        finally:
            self._claiming = False
            self._cancelled.clear()
        self._backlog = self._backlog or claims.more
        took = self._runtime.monotonic() - requested_at
        if claims.late or took > self._options.heartbeat_interval:
            self._takeover.note_late_claim()
        return self._backlog and self._busy < self._options.max_concurrent_runs

    def _request_claim(self, limit: int) -> Awaitable[Claims]:
        return self._store.claim(
            list(self._jobs),
            self._options.name,
            self._runtime.now(),
            round(self._options.stale_threshold * 1000),
            limit,
            takeover=self._takeover.decide(),
            suspects=not any(e.is_suspect for e in self._executions.values()),
        )

    async def _sleep(self) -> None:
        """Wait until the worker is woken, or the next poll finds something due."""
        woken, now = await self._pause(), self._runtime.monotonic()
        if woken and now - self._polled_at < self._options.polling_interval:
            return
        self._polled_at = now
        self.check_leases()
        await self._store.look_after()
        await self._maintenance.run_if_due()
        if woken:
            return
        if self._busy < self._options.max_concurrent_runs and await self._store.any_due(
            list(self._jobs), self._runtime.now()
        ):
            self._backlog = True

    async def _pause(self) -> bool:
        """Wait for one polling interval; True when the worker was woken."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._runtime.jitter(self._options.polling_interval)):
                return await self._woken.wait()
        return False

    # -- executing

    def _start_all(self, taken: list[Claimed]) -> None:
        for claimed in taken:
            self._start(claimed)
            # A run that was cancelled, retried and then claimed is not the one that was cancelled.
            if self._cancelled.get(claimed.row.id, 0) >= claimed.row.generation:
                self._executions[claimed.row.id].stop(
                    RunCancelled(f"run {claimed.row.id} was cancelled")
                )

    def _start(self, claimed: Claimed) -> None:
        job = self._jobs[claimed.row.job]
        execution = Execution(self._context, job, claimed)
        earlier = self._executions.get(execution.run_id)
        if earlier is not None:
            # Its lease ended, and the claim found it first; what it writes is refused.
            earlier.stop(LeaseLost(f"run {execution.run_id} was claimed again by this worker"))
        self._executions[execution.run_id] = execution
        self._busy += 1
        self.claimed += 1
        waited = (claimed.row.updated_at - claimed.row.created_at) / 1000
        self._context.instruments.run_claimed(job.name, waited, resumed=claimed.resumed)
        self._spawn(self._execute(execution))

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _execute(self, execution: Execution[Any, Any]) -> None:
        try:
            await execution.execute(partial(self._body_ended, execution))
        finally:
            if self._executions.get(execution.run_id) is execution:
                del self._executions[execution.run_id]
            if execution.attempt.was_suspect:  # only one of them executes at a time
                self.wake()
        if execution.shutdown is not None:
            self._loop.call_soon(_raise, execution.shutdown)

    def _body_ended(self, execution: Execution[Any, Any]) -> None:
        """Free the slot before the outcome is written, so that the next claim joins that commit."""
        self._busy -= 1
        self._stopping = self._stopping or execution.shutdown is not None
        if self._backlog:
            self._woken.set()

    def cancel_local(self, run_id: str, attempt: int) -> None:
        """Stop an attempt that was cancelled, if it executes here."""
        execution = self._executions.get(run_id)
        if execution is not None and execution.attempt.number == attempt:
            execution.stop(RunCancelled(f"run {run_id} was cancelled"))
        elif self._claiming:  # it may be among what is just being claimed
            self._cancelled[run_id] = attempt

    def check_leases(self) -> None:
        """Stop what another process has cancelled, now and not at the next heartbeat."""
        self._leases.check()

    def _abandon(self, error: StorageError) -> None:
        logger.critical("this worker stops: %s", error)
        self._context.report_error("claim", error, None)
        self._leases.stop()
        for execution in list(self._executions.values()):
            execution.stop(LeaseLost(str(error)))


def _announce(executions: list[Execution[Any, Any]], limit: float, what_for: str) -> None:
    if not executions:
        return
    runs = count(len(executions), "run")
    announce(logger.logger, "waiting up to %g s for %s %s", limit, runs, what_for)
    for execution in executions[:_MAX_NAMED]:
        execution.announce()
    if (more := len(executions) - _MAX_NAMED) > 0:
        announce(logger.logger, "and %s more", count(more, "run"))


def _raise(error: BaseException) -> None:
    raise error
