"""The same for callers that cannot await: an event loop in a thread, not a second implementation."""

# Of overloads the first that matches holds, which is what they are ordered by.
# pyright: reportOverlappingOverload=false

from __future__ import annotations

import threading
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import nullcontext
from functools import wraps
from typing import Any, Concatenate, Literal, ParamSpec, cast, overload

from typing_extensions import Unpack

from . import events
from .engine.engine import Engine
from .engine.runs import Runs
from .errors import ClosedError, ConfigurationError, DurablyError
from .feed.listeners import Emitter
from .handle import JobHandle
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
)
from .jobs.step import Step, SyncStep
from .jobs.trigger import TriggerOptions, WaitOptions
from .lifespan import GRACE
from .models import CompletedRun, Health, I, O, Progress, Run
from .portal import Portal, T
from .registry import Registry
from .runtime import Seconds
from .sync_handle import SyncJobHandle
from .terminal import Show, open_bar, title_of

P = ParamSpec("P")
AnyJob = Job[I, O, N] | JobHandle[I, O, N]


def _blocking(
    method: Callable[Concatenate[Runs, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[SyncDurably, P], T]:
    """The method of ``Runs``, with its types, for callers that cannot await."""

    @wraps(method)
    def call(self: SyncDurably, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self.call(method(self._runs, *args, **kwargs))  # pyright: ignore[reportPrivateUsage]

    return call


class SyncDurably:
    """``Durably`` for blocking callers (Flask, Django, scripts). Use it from any thread.

    ``with durably.sync() as d: run = d.trigger(sync_users, SyncUsers(org_id="org_1"))``
    """

    def __init__(self, engine: Engine, registry: Registry) -> None:
        self._engine, self._registry = engine, registry
        self._open: Portal | None = None
        self._lock = threading.Lock()  # of opening and closing: several threads may do both

    @property
    def is_open(self) -> bool:
        """Whether it was opened, by ``with`` or ``init()``."""
        return self._open is not None

    @property
    def _runs(self) -> Runs:
        return self._engine.runs

    @property
    def _portal(self) -> Portal:
        if self._open is None:
            raise ClosedError(
                "this Durably is not open: use 'with durably.sync() as d', or d.init()"
            )
        if self._engine.lends():
            raise ConfigurationError(
                "a blocking call was made within step.transaction: the connection is lent to its "
                "function, and the call would wait for it; make it before or after the step"
            )
        return self._open

    def init(self) -> None:
        """Migrate the database and start the worker, in a thread."""
        self._start(self._engine.init())

    def migrate(self) -> None:
        """Bring the database up to date, without a worker."""
        self._start(self._engine.migrate())

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        try:
            if (portal := self._open) is not None:
                portal.check_thread()  # before the lock: its holder may wait for that thread
            self._lock.acquire()
        except BaseException:
            coroutine.close()
            raise
        fresh = self._open is None
        try:
            self._open = self._open or Portal("durably-loop")
            self._open.call(coroutine)
        except BaseException:
            if fresh and self._open is not None:
                self._open.close()
                self._open = None
            raise
        finally:
            self._lock.release()

    def start(self) -> None:
        """As ``Durably.start``: the worker alone."""
        self._start(self._engine.start())

    def stop(self, grace: Seconds = GRACE) -> None:
        """As ``Durably.stop``."""
        if (open_now := self._open) is not None:
            open_now.check_thread()
        with self._lock:
            portal, self._open = self._open, None
            if portal is not None:
                try:
                    portal.call(self._engine.stop(grace))
                finally:
                    portal.close()

    def __enter__(self) -> SyncDurably:
        self.init()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # Ctrl-C wants out now: what runs is handed back rather than waited for.
        interrupted = kind is not None and not issubclass(kind, Exception)
        self.stop(0 if interrupted else GRACE)

    @overload
    def register(self, job: Job[I, O, N], /) -> SyncJobHandle[I, O, N]: ...
    @overload
    def register(self, job: AsyncWithDefault[A, R], /) -> SyncJobHandle[A, R, InputOptional]: ...
    @overload
    def register(self, job: Callable[[Step, A], Awaitable[R]], /) -> SyncJobHandle[A, R]: ...
    @overload
    def register(self, job: Callable[[Step], Awaitable[R]], /) -> SyncJobHandle[None, R]: ...
    @overload
    def register(self, job: WrongStep, /) -> AsyncJobsTakeAStep: ...
    @overload
    def register(self, job: SyncWithDefault[A, R], /) -> SyncJobHandle[A, R, InputOptional]: ...
    @overload
    def register(self, job: Callable[[SyncStep, A], R], /) -> SyncJobHandle[A, R]: ...
    @overload
    def register(self, job: Callable[[SyncStep], R], /) -> SyncJobHandle[None, R]: ...
    def register(self, job: Any) -> Any:
        """As ``Durably.register``."""
        return SyncJobHandle(self, cast("JobHandle[Any, Any]", self._registry.register(job)))

    def handle(self, job: AnyJob[I, O, N]) -> SyncJobHandle[I, O, N]:
        """The blocking handle of a job."""
        handle: JobHandle[I, O, N] = self._registry.register(job) if isinstance(job, Job) else job
        return SyncJobHandle(self, handle)

    def get_job(self, name: str) -> SyncJobHandle[Any, Any] | None:
        """As ``Durably.get_job``."""
        handle = self._registry.get_job(name)
        return None if handle is None else SyncJobHandle(self, handle)

    @property
    def jobs(self) -> Mapping[str, SyncJobHandle[Any, Any]]:
        """The blocking handles of the registered jobs by name."""
        return {name: SyncJobHandle(self, handle) for name, handle in self._registry.jobs.items()}

    def on(
        self,
        event: str | type[events.Event | events.WorkerError],
        listener: Callable[[Any], object],
    ) -> Callable[[], None]:
        """As ``Durably.on``; the listener is called in the loop's thread."""
        unsubscribe: Callable[[], None] = cast("Any", Emitter(self._engine.listeners)).on(
            event, listener
        )
        return unsubscribe

    @overload
    def trigger(
        self, job: AnyJob[None, O], input: None = None, **options: Unpack[TriggerOptions]
    ) -> Run[None, O]: ...
    @overload
    def trigger(
        self, job: AnyJob[I, O, InputOptional], input: I = ..., **options: Unpack[TriggerOptions]
    ) -> Run[I, O]: ...
    @overload
    def trigger(
        self, job: AnyJob[I, O], input: I, **options: Unpack[TriggerOptions]
    ) -> Run[I, O]: ...
    def trigger(
        self,
        job: AnyJob[Any, Any],
        input: Any = NO_INPUT,
        *,
        idempotency_key: str | None = None,
        concurrency_key: str | None = None,
        coalesce: Literal["skip"] | None = None,
        labels: Mapping[str, str] | None = None,
        scope: str = "",
        connection: Any = None,
    ) -> Run[Any, Any]:
        """As ``JobHandle.trigger``; ``connection`` is one that blocks, too."""
        return self.handle(job).trigger(
            input,
            idempotency_key=idempotency_key,
            concurrency_key=concurrency_key,
            coalesce=coalesce,
            labels=labels,
            scope=scope,
            connection=connection,
        )

    @overload
    def trigger_and_wait(
        self, job: AnyJob[None, O], input: None = None, **options: Unpack[WaitOptions]
    ) -> CompletedRun[None, O]: ...
    @overload
    def trigger_and_wait(
        self, job: AnyJob[I, O, InputOptional], input: I = ..., **options: Unpack[WaitOptions]
    ) -> CompletedRun[I, O]: ...
    @overload
    def trigger_and_wait(
        self, job: AnyJob[I, O], input: I, **options: Unpack[WaitOptions]
    ) -> CompletedRun[I, O]: ...
    def trigger_and_wait(
        self,
        job: AnyJob[Any, Any],
        input: Any = NO_INPUT,
        *,
        idempotency_key: str | None = None,
        concurrency_key: str | None = None,
        coalesce: Literal["skip"] | None = None,
        labels: Mapping[str, str] | None = None,
        scope: str = "",
        timeout: Seconds | None = None,
        on_progress: Callable[[Progress], object] | None = None,
        on_log: Callable[[events.LogWrite], object] | None = None,
    ) -> CompletedRun[Any, Any]:
        """As ``JobHandle.trigger_and_wait``."""
        return self.handle(job).trigger_and_wait(
            input,
            idempotency_key=idempotency_key,
            concurrency_key=concurrency_key,
            coalesce=coalesce,
            labels=labels,
            scope=scope,
            timeout=timeout,
            on_progress=on_progress,
            on_log=on_log,
        )

    def run_until_idle(self, max_runs: int | None = None) -> int:
        """As ``Durably.run_until_idle``."""
        if self._open is None:
            self.migrate()
        return self._portal.call(self._engine.run_until_idle(max_runs))

    wait = _blocking(Runs.wait)
    get_run = _blocking(Runs.get_run)
    get_runs = _blocking(Runs.get_runs)
    get_steps = _blocking(Runs.get_steps)
    get_logs = _blocking(Runs.get_logs)
    retry = _blocking(Runs.retry)
    retrigger = _blocking(Runs.retrigger)
    cancel = _blocking(Runs.cancel)
    delete_run = _blocking(Runs.delete_run)
    purge_runs = _blocking(Runs.purge_runs)

    def health(self) -> Health:
        """As ``Durably.health``."""
        return self.call(self._engine.health())

    def subscribe(self, run_id: str, after: int = 0) -> Iterator[events.AnyEvent]:
        """As ``Durably.subscribe``, blocking between events."""

        async def stream() -> AsyncIterator[events.AnyEvent]:
            return self._engine.runs.subscribe(run_id, after)

        return self._portal.iterate(self.call(stream()))

    def subscribe_runs(
        self,
        *,
        job: str | Sequence[str] = (),
        labels: Mapping[str, str] | None = None,
        scope: str | None = None,
    ) -> Iterator[events.AnyEvent | events.Resync]:
        """As ``Durably.subscribe_runs``, blocking between events."""

        async def stream() -> AsyncIterator[events.AnyEvent | events.Resync]:
            return self._engine.runs.subscribe_runs(job=job, labels=labels, scope=scope)

        return self._portal.iterate(self.call(stream()))

    def follow(
        self,
        run: Run[I, O] | str,
        timeout: Seconds | None = None,
        *,
        show: Show | None = None,
    ) -> CompletedRun[I, O]:
        """As ``Durably.follow``; ``show`` is called in the loop's thread."""
        # The bar is opened in this thread: it tells a notebook under which cell it belongs.
        with nullcontext(show) if show else open_bar(title_of(run)) as draw:
            return self.wait(run, timeout, on_progress=draw)

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run any coroutine on the loop of this instance."""
        try:
            portal = self._portal
        except DurablyError:
            coroutine.close()
            raise
        return portal.call(coroutine)
