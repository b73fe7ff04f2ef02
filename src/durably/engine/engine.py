"""One instance at work: opens and closes the store, the feed and the worker.

``Durably``, ``SyncDurably`` and the HTTP handler are faces of it, and it knows none of them. What there is
only between opening and closing is its ``Session``; its ``Lifecycle`` sees to one of the two at a time.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar
from functools import partial
from typing import Any, Literal

from .. import events
from ..errors import (
    ClosedError,
    ConfigurationError,
    DatabaseReplacedError,
    DurablyError,
    ForkedError,
    StorageError,
)
from ..feed.feed import Feed
from ..feed.listeners import Listeners
from ..jobs.job import Job
from ..lifespan import GRACE
from ..models import Health
from ..options import duration, whole
from ..runtime import Runtime, Seconds
from ..store.base import Store
from ..store.sqlite.notifier import Bell
from ..store.url import without_password
from ..telemetry.logs import logger, worker_name
from ..telemetry.metrics import Metrics
from ..threads import Threads
from ..worker.context import TRANSACTION_STORE, WorkerContext
from ..worker.worker import HAND_BACK, Worker, WorkerOptions
from .lifecycle import Lifecycle
from .options import Options
from .retention import ClockWatch, Retention
from .runs import Runs
from .session import Session

IMPORTING: ContextVar[str | None] = ContextVar("durably_importing", default=None)
"""The module that a command is importing for what it defines."""

STEP_THREADS = 64


class Engine:
    """A store, the jobs that are known, and what executes their runs."""

    def __init__(self, store: Store, database: str, runtime: Runtime, options: Options) -> None:
        self.store, self.runtime, self.options = store, runtime, options
        self.database = without_password(database)
        """Its database without a password, for logs and people."""
        self.jobs: dict[str, Job[Any, Any]] = {}
        self.listeners = Listeners()
        self.times_opened = 0
        self.metrics = Metrics()
        """What this instance has counted."""
        self._context = WorkerContext(
            runtime=runtime,
            store=store,
            has_listeners=self.has_listeners,
            publish=self.publish,
            report_error=self.listeners.report_error,
            instruments=self.metrics,
            max_recoveries=options.max_recoveries,
            max_output=options.max_output_bytes,
            keep_steps=options.preserve_steps,
        )
        self.runs = Runs(self._context, self.jobs, options, self.require_open)
        self._session: Session | None = None
        self._lifecycle = Lifecycle()
        self._until_idle = asyncio.Lock()

    # -- events

    def has_listeners(self, run_id: str) -> bool:
        """Whether anything listens to a run's events in this process."""
        session = self._session
        return self.listeners.has_any or (session is not None and session.feed.follows(run_id))

    def publish(self, event: events.AnyEvent) -> None:
        """Pass an event to subscribers and listeners of this process."""
        if self._session is not None:
            self._session.feed.publish(event)
        self.listeners.emit(event)

    def persist_logs(self) -> None:
        """Keep what jobs log in the journal."""
        self._context.keep_logs = True

    # -- opening

    @property
    def is_open(self) -> bool:
        """Whether it was opened and not closed since."""
        return self._session is not None

    @property
    def session(self) -> Session | None:
        """What there is while it is open; None while it is not."""
        return self._session

    def require_open(self) -> Session:
        """The session, for a caller on its own event loop; else an error that says what to do."""
        session = self._session
        if session is None:
            raise ClosedError("Durably is not open: call init() first, or use 'async with durably'")
        self._check_process()
        if asyncio.get_running_loop() is not session.loop:
            raise ConfigurationError(
                "this Durably was opened on another event loop; open one for each loop, or use "
                "durably.sync() from other threads"
            )
        return session

    def _check_process(self) -> None:
        if self._session is not None and os.getpid() != self._session.pid:
            raise ForkedError(
                f"this Durably was opened by process {self._session.pid} and is used in its fork "
                f"{os.getpid()}; make another Durably there, or open this one after the fork, in each process"
            )

    async def migrate(self) -> None:
        """Open the database and bring its schema up to date."""
        await self._begin(self._migrate)

    async def start(self) -> None:
        """Start the worker; the schema must be up to date."""
        await self._begin(self._start)

    async def init(self) -> None:
        """``migrate()``, then ``start()``."""
        await self._begin(self._init)

    async def _begin(self, opening: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._check_process()
        await self._lifecycle.open(opening)

    async def _init(self) -> None:
        was_open = self.is_open
        await self._migrate()
        try:
            await self._start()
        except BaseException:
            if not was_open:
                await self._end(0)
            raise

    async def _migrate(self) -> None:
        session = await self._open()
        try:
            await self.store.migrate()
            await self._start_retention(session)
        except BaseException:
            await self._end(0)
            raise

    async def _start(self) -> None:
        session = await self._open()
        if session.worker is not None or not self.options.worker:
            return
        await self.store.require_schema()
        self._context.step_threads = self._context.job_threads = None
        await self._start_retention(session)
        session.worker = self._make_worker(session)
        session.worker.start()

    async def _open(self) -> Session:
        if self._session is not None:
            return self.require_open()
        if (module := IMPORTING.get()) is not None:
            raise ConfigurationError(
                f"module {module!r} runs its program while it is imported; put the call, as "
                "asyncio.run(main()), below 'if __name__ == \"__main__\":'"
            )
        try:
            await self.store.open()
        except BaseException:
            await self.store.close()
            raise
        self._until_idle = asyncio.Lock()
        self.times_opened += 1
        session = self._session = self._make_session()
        self.store.on_commit = session.on_commit
        self.store.on_signal = partial(session.on_notify, self.store)
        return session

    def _make_session(self) -> Session:
        pid = os.getpid()
        name = f"{pid}-{self.runtime.token()[:12]}.bell"
        report = self.listeners.report_error
        feed = Feed(self.store, self.runtime, name, self._context.progress, report)
        clock = ClockWatch(self.runtime)
        bell = None
        if self.store.companion is not None:
            bell = Bell(self.store.companion, name, self.runtime)
        session = Session(name, pid, asyncio.get_running_loop(), feed, clock, bell)
        if bell is not None:
            bell.hang(partial(session.on_notify, self.store))
        session.upkeep = asyncio.create_task(
            self._keep_up(session), name="durably-upkeep", context=Context()
        )
        return session

    async def _start_retention(self, session: Session) -> None:
        """Once it is open, before anything is written by this clock."""
        if self.options.retain_runs is None or session.retention is not None:
            return
        session.retention = Retention(
            self.store,
            self.runtime,
            session.clock,
            self.options.retain_runs,
            self.runs.publish_deletion,
            self.listeners.report_error,
        )
        await session.retention.look()

    async def _keep_up(self, session: Session) -> None:
        """Check the database also without a worker: its file may vanish, and the clock may jump."""
        while True:
            await self.runtime.sleep(self.options.polling_interval)
            session.clock.is_steady()
            try:
                await self.store.look_after()
                if session.notifier is not None:
                    session.notifier.look_after()
            except (DatabaseReplacedError, ForkedError, ClosedError) as error:
                logger.critical("%s", error)
                self.listeners.report_error("upkeep", error)
                return
            except (DurablyError, OSError) as error:
                logger.warning("%s cannot be checked: %s", self.database, error)
                self.listeners.report_error("upkeep", error)

    # -- the worker

    def _make_worker(self, session: Session) -> Worker:
        options = self.options
        if self.runtime.threads and self._context.step_threads is None:
            self._context.step_threads = Threads(STEP_THREADS, "durably-step")
            self._context.job_threads = Threads(options.max_concurrent_runs, "durably-job")
        names = ", ".join(self.jobs) or "no jobs yet"
        logger.info("worker %s on %s: %s", worker_name(session.name), self.database, names)
        notifier, retention = session.notifier, session.retention
        return Worker(
            self._context,
            self.jobs,
            WorkerOptions(
                session.name,
                options.polling_interval,
                options.heartbeat_interval,
                options.stale_threshold,
                options.max_concurrent_runs,
            ),
            is_dead=notifier.is_dead if notifier else lambda _: self.store.is_alone,
            purge=None if retention is None else retention.delete,
        )

    def set_worker(self, *, works: bool = True, max_concurrent_runs: int | None = None) -> None:
        """Before ``start``: whether this instance works, whatever it was made with."""
        self.options.worker = works
        if max_concurrent_runs is not None:
            self.options.max_concurrent_runs = whole("max_concurrent_runs", max_concurrent_runs, 1)

    @property
    def is_working(self) -> bool:
        """Whether its worker claims runs. A worker whose database was replaced has stopped by itself."""
        worker = None if self._session is None else self._session.worker
        return worker is not None and worker.is_working

    def wake_worker(self) -> None:
        """Let the worker look for due runs now: a job became known."""
        if self._session is not None and self._session.worker is not None:
            self._session.worker.wake()

    async def run_until_idle(self, max_runs: int | None = None) -> int:
        """Execute whatever is due until nothing is; how many runs that were."""
        if max_runs is not None:
            whole("max_runs", max_runs, 1)
        if self._session is None or self._lifecycle.is_closing:
            await self.migrate()
        async with self._until_idle:
            session = self.require_open()
            if session.worker is not None:
                if max_runs is not None:
                    raise ConfigurationError(
                        "max_runs cannot limit the worker of this instance, which runs already; use an "
                        "instance made with worker=False, or one that is not open"
                    )
                return await self._wait_until_idle(session.worker)
            worker = session.worker = self._make_worker(session)
            try:
                await worker.work_until_idle(max_runs)
            finally:
                session.worker = None
                await worker.stop(0)
            if session.retention is not None:
                await session.retention.delete()
            return worker.claimed

    async def _wait_until_idle(self, worker: Worker) -> int:
        before = worker.claimed
        worker.wake()
        # In this order: what is claimed during the query is not due, and not idle either.
        while await self.store.any_due(list(self.jobs), self.runtime.now()) or not worker.is_idle:
            await self.runtime.sleep(0.02)
        return worker.claimed - before

    # -- closing

    def expect_stop(self) -> None:
        """Prepare for ``stop``, also from a signal's handler: a step that fails from now on is handed
        back, for what it waits for may have been stopped as well."""
        self._context.stopping = True

    async def stop(self, grace: Seconds = GRACE) -> None:
        """Claim no more runs, let the running ones end for ``grace`` seconds, hand the rest back, close."""
        self._check_process()
        try:
            limit = duration("grace", grace)
        except ConfigurationError:
            await self.stop()
            raise
        await self.stop_within(limit)

    async def stop_within(self, grace: float, patience: float = HAND_BACK) -> None:
        """Stop; interrupted runs have ``patience`` seconds to end before they are handed back."""
        await self._lifecycle.close(partial(self._end, grace, patience))

    async def _end(self, grace: float, patience: float = HAND_BACK) -> None:
        worker = None
        if self._session is not None:
            worker, self._session.worker = self._session.worker, None
        self.expect_stop()
        try:
            if worker is not None:
                await worker.stop(grace, patience)
        finally:
            await self._close()
            self._context.stopping = False

    async def _close(self) -> None:
        for threads in (self._context.step_threads, self._context.job_threads):
            if threads is not None:
                threads.close()
        self._context.step_threads = self._context.job_threads = None
        session, self._session = self._session, None
        if session is not None:
            await session.close()
        await self.listeners.wait()
        await self.store.close()

    # -- how it is

    def lends(self) -> bool:
        """Whether the caller is a function of ``step.transaction``, with a connection of its store."""
        return TRANSACTION_STORE.get() is self.store

    async def health(self) -> Health:
        """How this instance is: its database, its worker."""
        database: Literal["ok", "unavailable", "closed"]
        try:
            self.require_open()
            await self.store.end_of_tail()
            database = "unavailable" if self.store.trouble else "ok"
        except ClosedError:
            database = "closed"
        except StorageError:
            database = "unavailable"
        if not self.options.worker:
            return Health(database, "none")
        return Health(database, "working" if self.is_working else "stopped")
