"""The instance that users make: each method is a line to the engine.

Configure it, register jobs, open it, trigger and read runs. How it works is in ``engine/``; what it is
to servers in ``serving``; how jobs are registered in ``registry``.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from . import events
from .engine.engine import Engine
from .engine.options import Options
from .feed.listeners import Emitter
from .jobs.checks import LabelSchema
from .jobs.job import Job
from .lifespan import GRACE
from .models import CompletedRun, Health, I, LogEntry, O, Progress, Run, StepRecord
from .options import check_leases, flag, one_of, optional, positive, text, whole
from .registry import Registry
from .runtime import Runtime, Seconds, milliseconds
from .serving import Serving
from .state import Status
from .store.base import Store
from .store.records import Durability
from .store.url import DatabaseOptions, absolute, store_of
from .sync import SyncDurably
from .terminal import Show


class Plugin(Protocol):
    """Something that ``durably.use`` installs."""

    def install(self, durably: Durably, /) -> None:
        """Change the instance, before it is started."""
        ...


class Durably(Registry, Serving, Emitter):
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
    ``schema``: on PostgreSQL, the schema that holds Durably's tables; by default the role's ``search_path``.
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
        self.database = absolute(database)
        """Its database: a file by its absolute path, else as it was given."""
        one_of("durability", durability, ("full", "process"))
        retain = optional("retain_runs", retain_runs)
        options = Options(
            database=DatabaseOptions(
                durability,
                flag("allow_network_fs", allow_network_fs),
                text("schema", schema),
                listen_url,
                flag("pooled", pooled),
            ),
            polling_interval=positive("polling_interval", polling_interval),
            heartbeat_interval=positive("heartbeat_interval", heartbeat_interval),
            stale_threshold=positive("stale_threshold", stale_threshold),
            max_concurrent_runs=whole("max_concurrent_runs", max_concurrent_runs, 1),
            max_recoveries=whole("max_recoveries", max_recoveries),
            max_input_bytes=whole("max_input_bytes", max_input_bytes, 1),
            max_output_bytes=whole("max_output_bytes", max_output_bytes, 1),
            retain_runs=None if retain is None else milliseconds(retain),
            preserve_steps=flag("preserve_steps", preserve_steps),
            worker=flag("worker", worker),
            labels=None if labels is None else LabelSchema(labels),
        )
        check_leases(options.heartbeat_interval, options.stale_threshold)
        runtime = runtime or Runtime()
        store = store or store_of(database, runtime, options.database)
        self._store = store  # where tests put faults
        engine = Engine(store, self.database, runtime, options)
        Registry.__init__(self, engine)
        Serving.__init__(self, engine, SyncDurably(engine, self))
        Emitter.__init__(self, engine.listeners)
        for job in jobs:
            self.register(job)

    def use(self, plugin: Plugin) -> None:
        """Install a plugin, such as ``with_log_persistence()``."""
        plugin.install(self)

    # -- start and stop

    @property
    def is_open(self) -> bool:
        """Whether it was opened and not closed since."""
        return self._engine.is_open

    @property
    def is_working(self) -> bool:
        """Whether its worker claims runs. A worker whose database was replaced has stopped by itself."""
        return self._engine.is_working

    @property
    def shown_database(self) -> str:
        """Its database without a password, for logs and people."""
        return self._engine.database

    async def migrate(self) -> None:
        """Open the database and bring its schema up to date."""
        await self._engine.migrate()

    async def start(self) -> None:
        """Start the worker. The schema must be up to date: see ``migrate`` and ``init``."""
        await self._engine.start()

    async def init(self) -> None:
        """``migrate()``, then ``start()``."""
        await self._engine.init()

    async def stop(self, grace: Seconds = GRACE) -> None:
        """Claim no more runs, let the running ones end for ``grace`` seconds, hand the rest back, close.

        What is handed back another worker takes up at once; ``init()`` opens this instance again.
        Cancelling this ends the grace, not the hand-back. An ``init()`` under way raises ``ClosedError``;
        one that is called meanwhile, and another ``stop()``, wait until this is done.
        Raises ``ConfigurationError`` for a grace that is none, after it stopped all the same.
        """
        await self._engine.stop(grace)

    def expect_stop(self) -> None:
        """Announce that ``stop`` will follow, also from a signal's handler: a step that fails from now on is
        handed back, for what it waits for may have been stopped as well."""
        self._engine.expect_stop()

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
        return await self._engine.run_until_idle(max_runs)

    async def health(self) -> Health:
        """How this instance is: its database, its worker."""
        return await self._engine.health()

    # -- runs

    async def get_run(self, run_id: str) -> Run | None:
        """A run with its values as plain JSON; None if there is none. (A handle's is typed.)"""
        return await self._engine.runs.get_run(run_id)

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
        return await self._engine.runs.get_runs(
            job=job,
            status=status,
            labels=labels,
            limit=limit,
            offset=offset,
            cursor=cursor,
            scope=scope,
        )

    async def get_steps(self, run_id: str) -> list[StepRecord]:
        """The completed steps of a run and those that failed, in order."""
        return await self._engine.runs.get_steps(run_id)

    async def get_logs(self, run_id: str, *, after: int = 0, limit: int = 1000) -> list[LogEntry]:
        """The kept log lines of a run, oldest first; needs ``use(with_log_persistence())``."""
        return await self._engine.runs.get_logs(run_id, after=after, limit=limit)

    async def count_runs(self) -> list[tuple[str, str, int]]:
        """How many runs there are, as (job, status, count). Reads all runs: ask every some seconds."""
        return await self._engine.runs.count_runs()

    async def queue_ages(self, jobs: Iterable[str] = ()) -> dict[str, float]:
        """Of each registered job, how many seconds its longest due run has waited; 0 for none.

        ``jobs``: further ones, which are not registered here.
        """
        return await self._engine.runs.queue_ages(jobs)

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
        return await self._engine.runs.wait(run, timeout, on_progress=on_progress, on_log=on_log)

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
        return await self._engine.runs.follow(run, timeout, show=show)

    def subscribe(self, run_id: str, after: int = 0) -> AsyncGenerator[events.AnyEvent, None]:
        """A run's events: its journal after number ``after``, then live, until it is over.

        Works whichever process executes the run. Journaled events come exactly once, in order.
        """
        return self._engine.runs.subscribe(run_id, after)

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
        return self._engine.runs.subscribe_runs(job=job, labels=labels, scope=scope)

    async def retry(self, run_id: str) -> Run:
        """Resume a failed or cancelled run from its checkpoints: the same run, pending again."""
        return await self._engine.runs.retry(run_id)

    async def retrigger(self, run_id: str) -> Run:
        """Start over: a new run of the same input, labels, concurrency key and scope, nothing reused.

        Raises ``InvalidInputError`` where its input or its labels do not fit any more.
        """
        return await self._engine.runs.retrigger(run_id)

    async def cancel(self, run_id: str) -> Run:
        """Stop a run that is not over. A running async step is cancelled, here at once and in another
        process by its next heartbeat; what the step comes to is not kept."""
        return await self._engine.runs.cancel(run_id)

    async def delete_run(self, run_id: str) -> None:
        """Delete a run that is over, with all that was kept of it."""
        await self._engine.runs.delete_run(run_id)

    async def purge_runs(self, *, older_than: Seconds, limit: int | None = None) -> int:
        """Delete the runs that ended longer ago than ``older_than``; how many they were.

        ``limit``: at most so many, 1 or more; those that ended first. Nothing is deleted, with a warning
        in the log, for an hour after this process's clock has jumped: it may be wrong.
        """
        return await self._engine.runs.purge_runs(older_than=older_than, limit=limit)


class _LogPersistence:
    def install(self, durably: Durably, /) -> None:
        engine_of(durably).persist_logs()


def with_log_persistence() -> Plugin:
    """Keep what jobs log: ``durably.use(with_log_persistence())``, then ``get_logs(run_id)``."""
    return _LogPersistence()


def engine_of(durably: Durably) -> Engine:
    """The engine of an instance, for Durably's own commands."""
    return durably._engine  # pyright: ignore[reportPrivateUsage]
