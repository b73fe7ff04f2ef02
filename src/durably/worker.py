"""The worker: claims due runs and executes them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from .engine import Engine
from .errors import (
    DatabaseReplacedError,
    ForkedError,
    HandedBack,
    LeaseLost,
    RunCancelled,
    StorageError,
)
from .execution import Execution, Released
from .heartbeat import Heartbeat
from .job import Job
from .store.base import Claimed

logger = logging.getLogger("durably")

_HAND_BACK = 5.0  # seconds that an interrupted run has to end before it is handed back without it
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
        engine: Engine,
        jobs: Mapping[str, Job[Any, Any]],
        options: WorkerOptions,
        *,
        is_dead: Callable[[str], bool] = lambda _: False,
        chore: Callable[[], Any] | None = None,
    ) -> None:
        self._engine = engine
        self._jobs = jobs
        self._options = options
        self._is_dead = is_dead
        self._chore = chore
        self._runtime, self._store = engine.runtime, engine.store
        self._executions: dict[str, Execution[Any, Any]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._busy = 0
        self._backlog = True
        self._woken = asyncio.Event()
        self._stopping = self._claiming = False
        self._cancelled: set[str] = set()  # while a claim is under way
        self._main: asyncio.Task[None] | None = None
        self._chores_at = self._looked_at = float("-inf")
        self._clock_offset: float | None = None
        self._no_takeover_before = float("-inf")
        self._loop = asyncio.get_running_loop()
        self._heartbeat = Heartbeat(self._runtime, options.heartbeat_interval, self._beat)
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
        self._main = asyncio.create_task(self._work(), name="durably-worker")

    def wake(self) -> None:
        """A run may be due."""
        self._backlog = True
        self._woken.set()

    async def work_until_idle(self) -> None:
        """Without ``start``: execute what is due until nothing is."""
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

    async def stop(self, grace: float) -> None:
        """Claim no more, let runs end for ``grace`` seconds, then hand the rest back."""
        self._stopping = True
        self._woken.set()
        try:
            await self._end_claiming()
            if self._tasks and grace > 0:
                await asyncio.wait(self._tasks, timeout=grace)
        finally:  # cancelling this ends the grace, not the hand-back
            await self._hand_back()

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

    async def _hand_back(self) -> None:
        for execution in list(self._executions.values()):
            execution.stop(HandedBack("this worker is stopping"))
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_HAND_BACK)
        for execution in list(self._executions.values()):
            logger.warning(
                "run %s does not end when cancelled; it is handed back", execution.run_id
            )
            await execution.settle(Released())
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
                    self._backlog = True
                    await self._pause()

    async def _claim(self) -> bool:
        """Take what is due into the free slots; True when there is more and room for it."""
        free = self._options.max_concurrent_runs - self._busy
        if free <= 0 or not self._backlog or not self._jobs:
            return False
        self._backlog = False
        if not self._runtime.threads:  # the loop may have been blocked beyond the next heartbeat:
            self._beat()  # written before the claim, so that our own runs do not look lapsed to us
        lease = round(self._options.stale_threshold * 1000)
        self._claiming = True
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
        return self._backlog and self._busy < self._options.max_concurrent_runs

    async def _sleep(self) -> None:
        """Until somebody wakes us, or the next poll finds something due."""
        woken, now = await self._pause(), self._runtime.monotonic()
        if woken and now - self._looked_at < self._options.polling_interval:
            return
        self._looked_at = now
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
        """Not for one lease after the wall clock jumped, or after nothing could be written: leases
        only look lapsed then."""
        offset = self._runtime.now() / 1000 - self._runtime.monotonic()
        if self._clock_offset is not None and abs(offset - self._clock_offset) > _CLOCK_JUMP:
            logger.warning("the clock jumped by %+.1f s", offset - self._clock_offset)
            self._no_takeover_before = self._runtime.monotonic() + self._options.stale_threshold
        self._clock_offset = offset
        trouble_over = self._store.troubled_at + self._options.stale_threshold
        return self._runtime.monotonic() >= max(self._no_takeover_before, trouble_over)

    async def _bury_dead(self) -> None:
        """A restart need not wait for the leases of a process that is provably dead."""
        await self._hurry()
        for owner in await self._store.owners(list(self._jobs), self._runtime.now()):
            if owner != self._options.name and self._is_dead(owner):
                expired = await self._store.expire(owner, list(self._jobs), self._runtime.now())
                logger.info("worker %s is dead; its runs are due: %s", owner, expired)

    async def _do_chores(self) -> None:
        now = self._runtime.monotonic()
        if now - self._chores_at < _CHORES:
            return
        self._chores_at = now
        await self._hurry()
        if self._chore is not None:
            await self._chore()

    async def _hurry(self) -> None:
        """A clock that was set back must not make anybody wait until it is there again."""
        lease = round(10 * self._options.stale_threshold * 1000)
        await self._store.hurry(list(self._jobs), self._runtime.now(), lease)

    # -- executing

    def _spawn_all(self, taken: list[Claimed]) -> None:
        for claimed in taken:
            self._spawn(claimed)
            if claimed.row.id in self._cancelled:
                self._executions[claimed.row.id].stop(
                    RunCancelled(f"run {claimed.row.id} was cancelled")
                )

    def _spawn(self, claimed: Claimed) -> None:
        execution = Execution(self._engine, self._jobs[claimed.row.job], claimed)
        self._executions[execution.run_id] = execution
        self._busy += 1
        self.claimed += 1
        if not claimed.resumed:
            waited = (claimed.row.updated_at - claimed.row.created_at) / 1000
            self._engine.metrics.claims[claimed.row.job].observe(waited)
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

    def cancelled(self, run_id: str) -> None:
        """A run was cancelled: stop it if it executes here."""
        if (execution := self._executions.get(run_id)) is not None:
            execution.stop(RunCancelled(f"run {run_id} was cancelled"))
        elif self._claiming:  # it may be among what is just being claimed
            self._cancelled.add(run_id)

    # -- leases

    def _beat(self) -> None:
        """Prolong the leases of all that executes here; from any thread."""
        executions = list(self._executions.values())
        if executions:
            beat = self._runtime.now(), self._runtime.monotonic()
            leases = [execution.lease for execution in executions]
            self._store.renew(leases, beat[0], self._loop, partial(self._renewed, executions, beat))

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
        if execution.interrupt is None and not execution.is_over:
            interrupt = await execution.why_lost()
            execution.stop(interrupt)

    def _abandon(self, error: StorageError) -> None:
        logger.critical("this worker stops: %s", error)
        self._heartbeat.stop()
        for execution in list(self._executions.values()):
            execution.stop(LeaseLost(str(error)))


def _raise(error: BaseException) -> None:
    raise error
