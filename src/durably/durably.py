"""The instance: a store, the registered jobs, the feed, a worker."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Protocol

from typing_extensions import Unpack

from . import events
from .bell import Bell
from .codec import Kept, Unstorable, dump_json
from .databases import DatabaseOptions, store_of, without_password
from .emitter import Emitter
from .engine import Engine
from .errors import (
    ClosedError,
    ConfigurationError,
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
from .feed import Feed
from .handle import (
    JobHandle,
    Registrar,
    Trigger,
    bad_input,
    check_key,
    check_labels,
    check_scope,
    make_filter,
    snapshot,
)
from .http.asgi import AsgiApp
from .http.handler import Handler, HandlerOptions
from .http.wsgi import WsgiApp
from .job import Job
from .metrics import Metrics
from .models import (
    Health,
    I,
    LogEntry,
    O,
    Run,
    RunRow,
    StepRecord,
    log_from_row,
    run_from_row,
    step_from_row,
)
from .options import check_options, one_of, positive
from .runtime import Runtime, Seconds, milliseconds, seconds, to_datetime
from .state import CANCEL, RETRY, Status
from .store.base import Durability, NewRun, RunFilter, Store
from .sync import SyncDurably
from .threads import Threads
from .worker import Worker, WorkerOptions

logger = logging.getLogger("durably")

_STEP_THREADS = 64
_GRACE = 25.0  # seconds


class Plugin(Protocol):
    """Something that ``durably.use`` installs."""

    def install(self, durably: Durably, /) -> None:
        """Change the instance, before it is started."""
        ...


class Durably(Emitter):
    """Runs jobs in durable steps. Making one does no I/O; ``init()`` or ``async with`` opens it.

    ``database``: a path, ``sqlite:///path``, ``:memory:``, or ``postgresql://user@host/name`` (needs
    ``durably[postgres]``).
    ``jobs``: jobs to register at once.
    ``polling_interval``: seconds between looks for due runs when nothing wakes the worker.
    ``heartbeat_interval``: seconds between renewals of the leases of running runs.
    ``stale_threshold``: seconds without a heartbeat after which another worker takes a run over.
    ``max_concurrent_runs``: how many runs this instance executes at once.
    ``max_recoveries``: takeovers without a newly committed step before a run fails as poisoned.
    ``durability``: ``"full"`` syncs each commit to the disk; ``"process"`` survives any death of the
    process, and a power loss may take the last commits.
    ``retain_runs``: delete runs that ended longer ago than this; by default they are kept.
    ``worker``: False for an instance that only triggers, reads and watches.
    ``max_input_bytes``, ``max_output_bytes``: limits of an input, and of a step's result or an output.
    ``allow_network_fs``: permit a database on a network file system.
    ``schema``: on PostgreSQL, where the tables are; by default where the role's search path leads.
    ``pooled``: on PostgreSQL, ``database`` leads to a pooler in transaction mode. Most are noticed.
    ``listen_url``: on PostgreSQL, a way past such a pooler, for LISTEN; without it there is polling.

    Durations are seconds or ``timedelta``. Raises ``ConfigurationError`` for what cannot work.
    """

    def __init__(
        self,
        database: str | Path,
        *,
        jobs: Iterable[Job[Any, Any]] = (),
        polling_interval: Seconds = 1.0,
        heartbeat_interval: Seconds = 5.0,
        stale_threshold: Seconds = 30.0,
        max_concurrent_runs: int = 10,
        max_recoveries: int = 5,
        durability: Durability = "full",
        retain_runs: Seconds | None = None,
        worker: bool = True,
        max_input_bytes: int = 1_048_576,
        max_output_bytes: int = 16_777_216,
        allow_network_fs: bool = False,
        schema: str = "",
        listen_url: str | None = None,
        pooled: bool = False,
        runtime: Runtime | None = None,
        store: Store | None = None,
    ) -> None:
        super().__init__()
        self.database = str(database)
        """Its database, as it was given."""
        self._runtime = runtime or Runtime()
        one_of("durability", durability, ("full", "process"))
        self.database_options = DatabaseOptions(
            durability, allow_network_fs, schema, listen_url, pooled
        )
        """What else was said about it."""
        self._store = store or store_of(database, self._runtime, self.database_options)
        name = f"{os.getpid()}-{self._runtime.token()[:12]}.bell"
        self._options = WorkerOptions(
            name=name,
            polling_interval=positive("polling_interval", polling_interval),
            heartbeat_interval=positive("heartbeat_interval", heartbeat_interval),
            stale_threshold=positive("stale_threshold", stale_threshold),
            max_concurrent_runs=max_concurrent_runs,
        )
        check_options(self._options, max_recoveries)
        self._retain = None if retain_runs is None else milliseconds(retain_runs)
        self._works = worker
        self._max_input = max_input_bytes
        self._jobs: dict[str, Job[Any, Any]] = {}
        self._handles: dict[str, JobHandle[Any, Any]] = {}
        self._engine = Engine(
            runtime=self._runtime,
            store=self._store,
            wanted=self._is_wanted,
            publish=self._publish,
            metrics=Metrics(),
            max_recoveries=max_recoveries,
            max_output=max_output_bytes,
        )
        self._sync = SyncDurably(self)
        self._feed: Feed | None = None
        self._worker: Worker | None = None
        self._bell: Bell | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = 0
        for job in jobs:
            self.register(job)

    # -- jobs, plugins, events

    def register(self, job: Job[I, O]) -> JobHandle[I, O]:
        """Make a job known here; the handle triggers it. The same job twice is fine."""
        known = self._jobs.get(job.name)
        if known is not None and known is not job:
            raise ConfigurationError(f"another job is already registered as {job.name!r}")
        if known is None:
            self._jobs[job.name] = job
            self._handles[job.name] = JobHandle(self, job)
            if self._worker is not None:
                self._worker.wake()
        return self._handles[job.name]

    def job(self, name: str) -> Registrar:
        """Make a job of a function and register it: ``@durably.job("sync-users")``."""
        return Registrar(self, name)

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
        await self._open()
        try:
            await self._store.migrate()
        except BaseException:
            await self.stop(0)
            raise

    def set_worker(self, *, works: bool = True, max_concurrent_runs: int | None = None) -> None:
        """Before ``start``: whether this instance works, whatever it was made with."""
        self._works = works
        if max_concurrent_runs is not None:
            self._options = replace(self._options, max_concurrent_runs=max_concurrent_runs)

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

    async def queue_ages(self) -> dict[str, float]:
        """Of each registered job, how many seconds its longest due run has waited; 0 for none."""
        self._check_loop()
        now = self._runtime.now()
        oldest = await self._store.oldest_due(list(self._jobs), now)
        return {job: (now - oldest.get(job, now)) / 1000 for job in self._jobs}

    @property
    def metrics(self) -> Metrics:
        """What this instance has counted."""
        return self._engine.metrics

    @property
    def shown_database(self) -> str:
        """Its database without a password, for logs and people."""
        return without_password(self.database)

    @property
    def runtime(self) -> Runtime:
        """Its time and chance."""
        return self._runtime

    @property
    def max_input_bytes(self) -> int:
        """How large a run's input may be."""
        return self._max_input

    async def start(self) -> None:
        """Start the worker. The schema must be up to date: see ``migrate`` and ``init``."""
        await self._open()
        if self._worker is not None or not self._works:
            return
        await self._store.require_schema()
        self._engine.step_threads = self._engine.job_threads = None
        self._worker = self._make_worker()
        self._worker.start()

    async def init(self) -> None:
        """``migrate()``, then ``start()``."""
        await self.migrate()
        await self.start()

    async def stop(self, grace: Seconds = _GRACE) -> None:
        """Claim no more runs, let the running ones end for ``grace`` seconds, hand the rest back, close.

        What is handed back another worker takes up at once; ``init()`` opens this instance again.
        Cancelling this ends the grace, not the hand-back.
        """
        worker, self._worker = self._worker, None
        try:
            if worker is not None:
                await worker.stop(seconds(grace))
        finally:
            await self._close()

    async def _close(self) -> None:
        for threads in (self._engine.step_threads, self._engine.job_threads):
            if threads is not None:
                threads.close()
        self._engine.step_threads = self._engine.job_threads = None
        feed, self._feed = self._feed, None
        if feed is not None:
            await feed.close()
        if self._bell is not None:
            self._bell.take_down()
            self._bell = None
        await self._reported()
        await self._store.close()
        self._loop = None

    async def __aenter__(self) -> Durably:
        await self.init()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # Ctrl-C and cancellation want out now: what runs is handed back rather than waited for.
        hurry = kind is not None and not issubclass(kind, Exception)
        await self.stop(0 if hurry else _GRACE)

    async def run_until_idle(self) -> int:
        """Execute whatever is due until nothing is; how many runs that were. For scripts and cron.

        Opens and migrates the database if need be, and leaves it open. Runs that other workers hold
        are not waited for.
        """
        if self._feed is None:
            await self.migrate()
        if self._worker is not None:
            return await self._wait_until_idle(self._worker)
        worker = self._worker = self._make_worker()
        try:
            await worker.work_until_idle()
        finally:
            self._worker = None
            await worker.stop(0)
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
        itself, it starts and stops this instance. Options as ``durably.http.Handler``.
        """
        return AsgiApp(self, Handler(self, **options), base_path)

    def wsgi(
        self, *, base_path: str = "/api/durably", **options: Unpack[HandlerOptions]
    ) -> WsgiApp:
        """A WSGI application that speaks the protocol, for Flask, Django and their like.

        As ``asgi``; the first request opens this instance unless ``durably.sync()`` is open.
        """
        return WsgiApp(self, Handler(self, **options), base_path)

    @asynccontextmanager
    async def lifespan(self, app: object = None) -> AsyncGenerator[None, None]:
        """``init()`` and ``stop()`` around an application: ``FastAPI(lifespan=durably.lifespan)``."""
        async with self:
            yield

    def sync(self) -> SyncDurably:
        """The same for callers that cannot await: ``with durably.sync() as d: d.trigger(...)``."""

        return self._sync

    async def _open(self) -> None:
        if self._feed is not None:
            self._check_loop()
            return
        await self._store.open()
        self._loop = asyncio.get_running_loop()
        self._pid = os.getpid()
        self._feed = Feed(self._store, self._runtime, self._options.name, self._engine.progress)
        if self._store.companion is not None:
            bell = Bell(self._store.companion, self._options.name, self._runtime)
            self._bell = bell if bell.hang(self._heard) else None
        self._store.on_commit = self._committed
        self._store.on_signal = self._heard

    def _make_worker(self) -> Worker:
        if self._runtime.threads and self._engine.step_threads is None:
            self._engine.step_threads = Threads(_STEP_THREADS, "durably-step")
            limit = self._options.max_concurrent_runs
            self._engine.job_threads = Threads(limit, "durably-job")
        return Worker(
            self._engine,
            self._jobs,
            self._options,
            is_dead=self._bell.is_dead if self._bell else lambda _: self._store.is_alone,
            chore=self._forget_old_runs if self._retain is not None else None,
        )

    def _committed(self, wakes: bool) -> None:
        """After a commit of ours, on the writer's thread."""
        if wakes and self._worker is not None and self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._worker.wake)
        if self._bell is not None:
            self._bell.ring(wakes)

    def _heard(self, due: bool) -> None:
        """Another process rang."""
        self._store.tidy()
        if due and self._worker is not None:
            self._worker.wake()
        if self._feed is not None:
            self._feed.rung()

    def _check_loop(self) -> None:
        if self._feed is None:
            raise ClosedError("Durably is not open: call init() first, or use 'async with durably'")
        if os.getpid() != self._pid:
            raise ForkedError(
                f"this Durably was opened by process {self._pid} and is used in its fork "
                f"{os.getpid()}; call init() after the fork, in each process"
            )
        if asyncio.get_running_loop() is not self._loop:
            raise ConfigurationError(
                "this Durably was opened on another event loop; open one for each loop, or use "
                "durably.sync() from other threads"
            )

    # -- runs

    async def get_run(self, run_id: str) -> Run | None:
        """A run with its values as plain JSON; None if there is none. (A handle's is typed.)"""
        row = await self.row(run_id)
        return None if row is None else run_from_row(row)

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
        return [run_from_row(row) for row in await self.rows(filter)]

    async def state(self, run_id: str) -> tuple[RunRow, int] | None:
        """A run as it is stored, and the number of its newest line, as of one moment."""
        self._check_loop()
        return await self._store.state(run_id)

    async def count_steps(self, run_ids: Sequence[str]) -> list[int]:
        """How many steps of each run are committed."""
        self._check_loop()
        return await self._store.count_steps(run_ids)

    async def row(self, run_id: str) -> RunRow | None:
        """A run as it is stored."""
        self._check_loop()
        return await self._store.run(run_id)

    async def rows(self, filter: RunFilter) -> list[RunRow]:
        """Runs as they are stored."""
        self._check_loop()
        return await self._store.runs(filter)

    async def get_steps(self, run_id: str) -> list[StepRecord]:
        """The completed steps of a run and those that failed, in order."""
        if await self.row(run_id) is None:
            raise RunNotFoundError(run_id)
        found: dict[str, StepRecord] = {}
        for row in await self._store.steps(run_id):
            record = step_from_row(row)
            found[record.name] = record  # a later attempt's end of a step replaces its failure
        return sorted(found.values(), key=lambda record: record.index)

    async def get_logs(self, run_id: str, *, after: int = 0, limit: int = 1000) -> list[LogEntry]:
        """The kept log lines of a run, oldest first; needs ``use(with_log_persistence())``."""
        if await self.row(run_id) is None:
            raise RunNotFoundError(run_id)
        return [log_from_row(row) for row in await self._store.logs(run_id, after, limit)]

    def subscribe(self, run_id: str, after: int = 0) -> AsyncGenerator[events.AnyEvent, None]:
        """A run's events: its journal after number ``after``, then live, until it is over.

        Works whichever process executes the run. Journaled events come exactly once, in order.
        """
        self._check_loop()
        assert self._feed is not None
        return self._feed.subscribe(run_id, after)

    def subscribe_runs(
        self,
        *,
        job: str | Sequence[str] = (),
        labels: Mapping[str, str] | None = None,
        scope: str | None = None,
    ) -> AsyncGenerator[events.AnyEvent | events.Resync, None]:
        """The events of all runs that match, from now on, whichever process executes them.

        For lists of runs: ``step:complete`` and ``run:complete`` come without their outputs. An
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

    async def wait(self, run: Run[I, O] | str, timeout: Seconds | None = None) -> Run[I, O]:
        """The run once it is completed, whichever process executes it.

        Given a ``Run``, its values have the job's types; given an id, they are plain JSON. Raises
        ``RunFailedError``, ``RunCancelledError`` or ``WaitTimeoutError``, each with ``.run``.
        """
        self._check_loop()
        assert self._feed is not None
        run_id = run if isinstance(run, str) else run.id
        job = None if isinstance(run, str) else self._jobs.get(run.job)
        try:
            async with asyncio.timeout(None if timeout is None else seconds(timeout)):
                row = await self._feed.finished(run_id)
        except TimeoutError:
            now = await self._store.run(run_id)
            if now is None:
                raise RunNotFoundError(run_id) from None
            if not Status(now.status).is_final:
                late = f"run {run_id} is still {now.status} after {seconds(timeout or 0):g} s"
                raise WaitTimeoutError(late, snapshot(now, job)) from None
            row = now
        done = snapshot(row, job)
        if row.status == Status.FAILED:
            raise RunFailedError(f"run {run_id} ({row.job}) failed: {done.error}", done)
        if row.status == Status.CANCELLED:
            raise RunCancelledError(f"run {run_id} ({row.job}) was cancelled", done)
        return done

    async def retry(self, run_id: str) -> Run:
        """Resume a failed or cancelled run from its checkpoints: the same run, pending again."""
        self._check_loop()
        row, seq = await self._store.move(run_id, RETRY, self._runtime.now())
        self._tell(events.RunRetry, row, row.updated_at, seq)
        return run_from_row(row)

    async def retrigger(self, run_id: str) -> Run:
        """Start over: a new run of the same input, labels, concurrency key and scope, nothing reused."""
        self._check_loop()
        row = await self._store.run(run_id)
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
        row, seq = await self._store.move(run_id, CANCEL, self._runtime.now())
        if self._worker is not None:
            self._worker.cancelled(run_id)
        self._tell(events.RunCancel, row, row.updated_at, seq)
        return run_from_row(row)

    async def delete_run(self, run_id: str) -> None:
        """Delete a run that is over, with all that was kept of it."""
        self._check_loop()
        if (row := await self._store.delete(run_id, self._runtime.now())) is not None:
            self._tell(events.RunDelete, row, self._runtime.now())

    async def purge_runs(self, *, older_than: Seconds) -> int:
        """Delete the runs that ended longer ago than ``older_than``; how many they were."""
        self._check_loop()
        return await self._purge(milliseconds(older_than))

    async def _purge(self, age: int) -> int:
        count = 0
        while True:
            now = self._runtime.now()
            purged = await self._store.purge(now - age, now)
            for row in purged:
                self._tell(events.RunDelete, row, now)
            count += len(purged)
            if not purged:
                return count

    async def _forget_old_runs(self) -> None:
        if self._retain is not None:
            await self._purge(self._retain)

    async def enqueue(
        self, new: Sequence[NewRun], connection: Any = None
    ) -> list[tuple[RunRow, bool]]:
        """Store checked runs and tell of them; each row, and whether it is new.

        Within the transaction of a ``connection``, nothing is told: whether they come to be is open.
        """
        self._check_loop()
        if connection is not None:
            now = self._runtime.now()
            within = await self._store.enqueue_within(connection, new, now)
            return [(row, created) for row, created in within]
        if self._worker is not None:
            self._worker.wake()  # already: an idle worker's claim then joins the same commit
        enqueued = await self._store.enqueue(new, self._runtime.now())
        for row, created in enqueued:
            if created:
                self._tell(events.RunTrigger, row, row.created_at, 1)
        return [(row, created) for row, created in enqueued]

    def _tell(
        self,
        kind: Callable[..., events.AnyEvent],
        row: RunRow,
        at: int,
        seq: int | None = None,
        **what: Any,
    ) -> None:
        if self._is_wanted(row.id):
            run = run_from_row(row)
            self._publish(
                kind(
                    run_id=run.id,
                    job=run.job,
                    labels=run.labels,
                    timestamp=to_datetime(at),
                    sequence=seq,
                    scope=run.scope,
                    **what,
                )
            )

    def new_run(self, job: Job[I, Any], item: Trigger[I]) -> NewRun:
        """Check an input and its options; nothing is stored yet."""
        try:
            kept: Kept[I] = job.input.accept(item.input)
        except Unstorable as problem:
            raise bad_input(job, problem) from None
        if len(kept.text) > self._max_input:
            raise InvalidInputError(
                f"the input of job {job.name!r} has {len(kept.text):,} bytes, over the limit of "
                f"{self._max_input:,} (max_input_bytes); keep it elsewhere and pass a reference to it"
            )
        return NewRun(
            self._runtime.run_id(),
            job.name,
            kept.text,
            dump_json(check_labels(item.labels)) if item.labels else "{}",
            check_key("idempotency_key", item.idempotency_key),
            check_key("concurrency_key", item.concurrency_key),
            check_scope(item.scope),
        )
