"""The worker: claims due runs and executes them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
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
from ..store.records import Claimed
from ..telemetry.logs import announce, count, logger, worker_name
from .context import WorkerContext
from .execution import Execution
from .heartbeat import Heartbeat

HAND_BACK = 5.0  # seconds that an interrupted run has to end before it is handed back without it
_SILENT = 1.0  # seconds of waiting for runs before we say what we wait for
_NAMED = 5  # runs that are named then
_PAUSED = (
    1.0  # seconds beyond a heartbeat after which this process must have been stopped for a while
)
_CLOCK_JUMP = 1.0  # seconds between wall and monotonic clock that count as a jump
_CHORES = 60.0  # seconds between two purges of old runs, and two looks for a clock set back


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """How a worker works; durations in seconds."""

    name: str
    polling_interval: float
    heartbeat_interval: float
    stale_threshold: float
    max_concurrent_runs: int


class Worker:
    """Keeps up to ``max_concurrent_runs`` runs going, of the jobs that it knows."""

    def __init__(
        self,
        context: WorkerContext,
        jobs: Mapping[str, Job[Any, Any]],
        options: WorkerOptions,
        *,
        is_dead: Callable[[str], bool] = lambda _: False,
        chore: Callable[[], Coroutine[Any, Any, Any]] | None = None,
    ) -> None:
        self._context = context
        self._jobs = jobs
        self._options = options
        self._is_dead = is_dead
        self._chore = chore
        self._choring: asyncio.Task[Any] | None = None
        self._runtime, self._store = context.runtime, context.store
        self._executions: dict[str, Execution[Any, Any]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._busy = 0
        self._backlog = True
        self._woken = asyncio.Event()
        self._stopping = self._claiming = False
        self._cancelled: dict[str, int] = {}  # during a claim: the attempt that was cancelled
        self._checking: asyncio.Task[None] | None = None
        self._check_again = False
        self._main: asyncio.Task[None] | None = None
        self._chores_at = self._looked_at = float("-inf")
        self._clock_offset: float | None = None
        self._no_takeover_before = float("-inf")
        self._ran_at: float | None = None
        self._loop = asyncio.get_running_loop()
        self._most: int | None = None  # of the runs that it may take up
        self._heartbeat = Heartbeat(
            self._runtime,
            options.heartbeat_interval,
            self._beat,
            self._beat_failed,
        )
        self.claimed = 0
        """How many runs this worker has taken up."""

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
        self._heartbeat.start()
        context = self._runtime.new_context()
        self._main = asyncio.create_task(self._work(), name="durably-worker", context=context)

    def wake(self) -> None:
        """A run may be due."""
        self._backlog = True
        self._woken.set()

    async def work_until_idle(self, max_runs: int | None = None) -> None:
        """Without ``start``: execute what is due until nothing is, or ``max_runs`` were taken up."""
        self._most = max_runs
        self._heartbeat.start()
        try:
            await self._bury_dead()
            while True:
                more = await self._claim()
                if self._tasks:
                    await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
                elif not more:
                    return
        finally:
            self._heartbeat.stop()

    async def stop(self, grace: float, patience: float = HAND_BACK) -> None:
        """Claim no more, let runs end for ``grace`` seconds, then hand the rest back.

        ``patience``: seconds that what was interrupted has to end; functions in threads may not.
        """
        self._stopping = True
        self._woken.set()
        if self._choring is not None:
            self._choring.cancel()
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
        """Wait for what executes, and say so when that takes a while."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=min(limit, _SILENT))
        if self._tasks and limit > _SILENT:
            self._announce(limit, what_for)
            await asyncio.wait(self._tasks, timeout=limit - _SILENT)

    def _announce(self, limit: float, what_for: str) -> None:
        executions = list(self._executions.values())
        if not executions:
            return
        runs = count(len(executions), "run")
        announce(logger.logger, "waiting up to %g s for %s %s", limit, runs, what_for)
        for execution in executions[:_NAMED]:
            execution.announce()
        if (more := len(executions) - _NAMED) > 0:
            announce(logger.logger, "and %s more", count(more, "run"))

    async def _end_claiming(self) -> None:
        """Wait for what is being claimed. Who cancels this meanwhile is heard: the grace is over, too."""
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
        """See that every run is handed back, though some functions in threads may run on."""
        try:
            if settling := [execution.settled for execution in self._executions.values()]:
                await asyncio.wait(settling, timeout=limit)
        finally:
            for execution in list(self._executions.values()):
                await execution.hand_back()
            if self._checking is not None:
                self._checking.cancel()
            self._heartbeat.stop()

    # -- claiming

    async def _work(self) -> None:
        first = True
        while not self._stopping:
            self._woken.clear()
            try:
                if first:
                    await self._bury_dead()
                    first = False
                if not await self._claim():
                    await self._sleep()
            except (DatabaseReplacedError, ForkedError) as error:
                self._abandon(error)
                return
            except Exception as error:
                if not self._stopping:
                    surprise = None if isinstance(error, StorageError) else error
                    logger.warning("no runs can be claimed: %s", error, exc_info=surprise)
                    self._context.report_error("claim", error, None)
                    self._backlog = True
                    await self._pause()

    async def _claim(self) -> bool:
        """Take what is due into the free slots; True when there is more and room for it."""
        free = self._options.max_concurrent_runs - self._busy
        if self._most is not None:
            free = min(free, self._most - self.claimed)
        if free <= 0 or not self._backlog or not self._jobs:
            return False
        self._backlog = False
        if not self._runtime.threads:  # the loop may have been blocked beyond the next heartbeat:
            self._beat()  # written before the claim, so that our own runs do not look lapsed to us
        lease = round(self._options.stale_threshold * 1000)
        self._claiming = True
        asked_at = self._runtime.monotonic()
        claiming = asyncio.ensure_future(
            self._store.claim(
                list(self._jobs),
                self._options.name,
                self._runtime.now(),
                lease,
                free,
                takeover=self._may_take_over(),
                suspects=not any(e.is_suspect for e in self._executions.values()),
            )
        )
        try:
            claims = await asyncio.shield(claiming)
            self._spawn_all(claims.taken)
        except asyncio.CancelledError:
            # The event loop is shutting down: ``stop`` hands back what was taken.
            self._spawn_all((await claiming).taken)
            raise
        finally:
            self._claiming = False
            self._cancelled.clear()
        self._backlog = self._backlog or claims.more
        heartbeat = self._options.heartbeat_interval
        if claims.late or self._runtime.monotonic() - asked_at > heartbeat:
            self._take_over_nothing_for(heartbeat)  # live workers renew their leases by then
        return self._backlog and self._busy < self._options.max_concurrent_runs

    async def _sleep(self) -> None:
        """Until somebody wakes us, or the next poll finds something due."""
        woken, now = await self._pause(), self._runtime.monotonic()
        if woken and now - self._looked_at < self._options.polling_interval:
            return
        self._looked_at = now
        self.check_leases()
        await self._store.look_after()
        await self._do_chores()
        if woken:
            return
        if self._busy < self._options.max_concurrent_runs and await self._store.any_due(
            list(self._jobs), self._runtime.now()
        ):
            self._backlog = True

    async def _pause(self) -> bool:
        """One polling interval; True when somebody woke us."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._runtime.jitter(self._options.polling_interval)):
                return await self._woken.wait()
        return False

    def _may_take_over(self) -> bool:
        """Not for one lease after the wall clock jumped, after nothing could be written, or after this
        process was stopped, perhaps with all the others: leases only look lapsed then."""
        self._note_that_it_runs()
        offset = self._runtime.now() / 1000 - self._runtime.monotonic()
        if self._clock_offset is not None and abs(offset - self._clock_offset) > _CLOCK_JUMP:
            logger.warning("the clock jumped by %+.1f s", offset - self._clock_offset)
            self._take_over_nothing_for(self._options.stale_threshold)
        self._clock_offset = offset
        trouble_over = self._store.troubled_at + self._options.stale_threshold
        return self._runtime.monotonic() >= max(self._no_takeover_before, trouble_over)

    def _take_over_nothing_for(self, delay: float) -> None:
        until = self._runtime.monotonic() + delay
        self._no_takeover_before = max(self._no_takeover_before, until)

    def _note_that_it_runs(self) -> None:
        """From the loop and from the heartbeat's thread: a blocked loop alone is no stopped process."""
        now, heartbeat = self._runtime.monotonic(), self._options.heartbeat_interval
        if self._ran_at is not None and now - self._ran_at > max(
            1.5 * heartbeat, heartbeat + _PAUSED
        ):
            self._take_over_nothing_for(self._options.stale_threshold)
        self._ran_at = now

    async def _bury_dead(self) -> None:
        """A restart need not wait for the leases of a process that is provably dead."""
        await self._hurry()
        for owner in await self._store.owners(list(self._jobs), self._runtime.now()):
            if owner != self._options.name and self._is_dead(owner):
                expired = await self._store.expire(owner, list(self._jobs), self._runtime.now())
                text = "worker %s is dead; taking over %s"
                logger.info(text, worker_name(owner), count(len(expired), "run"))

    async def _do_chores(self) -> None:
        now = self._runtime.monotonic()
        if now - self._chores_at < _CHORES:
            return
        self._chores_at = now
        await self._hurry()
        if self._chore is not None and (self._choring is None or self._choring.done()):
            # Beside the claims: it may take as long as there is to do.
            self._choring = asyncio.create_task(self._chore(), name="durably-chore")

    async def _hurry(self) -> None:
        """A clock that was set back must not make anybody wait until it is there again."""
        lease = round(10 * self._options.stale_threshold * 1000)
        await self._store.hurry(list(self._jobs), self._runtime.now(), lease)

    # -- executing

    def _spawn_all(self, taken: list[Claimed]) -> None:
        for claimed in taken:
            self._spawn(claimed)
            # A run that was cancelled, retried and then claimed is not the one that was cancelled.
            if self._cancelled.get(claimed.row.id, 0) >= claimed.row.generation:
                self._executions[claimed.row.id].stop(
                    RunCancelled(f"run {claimed.row.id} was cancelled")
                )

    def _spawn(self, claimed: Claimed) -> None:
        job = self._jobs[claimed.row.job]
        execution = Execution(self._context, job, claimed)
        earlier = self._executions.get(execution.run_id)
        if (
            earlier is not None
        ):  # its lease ended, and the claim found it first; what it writes is refused
            earlier.stop(LeaseLost(f"run {execution.run_id} was claimed again by this worker"))
        self._executions[execution.run_id] = execution
        self._busy += 1
        self.claimed += 1
        waited = (claimed.row.updated_at - claimed.row.created_at) / 1000
        self._context.instruments.run_claimed(job.name, waited, resumed=claimed.resumed)
        task = asyncio.create_task(self._execute(execution))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _execute(self, execution: Execution[Any, Any]) -> None:
        try:
            await execution.execute(partial(self._body_done, execution))
        finally:
            if self._executions.get(execution.run_id) is execution:
                del self._executions[execution.run_id]
            if execution.was_suspect:  # the next one's turn
                self.wake()
        if execution.shutdown is not None:
            self._loop.call_soon(_raise, execution.shutdown)

    def _body_done(self, execution: Execution[Any, Any]) -> None:
        """A slot is free before the outcome is written, so that the next claim joins that commit."""
        self._busy -= 1
        self._stopping = self._stopping or execution.shutdown is not None
        if self._backlog:
            self._woken.set()

    def cancelled(self, run_id: str, attempt: int) -> None:
        """An attempt at a run was cancelled: stop it if it executes here."""
        execution = self._executions.get(run_id)
        if execution is not None and execution.attempt == attempt:
            execution.stop(RunCancelled(f"run {run_id} was cancelled"))
        elif self._claiming:  # it may be among what is just being claimed
            self._cancelled[run_id] = attempt

    def check_leases(self) -> None:
        """Another process may have cancelled a run that executes here: stop it now, not at the next
        heartbeat."""
        self._check_again = True
        if self._checking is None and self._executions:
            self._checking = asyncio.create_task(self._check(), name="durably-check")

    async def _check(self) -> None:
        try:
            while self._check_again:
                self._check_again = False
                executions = [e for e in self._executions.values() if e.is_ours]
                leases = [execution.lease for execution in executions]
                gone = await self._store.no_longer_ours(leases) if leases else []
                for execution in executions:
                    if execution.run_id in gone:
                        await self._interrupt(execution)
        except StorageError as error:
            logger.debug("the leases could not be checked; the next heartbeat does: %s", error)
        finally:
            self._checking = None

    # -- leases

    def _beat(self) -> None:
        """Prolong the leases of all that executes here; from any thread."""
        self._note_that_it_runs()
        executions = list(self._executions.values())
        if executions:
            beat = self._runtime.now(), self._runtime.monotonic()
            leases = [execution.lease for execution in executions]
            renewed = partial(self._renewed, executions, beat)
            self._store.renew(leases, beat[0], self._loop, renewed, self._beat_failed)

    def _beat_failed(self, error: Exception) -> None:
        self._context.report_error("heartbeat", error, None)

    def _renewed(
        self, executions: list[Execution[Any, Any]], beat: tuple[int, float], lost: list[str]
    ) -> None:
        for execution in executions:
            if execution.run_id not in lost:
                execution.renewed(*beat)
            elif self._executions.get(execution.run_id) is execution:
                task = asyncio.create_task(self._interrupt(execution))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _interrupt(self, execution: Execution[Any, Any]) -> None:
        if execution.is_ours:
            interrupt = await execution.why_lost()
            execution.stop(interrupt)

    def _abandon(self, error: StorageError) -> None:
        logger.critical("this worker stops: %s", error)
        self._context.report_error("claim", error, None)
        self._heartbeat.stop()
        for execution in list(self._executions.values()):
            execution.stop(LeaseLost(str(error)))


def _raise(error: BaseException) -> None:
    raise error
