"""The instance: a store, the registered jobs, the feed, a worker."""

# Of overloads the first that matches holds, which is what they are ordered by.
# pyright: reportOverlappingOverload=false

from __future__ import annotations

import asyncio
import os
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import aclosing, nullcontext, suppress
from contextvars import Context, ContextVar
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Protocol, cast, overload

from typing_extensions import Unpack

from . import events
from .engine.retention import ClockWatch, Retention, delete_old
from .errors import (
    ClosedError,
    ConfigurationError,
    DatabaseReplacedError,
    DurablyError,
    ForkedError,
    InvalidInputError,
    JobNotFoundError,
    RunCancelledError,
    RunConflictError,
    RunFailedError,
    RunNotFoundError,
    StorageError,
    WaitTimeoutError,
)
from .feed.feed import Feed
from .feed.listeners import Emitter
from .handle import JobHandle, Registrar, call_for_event, snapshot
from .http.asgi import AsgiApp
from .http.handler import Handler, HandlerOptions
from .http.wsgi import WsgiApp, limits_of_threads
from .jobs.checks import LabelSchema, check_coalesce, check_key, check_labels, check_scope
from .jobs.filter import make_filter
from .jobs.job import (
    NO_INPUT,
    A,
    AsyncJobsTakeAStep,
    AsyncWithDefault,
    InputOptional,
    Job,
    N,
    R,
    SyncWithDefault,
    WrongStep,
    define,
    is_typed_in,
)
from .jobs.step import Step, SyncStep
from .jobs.trigger import Trigger, bad_input, missing_input
from .lifespan import GRACE, Lifespan
from .models import CompletedRun, Disposition, Health, I, LogEntry, O, Progress, Run, StepRecord
from .options import (
    check_leases,
    duration,
    flag,
    one_of,
    optional,
    positive,
    text,
    whole,
)
from .runtime import Runtime, Seconds, milliseconds
from .state import CANCEL, RETRY, Status
from .store.base import Notice, Store
from .store.records import Durability, JournalRow, NewRun, Page, RunFilter, RunRow, Standing
from .store.snapshots import event_of_run, log_from_row, run_from_row, steps_from_rows
from .store.sqlite.notifier import Bell
from .store.url import DatabaseOptions, absolute, store_of, without_password
from .sync import SyncDurably
from .telemetry.logs import logger, worker_name
from .telemetry.metrics import Metrics
from .terminal import Show, open_bar, title_of
from .threads import Threads
from .values.codec import Kept, Unstorable
from .values.text import clean_text, dump_json, load_json
from .worker.attempt import EXECUTING
from .worker.context import TRANSACTION_STORE, WorkerContext
from .worker.worker import HAND_BACK, Worker, WorkerOptions

IMPORTING: ContextVar[str | None] = ContextVar("durably_importing", default=None)
"""The module that a command is importing for what it defines."""

_STEP_THREADS = 64


class Plugin(Protocol):
    """Something that ``durably.use`` installs."""

    def install(self, durably: Durably, /) -> None:
        """Change the instance, before it is started."""
        ...


class Durably(Emitter):
    """Runs jobs in durable steps. Making one does no I/O; ``init()`` or ``async with`` opens it.

    ``database``: a path, ``sqlite:///path``, ``:memory:``, or ``postgresql://user@host/name`` (needs
    ``durably[postgres]``).
    ``jobs``: jobs to register at once, or functions to make jobs of.
    ``polling_interval``: seconds between looks for due runs when nothing wakes the worker.
    ``heartbeat_interval``: seconds between renewals of the leases of running runs.
    ``stale_threshold``: seconds without a heartbeat after which another worker takes a run over.
    ``max_concurrent_runs``: how many runs this instance executes at once.
    ``max_recoveries``: takeovers without a newly committed step before a run fails as poisoned.
    ``durability``: ``"full"`` syncs each commit to the disk; ``"process"`` survives any death of the
    process, and a power loss may take the last commits.
    ``retain_runs``: delete runs that ended longer ago than this; by default they are kept.
    ``preserve_steps``: False to delete the results of a run's steps when it completes, in the same
    transaction; its output, and that the steps were done, are kept.
    ``worker``: False for an instance that only triggers, reads and watches.
    ``max_input_bytes``, ``max_output_bytes``: limits of an input, and of a step's result or an output.
    ``allow_network_fs``: permit a database on a network file system.
    ``schema``: on PostgreSQL, where the tables are; by default where the role's search path leads.
    ``pooled``: on PostgreSQL, ``database`` leads to a pooler in transaction mode. Most are noticed.
    ``listen_url``: on PostgreSQL, a way past such a pooler, for LISTEN; without it there is polling.
    ``labels``: a pydantic model or TypedDict of the labels that there are; a trigger's are checked by it.

    Durations are seconds or ``timedelta``. Raises ``ConfigurationError`` for what cannot work.
    """

    def __init__(
        self,
        database: str | Path,
        *,
        jobs: Iterable[Job[Any, Any] | Callable[..., Any]] = (),
        polling_interval: Seconds = 1.0,
        heartbeat_interval: Seconds = 5.0,
        stale_threshold: Seconds = 30.0,
        max_concurrent_runs: int = 10,
        max_recoveries: int = 5,
        durability: Durability = "full",
        retain_runs: Seconds | None = None,
        preserve_steps: bool = True,
        worker: bool = True,
        max_input_bytes: int = 1_048_576,
        max_output_bytes: int = 16_777_216,
        allow_network_fs: bool = False,
        schema: str = "",
        listen_url: str | None = None,
        pooled: bool = False,
        labels: type[Any] | None = None,
        runtime: Runtime | None = None,
        store: Store | None = None,
    ) -> None:
        super().__init__()
        self.database = absolute(database)
        """Its database: a file by its absolute path, else as it was given."""
        self._runtime = runtime or Runtime()
        one_of("durability", durability, ("full", "process"))
        self.database_options = DatabaseOptions(
            durability,
            flag("allow_network_fs", allow_network_fs),
            text("schema", schema),
            listen_url,
            flag("pooled", pooled),
        )
        """What else was said about it."""
        self._store = store or store_of(database, self._runtime, self.database_options)
        self._options = WorkerOptions(
            name="",  # given when it is opened: a fork may share what is made here
            polling_interval=positive("polling_interval", polling_interval),
            heartbeat_interval=positive("heartbeat_interval", heartbeat_interval),
            stale_threshold=positive("stale_threshold", stale_threshold),
            max_concurrent_runs=whole("max_concurrent_runs", max_concurrent_runs, 1),
        )
        check_leases(self._options.heartbeat_interval, self._options.stale_threshold)
        retain = optional("retain_runs", retain_runs)
        self._retain = None if retain is None else milliseconds(retain)
        self._works = flag("worker", worker)
        self._max_input = whole("max_input_bytes", max_input_bytes, 1)
        self._labels = None if labels is None else LabelSchema(labels)
        self._jobs: dict[str, Job[Any, Any]] = {}
        self._handles: dict[str, JobHandle[Any, Any]] = {}
        self._waiting_jobs: set[str] = set()
        """The jobs that were seen to wait for a run."""
        self._metrics = Metrics()
        self._engine = WorkerContext(
            runtime=self._runtime,
            store=self._store,
            has_listeners=self._is_wanted,
            publish=self._publish,
            report_error=self._raised,
            instruments=self._metrics,
            max_recoveries=whole("max_recoveries", max_recoveries),
            max_output=whole("max_output_bytes", max_output_bytes, 1),
            keep_steps=flag("preserve_steps", preserve_steps),
        )
        self._sync = SyncDurably(self)
        self._feed: Feed | None = None
        self._worker: Worker | None = None
        self._bell: Bell | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._opening: asyncio.Task[None] | None = None
        self._ending: asyncio.Future[None] | None = None
        self._pid = 0
        self.opened = 0
        """How often it was opened."""
        self._until_idle = asyncio.Lock()
        self._clock: ClockWatch | None = None
        self._retention: Retention | None = None
        self._upkeep: asyncio.Task[None] | None = None
        for job in jobs:
            self.register(job)

    # -- jobs, plugins, events

    @overload
    def register(self, job: Job[I, O, N], /) -> JobHandle[I, O, N]: ...
    @overload
    def register(self, job: AsyncWithDefault[A, R], /) -> JobHandle[A, R, InputOptional]: ...
    @overload
    def register(self, job: Callable[[Step, A], Awaitable[R]], /) -> JobHandle[A, R]: ...
    @overload
    def register(self, job: Callable[[Step], Awaitable[R]], /) -> JobHandle[None, R]: ...
    @overload
    def register(self, job: WrongStep, /) -> AsyncJobsTakeAStep: ...
    @overload
    def register(self, job: SyncWithDefault[A, R], /) -> JobHandle[A, R, InputOptional]: ...
    @overload
    def register(self, job: Callable[[SyncStep, A], R], /) -> JobHandle[A, R]: ...
    @overload
    def register(self, job: Callable[[SyncStep], R], /) -> JobHandle[None, R]: ...
    def register(self, job: Any) -> Any:
        """Make a job known here; the handle triggers it. The same job twice is fine.

        In a notebook or an interactive session, a function that was typed there replaces the job of its
        name that was typed there before: a cell may be run again. Runs under way end with the old one.

        A function becomes a job of its own name, as with ``@durably.job``. Raises ``ConfigurationError``
        for another job of a known name, and for what is no job and cannot be one.
        """
        made = cast("Job[Any, Any]", job) if isinstance(job, Job) else self._job_of(job)
        known = self._jobs.get(made.name)
        if known is made:
            return self._handles[made.name]
        if known is None:
            self._handles[made.name] = JobHandle(self, made)
        elif is_typed_in(made) and is_typed_in(known):
            self._handles[made.name].definition = made  # each holder of the handle gets the new job
        else:
            raise ConfigurationError(f"another job is already registered as {made.name!r}")
        self._jobs[made.name] = made
        if self._worker is not None:
            self._worker.wake()
        return self._handles[made.name]

    def _job_of(self, fn: Any) -> Job[Any, Any]:
        if isinstance(fn, JobHandle):
            raise ConfigurationError(
                f"{fn!r} is the handle of a job; pass the job itself, its .definition"
            )
        made = define(None, fn)
        known = self._jobs.get(made.name)
        return made if known is None or known.fn != fn else known

    @overload
    def job(self, name: str | None = None, *, lax: bool = False) -> Registrar: ...
    @overload
    def job(self, fn: AsyncWithDefault[A, R], /) -> JobHandle[A, R, InputOptional]: ...
    @overload
    def job(self, fn: Callable[[Step, A], Awaitable[R]], /) -> JobHandle[A, R]: ...
    @overload
    def job(self, fn: Callable[[Step], Awaitable[R]], /) -> JobHandle[None, R]: ...
    @overload
    def job(self, fn: WrongStep, /) -> AsyncJobsTakeAStep: ...
    @overload
    def job(self, fn: SyncWithDefault[A, R], /) -> JobHandle[A, R, InputOptional]: ...
    @overload
    def job(self, fn: Callable[[SyncStep, A], R], /) -> JobHandle[A, R]: ...
    @overload
    def job(self, fn: Callable[[SyncStep], R], /) -> JobHandle[None, R]: ...
    def job(self, name: Any = None, *, lax: bool = False) -> Any:
        """Make a job of a function and register it: ``@durably.job`` or ``@durably.job("sync-users")``.

        Without a name the job has that of the function, with dashes for underscores. ``lax``: as for
        ``durably.job``.
        """
        registrar = Registrar(self, name if isinstance(name, str) else None, lax=lax)
        if name is None or isinstance(name, str):
            return registrar
        return registrar(cast("Callable[..., Any]", name))

    def get_job(self, name: str) -> JobHandle[Any, Any] | None:
        """The handle of a registered job; None if there is none of that name."""
        return self._handles.get(name)

    @property
    def jobs(self) -> Mapping[str, JobHandle[Any, Any]]:
        """The registered jobs by name."""
        return dict(self._handles)

    def use(self, plugin: Plugin) -> None:
        """Install a plugin, such as ``with_log_persistence()``."""
        plugin.install(self)

    def persist_logs(self) -> None:
        """Keep what jobs log in the journal. ``with_log_persistence()`` calls it."""
        self._engine.keep_logs = True

    def _is_wanted(self, run_id: str) -> bool:
        return bool(self._listeners) or (self._feed is not None and self._feed.follows(run_id))

    def _publish(self, event: events.AnyEvent) -> None:
        if self._feed is not None:
            self._feed.publish(event)
        self._emit(event)

    # -- start and stop

    async def migrate(self) -> None:
        """Open the database and bring its schema up to date."""
        await self._begin(self._migrate)

    async def _migrate(self) -> None:
        await self._open()
        try:
            await self._store.migrate()
            await self._look_at_clock()
        except BaseException:
            await self._end(0)
            raise

    async def _begin(self, opening: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Open, one caller at a time, in a task that ``stop`` can end."""
        self._check_process()
        while (busy := self._opening or self._ending) is not None:
            await asyncio.wait([busy])
        task = self._opening = asyncio.ensure_future(opening())
        caller = asyncio.current_task()
        try:
            await task
        except asyncio.CancelledError:
            if caller is not None and caller.cancelling():
                raise
            raise ClosedError("stop() was called while init() was opening the database") from None
        finally:
            self._opening = None

    def set_worker(self, *, works: bool = True, max_concurrent_runs: int | None = None) -> None:
        """Before ``start``: whether this instance works, whatever it was made with."""
        self._works = works
        if max_concurrent_runs is not None:
            most = whole("max_concurrent_runs", max_concurrent_runs, 1)
            self._options = replace(self._options, max_concurrent_runs=most)

    @property
    def is_open(self) -> bool:
        """Whether it was opened and not closed since."""
        return self._feed is not None

    @property
    def is_working(self) -> bool:
        """Whether its worker claims runs. A worker whose database was replaced has stopped by itself."""
        return self._worker is not None and self._worker.is_working

    async def health(self) -> Health:
        """How this instance is: its database, its worker."""
        database: Literal["ok", "unavailable", "closed"]
        try:
            self._check_loop()
            await self._store.end_of_tail()
            database = "unavailable" if self._store.trouble else "ok"
        except ClosedError:
            database = "closed"
        except StorageError:
            database = "unavailable"
        if not self._works:
            return Health(database, "none")
        return Health(database, "working" if self.is_working else "stopped")

    async def count_runs(self) -> list[tuple[str, str, int]]:
        """How many runs there are, as (job, status, count). Reads all runs: ask every some seconds."""
        self._check_loop()
        return await self._store.count_runs()

    async def queue_ages(self, jobs: Iterable[str] = ()) -> dict[str, float]:
        """Of each registered job, how many seconds its longest due run has waited; 0 for none.

        ``jobs``: further ones, which are not registered here.
        """
        self._check_loop()
        names = list(dict.fromkeys([*self._jobs, *jobs]))
        now = self._runtime.now()
        oldest = await self._store.oldest_due(names, now)
        return {job: (now - oldest.get(job, now)) / 1000 for job in names}

    @property
    def metrics(self) -> Metrics:
        """What this instance has counted."""
        return self._metrics

    @property
    def shown_database(self) -> str:
        """Its database without a password, for logs and people."""
        return without_password(self.database)

    @property
    def runtime(self) -> Runtime:
        """Its time and chance."""
        return self._runtime

    def lends(self) -> bool:
        """Whether the caller is a function of ``step.transaction``, with a connection of its store."""
        return TRANSACTION_STORE.get() is self._store

    @property
    def max_input_bytes(self) -> int:
        """How large a run's input may be."""
        return self._max_input

    async def start(self) -> None:
        """Start the worker. The schema must be up to date: see ``migrate`` and ``init``."""
        await self._begin(self._start)

    async def _start(self) -> None:
        await self._open()
        if self._worker is not None or not self._works:
            return
        await self._store.require_schema()
        self._engine.step_threads = self._engine.job_threads = None
        await self._look_at_clock()
        self._worker = self._make_worker()
        self._worker.start()

    async def _look_at_clock(self) -> None:
        """Once it is open, before anything is written by this clock."""
        if self._retain is None or self._retention is not None:
            return
        assert self._clock is not None
        self._retention = Retention(
            self._store, self._runtime, self._clock, self._retain, self._tell_deleted, self._raised
        )
        await self._retention.look()

    async def init(self) -> None:
        """``migrate()``, then ``start()``."""
        await self._begin(self._init)

    async def _init(self) -> None:
        was_open = self._feed is not None
        await self._migrate()
        try:
            await self._start()
        except BaseException:
            if not was_open:
                await self._end(0)
            raise

    def expect_stop(self) -> None:
        """Say, also from a signal's handler, that ``stop`` will follow: a step that fails from now on is
        handed back, for what it waits for may have been stopped as well."""
        self._engine.stopping = True

    async def stop(self, grace: Seconds = GRACE) -> None:
        """Claim no more runs, let the running ones end for ``grace`` seconds, hand the rest back, close.

        What is handed back another worker takes up at once; ``init()`` opens this instance again.
        Cancelling this ends the grace, not the hand-back. An ``init()`` under way raises ``ClosedError``;
        one that is called meanwhile, and another ``stop()``, wait until this is done.
        Raises ``ConfigurationError`` for a grace that is none, after it stopped all the same.
        """
        self._check_process()
        try:
            limit = duration("grace", grace)
        except ConfigurationError:
            await self.stop()
            raise
        await self._stop(limit)

    async def _stop(self, grace: float, patience: float = HAND_BACK) -> None:
        while (busy := self._opening or self._ending) is not None:
            if self._opening is not None:
                self._opening.cancel()
            await asyncio.wait([busy])
        ending = self._ending = asyncio.get_running_loop().create_future()
        try:
            await self._end(grace, patience)
        finally:
            self._ending = None
            ending.set_result(None)

    async def _end(self, grace: float, patience: float = HAND_BACK) -> None:
        worker, self._worker = self._worker, None
        self.expect_stop()
        try:
            if worker is not None:
                await worker.stop(grace, patience)
        finally:
            await self._close()
            self._engine.stopping = False

    async def _close(self) -> None:
        for threads in (self._engine.step_threads, self._engine.job_threads):
            if threads is not None:
                threads.close()
        self._engine.step_threads = self._engine.job_threads = None
        feed, self._feed = self._feed, None
        if feed is not None:
            await feed.close()
        if self._upkeep is not None:
            self._upkeep.cancel()
            self._upkeep = None
        self._clock = None
        if self._bell is not None:
            self._bell.take_down()
            self._bell = None
        self._retention = None
        await self._reported()
        await self._store.close()
        self._loop = None

    async def __aenter__(self) -> Durably:
        await self.init()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        await self.lifespan().__aexit__(kind)

    async def run_until_idle(self, max_runs: int | None = None) -> int:
        """Execute whatever is due until nothing is; how many runs that were. For scripts and cron.

        Opens and migrates the database if need be, and leaves it open. Runs that other workers hold
        are not waited for. Then ``retain_runs`` is seen to. Of several calls at once each waits for the
        one before, so that no run is counted twice.

        ``max_runs``: take up at most so many, 1 or more. Raises ``ConfigurationError`` for it where a
        worker was started already, which is not limited.
        """
        if max_runs is not None:
            whole("max_runs", max_runs, 1)
        if self._feed is None or self._ending is not None:
            await self.migrate()
        async with self._until_idle:
            if self._worker is not None:
                if max_runs is not None:
                    raise ConfigurationError(
                        "max_runs cannot limit the worker of this instance, which runs already; use an "
                        "instance made with worker=False, or one that is not open"
                    )
                return await self._wait_until_idle(self._worker)
            worker = self._worker = self._make_worker()
            try:
                await worker.work_until_idle(max_runs)
            finally:
                self._worker = None
                await worker.stop(0)
            if self._retention is not None:
                await self._retention.delete()
            return worker.claimed

    async def _wait_until_idle(self, worker: Worker) -> int:
        before = worker.claimed
        worker.wake()
        # In this order: what is claimed while the database is asked is not due, and not idle either.
        while (
            await self._store.any_due(list(self._jobs), self._runtime.now()) or not worker.is_idle
        ):
            await self._runtime.sleep(0.02)
        return worker.claimed - before

    # -- to the outside

    def handler(self, **options: Unpack[HandlerOptions]) -> Handler:
        """The HTTP and SSE protocol without a framework: ``await handler.handle(request)``.

        Options as ``durably.http.Handler``.
        """
        return Handler(self, **options)

    def asgi(
        self, *, base_path: str = "/api/durably", **options: Unpack[HandlerOptions]
    ) -> AsgiApp:
        """An ASGI application that speaks the protocol; mount it in FastAPI, Starlette, Django ...

        ``base_path`` is taken off paths that begin with it, for where nothing mounts it. Served by
        itself, it starts and stops this instance; where no lifespan opens it, as in a serverless
        process, the first request does. Options as ``durably.http.Handler``.
        """
        return AsgiApp(self, Handler(self, **options), base_path)

    def wsgi(
        self, *, base_path: str = "/api/durably", **options: Unpack[HandlerOptions]
    ) -> WsgiApp:
        """A WSGI application that speaks the protocol, for Flask, Django and their like.

        As ``asgi``; the first request opens this instance unless ``durably.sync()`` is open. Each
        stream holds a thread of the server: without ``limits`` there are 12, and 6 of one principal.
        """
        options["limits"] = limits_of_threads(options.get("limits"))
        return WsgiApp(self, Handler(self, **options), base_path)

    def lifespan(self, app: object = None, *, grace: Seconds | None = None) -> Lifespan:
        """``init()`` and ``stop()`` around an application: ``FastAPI(lifespan=durably.lifespan)``.

        ``grace``: seconds that runs have to end when the server stops, as ``lifespan=durably.lifespan(grace=1)``.
        By default 25, and none where a development server reloads the code. A second signal ends it.
        Raises ``ConfigurationError`` for a grace that is not a duration.
        """
        return Lifespan(self.init, self._stop, grace)

    def sync(self) -> SyncDurably:
        """The same for callers that cannot await: ``with durably.sync() as d: d.trigger(...)``."""

        return self._sync

    async def _open(self) -> None:
        if self._feed is not None:
            self._check_loop()
            return
        if (module := IMPORTING.get()) is not None:
            raise ConfigurationError(
                f"module {module!r} runs its program while it is imported; put the call, as "
                "asyncio.run(main()), below 'if __name__ == \"__main__\":'"
            )
        try:
            await self._store.open()
        except BaseException:
            await self._store.close()
            raise
        self._loop = asyncio.get_running_loop()
        self._until_idle = asyncio.Lock()
        self._pid = os.getpid()
        self.opened += 1
        name = f"{self._pid}-{self._runtime.token()[:12]}.bell"
        self._options = replace(self._options, name=name)
        self._feed = Feed(self._store, self._runtime, name, self._engine.progress, self._raised)
        self._clock = ClockWatch(self._runtime)
        if self._store.companion is not None:
            self._bell = Bell(self._store.companion, name, self._runtime)
            self._bell.hang(self._heard)
        self._upkeep = asyncio.create_task(
            self._keep_up(self._clock), name="durably-upkeep", context=Context()
        )
        self._store.on_commit = self._committed
        self._store.on_signal = self._heard

    async def _keep_up(self, clock: ClockWatch) -> None:
        """Also without a worker: what lies beside the file may vanish, and so may the file; and the
        clock may jump."""
        while True:
            await self._runtime.sleep(self._options.polling_interval)
            clock.is_steady()
            try:
                await self._store.look_after()
                if self._bell is not None:
                    self._bell.look_after()
            except (DatabaseReplacedError, ForkedError, ClosedError) as error:
                logger.critical("%s", error)
                self._raised("upkeep", error)
                return
            except (DurablyError, OSError) as error:
                logger.warning("%s cannot be looked after: %s", self.shown_database, error)
                self._raised("upkeep", error)

    def _make_worker(self) -> Worker:
        if self._runtime.threads and self._engine.step_threads is None:
            self._engine.step_threads = Threads(_STEP_THREADS, "durably-step")
            limit = self._options.max_concurrent_runs
            self._engine.job_threads = Threads(limit, "durably-job")
        names = ", ".join(self._jobs) or "no jobs yet"
        logger.info(
            "worker %s on %s: %s", worker_name(self._options.name), self.shown_database, names
        )
        return Worker(
            self._engine,
            self._jobs,
            self._options,
            is_dead=self._bell.is_dead if self._bell else lambda _: self._store.is_alone,
            purge=None if self._retention is None else self._retention.delete,
        )

    def _committed(self, notice: Notice) -> None:
        """After a commit of ours, on the writer's thread."""
        if notice >= Notice.DUE and self._worker is not None and self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._worker.wake)
        if self._bell is not None:
            self._bell.ring(notice)

    def _heard(self, notice: Notice) -> None:
        """Another process rang."""
        self._store.tidy()
        if notice >= Notice.DUE and self._worker is not None:
            self._worker.wake()
        if notice is Notice.CANCEL and self._worker is not None:
            self._worker.check_leases()
        if self._feed is not None:
            self._feed.rung()

    def _check_process(self) -> None:
        if self._feed is not None and os.getpid() != self._pid:
            raise ForkedError(
                f"this Durably was opened by process {self._pid} and is used in its fork {os.getpid()}; "
                "make another Durably there, or open this one after the fork, in each process"
            )

    def _check_loop(self) -> None:
        if self._feed is None:
            raise ClosedError("Durably is not open: call init() first, or use 'async with durably'")
        self._check_process()
        if asyncio.get_running_loop() is not self._loop:
            raise ConfigurationError(
                "this Durably was opened on another event loop; open one for each loop, or use "
                "durably.sync() from other threads"
            )

    # -- runs

    async def get_run(self, run_id: str) -> Run | None:
        """A run with its values as plain JSON; None if there is none. (A handle's is typed.)"""
        row = await self.row(run_id)
        return None if row is None else (await self.snapshots([row], None))[0]

    async def get_runs(
        self,
        *,
        job: str | Sequence[str] = (),
        status: Status | str | Sequence[Status | str] = (),
        labels: Mapping[str, str] | None = None,
        limit: int = 50,
        offset: int = 0,
        cursor: str | None = None,
        scope: str | None = None,
    ) -> list[Run]:
        """Runs that match all that is given, newest first; values as plain JSON.

        ``job`` and ``status`` take one or several. ``limit`` is 1 to 1,000. To page, pass the last
        run's ``.cursor``: new runs and deletions do not shift the pages. ``scope`` confines the list to
        one scope's runs, ``""`` to those without one; None lists all.
        """
        filter = make_filter(job, status, labels, limit, offset, cursor, scope)
        return await self.snapshots(await self.rows(filter), None)

    async def state(self, run_id: str) -> tuple[RunRow, int] | None:
        """A run as it is stored, and the number of its newest line, as of one moment."""
        self._check_loop()
        return await self._store.state(_checked_id(run_id))

    async def standing(self, run_id: str) -> Standing | None:
        """How a run stands, and what may keep it from moving."""
        self._check_loop()
        return await self._store.standing(_checked_id(run_id), self._runtime.now())

    async def last_but_lines(self, run_id: str, newest: int) -> int:
        """The number of a run's newest journal line up to ``newest`` that is no log line."""
        self._check_loop()
        return await self._store.last_but_lines(run_id, newest)

    async def count_steps(self, rows: Sequence[RunRow]) -> list[int]:
        """How many steps of each run are committed. Of runs that never began, nothing is read."""
        self._check_loop()
        begun = [row.id for row in rows if row.generation > 0]
        counts = (
            dict(zip(begun, await self._store.count_steps(begun), strict=True)) if begun else {}
        )
        return [counts.get(row.id, 0) for row in rows]

    async def snapshots(self, rows: Sequence[RunRow], job: Job[I, O] | None) -> list[Run[I, O]]:
        """The runs of rows: with the types of their job, or as plain JSON."""
        counts = await self.count_steps(rows)
        now = self._runtime.now()
        return [snapshot(row, job, now, count) for row, count in zip(rows, counts, strict=True)]

    async def row(self, run_id: str) -> RunRow | None:
        """A run as it is stored, with the newest progress of one that runs here."""
        self._check_loop()
        assert self._feed is not None
        newest = self._feed.with_newest_progress
        row = await self._store.run(_checked_id(run_id))
        return None if row is None else newest(row)

    async def rows(self, filter: RunFilter) -> list[RunRow]:
        """Runs as they are stored, with the newest progress of those that run here."""
        self._check_loop()
        assert self._feed is not None
        newest = self._feed.with_newest_progress
        return [newest(row) for row in await self._store.runs(filter)]

    async def page_of_runs(self, filter: RunFilter, size: int) -> Page[RunRow]:
        """As ``rows``, no more than hold ``size`` bytes together; one at least."""
        self._check_loop()
        assert self._feed is not None
        newest = self._feed.with_newest_progress
        page = await self._store.page_of_runs(filter, size)
        return page._replace(rows=[newest(row) for row in page.rows])

    async def page_of_steps(self, run_id: str, after: int, size: int) -> Page[JournalRow]:
        """A run's steps as they are stored, after a journal number, by pages as ``page_of_runs``."""
        self._check_loop()
        return await self._store.page_of_steps(run_id, after, size)

    async def page_of_logs(
        self, run_id: str, after: int, limit: int, size: int
    ) -> Page[JournalRow]:
        """A run's log lines as they are stored, after a journal number, by pages as ``page_of_runs``."""
        self._check_loop()
        return await self._store.page_of_logs(run_id, after, limit, size)

    async def get_steps(self, run_id: str) -> list[StepRecord]:
        """The completed steps of a run and those that failed, in order."""
        if await self.row(run_id) is None:
            raise RunNotFoundError(run_id)
        return steps_from_rows(await self._store.steps(run_id))

    async def get_logs(self, run_id: str, *, after: int = 0, limit: int = 1000) -> list[LogEntry]:
        """The kept log lines of a run, oldest first; needs ``use(with_log_persistence())``."""
        after, limit = whole("after", after), whole("limit", limit, 1)
        if await self.row(run_id) is None:
            raise RunNotFoundError(run_id)
        return [log_from_row(row) for row in await self._store.logs(run_id, after, limit)]

    def subscribe(self, run_id: str, after: int = 0) -> AsyncGenerator[events.AnyEvent, None]:
        """A run's events: its journal after number ``after``, then live, until it is over.

        Works whichever process executes the run. Journaled events come exactly once, in order.
        """
        self._check_loop()
        assert self._feed is not None
        return self._feed.subscribe(_checked_id(run_id), whole("after", after))

    def subscribe_runs(
        self,
        *,
        job: str | Sequence[str] = (),
        labels: Mapping[str, str] | None = None,
        scope: str | None = None,
    ) -> AsyncGenerator[events.AnyEvent | events.Resync, None]:
        """The events of all runs that match, from now on, whichever process executes them.

        For lists of runs: events come without inputs and outputs. An
        ``events.Resync`` says that some were missed, so that the list should be read again.
        """
        return self.follow_runs(make_filter(job, (), labels, 1, 0, None, scope))

    def follow_run(self, run_id: str, after: int) -> AsyncGenerator[events.AnyEvent, None]:
        """As ``subscribe``, for one who was away: the last progress is told before the end too."""
        self._check_loop()
        assert self._feed is not None
        return self._feed.subscribe(run_id, after, came_back=True)

    def follow_runs(
        self, filter: RunFilter
    ) -> AsyncGenerator[events.AnyEvent | events.Resync, None]:
        """As ``subscribe_runs``, by a filter."""
        self._check_loop()
        assert self._feed is not None
        return self._feed.subscribe_runs(filter.lets_through)

    async def wait(
        self,
        run: Run[I, O] | str,
        timeout: Seconds | None = None,
        *,
        on_progress: Callable[[Progress], object] | None = None,
        on_log: Callable[[events.LogWrite], object] | None = None,
    ) -> CompletedRun[I, O]:
        """The run once it is completed, whichever process executes it.

        Given a ``Run``, its values have the job's types; given an id, they are plain JSON. Until then
        ``on_progress`` is called with each ``Progress``, and ``on_log`` with each ``events.LogWrite``,
        kept lines of before included. Raises ``RunFailedError``, ``RunCancelledError`` or
        ``WaitTimeoutError``, each with ``.run``, and what the two raise.
        """
        self._check_loop()
        feed = self._feed  # a stop meanwhile takes it from us
        assert feed is not None
        run_id = run.id if isinstance(run, Run) else _checked_id(run)
        self._warn_of_wait(run_id)
        job = self._jobs.get(run.job) if isinstance(run, Run) else None
        limit = optional("timeout", timeout)
        clock = asyncio.timeout(limit)
        try:
            async with clock:
                if on_progress is not None or on_log is not None:
                    async with aclosing(self.follow_run(run_id, 0)) as stream:
                        async for event in stream:
                            call_for_event(event, on_progress, on_log)
                row, steps_done = await feed.finished(run_id)
        except TimeoutError:
            if not clock.expired():
                raise
            now = await self._store.run(run_id)
            if now is None:
                raise RunNotFoundError(run_id) from None
            if not Status(now.status).is_final:
                late = f"run {run_id} is still {now.status} after {limit:g} s"
                raise WaitTimeoutError(late, (await self.snapshots([now], job))[0]) from None
            row, (steps_done,) = now, await self.count_steps([now])
        done = snapshot(row, job, self._runtime.now(), steps_done)
        if row.status == Status.FAILED:
            raise RunFailedError(f"run {run_id} ({row.job}) failed: {done.error}", done)
        if row.status == Status.CANCELLED:
            raise RunCancelledError(f"run {run_id} ({row.job}) was cancelled", done)
        assert isinstance(done, CompletedRun)
        return done

    async def follow(
        self,
        run: Run[I, O] | str,
        timeout: Seconds | None = None,
        *,
        show: Show | None = None,
    ) -> CompletedRun[I, O]:
        """``wait``, with a progress bar on the terminal or under the cell of a notebook.

        ``show`` draws instead: it is called with each ``Progress``. Raises as ``wait``.
        """
        with nullcontext(show) if show else open_bar(title_of(run)) as draw:
            return await self.wait(run, timeout, on_progress=draw)

    def _warn_of_wait(self, run_id: str) -> None:
        """Once for each job: a run that waits for another keeps its slot from it."""
        attempt = EXECUTING.get()
        if attempt is None or not attempt.is_ours or attempt.job_name in self._waiting_jobs:
            return
        self._waiting_jobs.add(attempt.job_name)
        most = self._options.max_concurrent_runs
        logger.warning(
            "run %s (%s) waits for run %s within its job: it holds one of %d slots (max_concurrent_runs) "
            "meanwhile, and when all slots wait, nothing runs; trigger without waiting, or wait outside "
            "of the job", attempt.run_id, attempt.job_name, run_id, most,
        )  # fmt: skip

    async def retry(self, run_id: str) -> Run:
        """Resume a failed or cancelled run from its checkpoints: the same run, pending again."""
        self._check_loop()
        row, seq = await self._store.move(_checked_id(run_id), RETRY, self._runtime.now())
        self._tell(events.RunRetry, row, row.updated_at, seq)
        return (await self.snapshots([row], None))[0]

    async def retrigger(self, run_id: str) -> Run:
        """Start over: a new run of the same input, labels, concurrency key and scope, nothing reused.

        Raises ``InvalidInputError`` where its input or its labels do not fit any more.
        """
        row = await self.row(run_id)
        if row is None:
            raise RunNotFoundError(run_id)
        if not Status(row.status).is_final:
            raise RunConflictError(run_id, "retrigger", row.status)
        job = self._jobs.get(row.job)
        if job is None:
            raise JobNotFoundError(f"job {row.job!r} of run {run_id} is not registered here")
        try:
            job.input.decode(row.input)
        except Unstorable as problem:
            raise bad_input(job, problem) from None
        try:
            self._check_schema_of(load_json(row.labels))
        except InvalidInputError as error:
            raise InvalidInputError(f"run {run_id} cannot be started over: {error}") from None
        new = NewRun(
            self._runtime.run_id(),
            row.job,
            row.input,
            row.labels,
            None,
            row.concurrency_key,
            row.scope,
        )
        return run_from_row((await self.enqueue([new]))[0][0])

    async def cancel(self, run_id: str) -> Run:
        """Stop a run that is not over. A running async step is cancelled, here at once and in another
        process by its next heartbeat; what the step comes to is not kept."""
        self._check_loop()
        row, seq = await self._store.move(_checked_id(run_id), CANCEL, self._runtime.now())
        if self._worker is not None:
            self._worker.cancel_local(run_id, row.generation)
        self._tell(events.RunCancel, row, row.updated_at, seq)
        return (await self.snapshots([row], None))[0]

    async def delete_run(self, run_id: str) -> None:
        """Delete a run that is over, with all that was kept of it."""
        self._check_loop()
        row = await self._store.delete(_checked_id(run_id), self._runtime.now())
        if row is not None:
            self._tell(events.RunDelete, row, self._runtime.now())

    async def purge_runs(self, *, older_than: Seconds, limit: int | None = None) -> int:
        """Delete the runs that ended longer ago than ``older_than``; how many they were.

        ``limit``: at most so many, 1 or more; those that ended first. Nothing is deleted, with a warning
        in the log, for an hour after this process's clock has jumped: it may be wrong.
        """
        self._check_loop()
        assert self._clock is not None
        age = milliseconds(duration("older_than", older_than))
        if limit is not None:
            whole("limit", limit, 1)
        if not self._clock.is_steady():
            logger.warning("purge_runs deletes nothing: the clock jumped less than an hour ago")
        return await delete_old(
            self._store, self._runtime, age, self._tell_deleted, self._clock.is_steady, limit=limit
        )

    def _tell_deleted(self, row: RunRow, at: int) -> None:
        self._tell(events.RunDelete, row, at)

    async def enqueue(
        self, new: Sequence[NewRun], connection: Any = None
    ) -> list[tuple[RunRow, Disposition]]:
        """Store checked runs and tell of them; each row, and what its trigger came to.

        Within the transaction of a ``connection``, nothing is told: whether they come to be is open.
        """
        self._check_loop()
        if connection is not None:
            within = await self._store.enqueue_within(connection, new, self._runtime.now())
            return [_told(run, *made) for run, made in zip(new, within, strict=True)]
        if self._worker is not None:
            self._worker.wake()  # already: an idle worker's claim then joins the same commit
        enqueued = await self._store.enqueue(new, self._runtime.now())
        done = [_told(run, *made) for run, made in zip(new, enqueued, strict=True)]
        for run, (row, disposition) in zip(new, done, strict=True):
            if disposition != "idempotent" and self._is_wanted(row.id):
                self._tell_enqueued(run, row, disposition)
        return done

    def _tell_enqueued(self, new: NewRun, row: RunRow, disposition: Disposition) -> None:
        if disposition == "created":
            self._tell(events.RunTrigger, row, row.created_at, 1, input=load_json(row.input))
        else:
            skipped = {
                "skipped_input": load_json(new.input),
                "skipped_labels": load_json(new.labels),
            }
            self._tell(events.RunCoalesced, row, self._runtime.now(), **skipped)

    def _tell(
        self,
        kind: Callable[..., events.AnyEvent],
        row: RunRow,
        at: int,
        seq: int | None = None,
        **what: Any,
    ) -> None:
        if self._is_wanted(row.id):
            self._publish(event_of_run(kind, row, at, seq, **what))

    def _check_schema_of(self, labels: Mapping[str, str]) -> None:
        if labels and self._labels is not None:
            self._labels.check(labels)

    def new_run(self, job: Job[I, Any], item: Trigger[I]) -> NewRun:
        """Check an input and its options; nothing is stored yet."""
        if item.input is NO_INPUT and job.default is not None:
            input = job.default
        elif item.input is NO_INPUT and job.takes_input:
            raise missing_input(job, "pass one, or give the parameter a default")
        else:
            try:
                kept: Kept[I] = job.input.accept(None if item.input is NO_INPUT else item.input)
            except Unstorable as problem:
                raise bad_input(job, problem) from None
            input = kept.text
        if len(input) > self._max_input:
            raise InvalidInputError(
                f"the input of job {job.name!r} has {len(input):,} bytes, over the limit of "
                f"{self._max_input:,} (max_input_bytes); keep it elsewhere and pass a reference to it"
            )
        labels = check_labels(item.labels) if item.labels else {}
        self._check_schema_of(labels)
        return NewRun(
            self._runtime.run_id(),
            job.name,
            input,
            dump_json(labels) if labels else "{}",
            check_key("idempotency_key", item.idempotency_key),
            check_key("concurrency_key", item.concurrency_key),
            check_scope(item.scope),
            check_coalesce(item.coalesce, item.concurrency_key),
        )


def _told(new: NewRun, row: RunRow, created: bool) -> tuple[RunRow, Disposition]:
    """What a trigger came to: a run that is not new has its idempotency key, or waits already."""
    if created:
        return row, "created"
    known = new.idempotency_key is not None and new.idempotency_key == row.idempotency_key
    return row, "idempotent" if known else "coalesced"


def _checked_id(run_id: Any) -> str:
    """A run's id. A text that cannot be one is made one that no run has: there is no such run."""
    return clean_text(text("run_id", run_id), 255)
