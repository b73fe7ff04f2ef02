"""The same for callers that cannot await: an event loop in a thread, not a second implementation."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from . import events
from .errors import ClosedError, ConfigurationError
from .handle import JobHandle, Trigger
from .job import Job
from .models import Health, I, LogEntry, O, Run, StepRecord
from .runtime import Seconds
from .state import Status

if TYPE_CHECKING:
    from .durably import Durably

T = TypeVar("T")
_CLOSED = "this Durably is closed; use it inside 'with durably.sync() as d'"
_NO_INPUT: Any = None  # for a job that takes none


class Portal:
    """An event loop in a thread of its own, and the way into it."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._lock = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop and wait for it."""
        with self._lock:
            if self._closed or not self._thread.is_alive():
                coroutine.close()
                raise ClosedError(_CLOSED)
            future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except CancelledError:
            raise ClosedError(_CLOSED) from None
        except BaseException:
            future.cancel()
            raise

    def iterate(self, stream: AsyncIterator[T]) -> Iterator[T]:
        """Iterate an asynchronous generator from here."""
        try:
            while True:
                try:
                    yield self.call(_next(stream))
                except StopAsyncIteration:
                    return
        finally:
            with suppress(ClosedError):  # closed meanwhile, and with it the stream
                self.call(cast("Any", stream).aclose())

    def close(self) -> None:
        """Stop the loop and its thread; whoever still waits for something hears that it is closed."""
        with self._lock:
            self._closed = True
        asyncio.run_coroutine_threadsafe(self._end_all(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end_all(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        if others:
            await asyncio.wait(others)
        await self._loop.shutdown_asyncgens()


async def _next(stream: AsyncIterator[T]) -> T:
    return await anext(stream)


class SyncDurably:
    """``Durably`` for blocking callers (Flask, Django, scripts). Use it from any thread.

    ``with durably.sync() as d: run = d.trigger(sync_users, SyncUsers(org_id="org_1"))``
    """

    def __init__(self, durably: Durably) -> None:
        self._durably = durably
        self._open: Portal | None = None

    @property
    def is_open(self) -> bool:
        """Whether it was opened, by ``with`` or ``init()``."""
        return self._open is not None

    @property
    def _portal(self) -> Portal:
        if self._open is None:
            raise ClosedError(
                "this Durably is not open: use 'with durably.sync() as d', or d.init()"
            )
        return self._open

    def init(self) -> None:
        """Migrate the database and start the worker, in a thread."""
        self._start(self._durably.init())

    def migrate(self) -> None:
        """Bring the database up to date, without a worker."""
        self._start(self._durably.migrate())

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        fresh = self._open is None
        self._open = self._open or Portal("durably-loop")
        try:
            self._open.call(coroutine)
        except BaseException:
            if fresh:
                self._open.close()
                self._open = None
            raise

    def start(self) -> None:
        """As ``Durably.start``: the worker alone."""
        self._start(self._durably.start())

    def stop(self, grace: Seconds = 25.0) -> None:
        """As ``Durably.stop``."""
        if self._open is not None:
            portal, self._open = self._open, None
            try:
                portal.call(self._durably.stop(grace))
            finally:
                portal.close()

    def __enter__(self) -> SyncDurably:
        self.init()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def register(self, job: Job[I, O]) -> SyncJobHandle[I, O]:
        """As ``Durably.register``."""
        return SyncJobHandle(self, self._durably.register(job))

    def handle(self, job: Job[I, O] | JobHandle[I, O]) -> SyncJobHandle[I, O]:
        """The blocking handle of a job."""
        handle = self._durably.register(job) if isinstance(job, Job) else job
        return SyncJobHandle(self, handle)

    def get_job(self, name: str) -> SyncJobHandle[Any, Any] | None:
        """As ``Durably.get_job``."""
        handle = self._durably.get_job(name)
        return None if handle is None else SyncJobHandle(self, handle)

    @property
    def jobs(self) -> Mapping[str, SyncJobHandle[Any, Any]]:
        """The blocking handles of the registered jobs by name."""
        return {name: SyncJobHandle(self, handle) for name, handle in self._durably.jobs.items()}

    def on(
        self, event: str | type[events.Event], listener: Callable[[Any], object]
    ) -> Callable[[], None]:
        """As ``Durably.on``; the listener is called in the loop's thread."""
        unsubscribe: Callable[[], None] = cast("Any", self._durably).on(event, listener)
        return unsubscribe

    def trigger(
        self,
        job: Job[I, O] | JobHandle[I, O],
        input: I = _NO_INPUT,
        *,
        idempotency_key: str | None = None,
        concurrency_key: str | None = None,
        labels: Mapping[str, str] | None = None,
        scope: str = "",
        connection: Any = None,
    ) -> Run[I, O]:
        """As ``JobHandle.trigger``; ``connection`` is one that blocks, too."""
        return self.handle(job).trigger(
            input,
            idempotency_key=idempotency_key,
            concurrency_key=concurrency_key,
            labels=labels,
            scope=scope,
            connection=connection,
        )

    def trigger_and_wait(
        self,
        job: Job[I, O] | JobHandle[I, O],
        input: I = _NO_INPUT,
        *,
        idempotency_key: str | None = None,
        concurrency_key: str | None = None,
        labels: Mapping[str, str] | None = None,
        scope: str = "",
        timeout: Seconds | None = None,
    ) -> Run[I, O]:
        """As ``JobHandle.trigger_and_wait``."""
        return self.handle(job).trigger_and_wait(
            input,
            idempotency_key=idempotency_key,
            concurrency_key=concurrency_key,
            labels=labels,
            scope=scope,
            timeout=timeout,
        )

    def run_until_idle(self) -> int:
        """As ``Durably.run_until_idle``."""
        if self._open is None:
            self.migrate()
        return self._portal.call(self._durably.run_until_idle())

    def get_run(self, run_id: str) -> Run | None:
        """As ``Durably.get_run``."""
        return self._portal.call(self._durably.get_run(run_id))

    def get_runs(
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
        """As ``Durably.get_runs``."""
        portal = self._portal
        found = self._durably.get_runs(
            job=job,
            status=status,
            labels=labels,
            limit=limit,
            offset=offset,
            cursor=cursor,
            scope=scope,
        )
        return portal.call(found)

    def get_steps(self, run_id: str) -> list[StepRecord]:
        """As ``Durably.get_steps``."""
        return self._portal.call(self._durably.get_steps(run_id))

    def get_logs(self, run_id: str, *, after: int = 0, limit: int = 1000) -> list[LogEntry]:
        """As ``Durably.get_logs``."""
        return self._portal.call(self._durably.get_logs(run_id, after=after, limit=limit))

    def subscribe(self, run_id: str, after: int = 0) -> Iterator[events.AnyEvent]:
        """As ``Durably.subscribe``, blocking between events."""

        async def stream() -> AsyncIterator[events.AnyEvent]:
            return self._durably.subscribe(run_id, after)

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
            return self._durably.subscribe_runs(job=job, labels=labels, scope=scope)

        return self._portal.iterate(self.call(stream()))

    def health(self) -> Health:
        """As ``Durably.health``."""
        return self._portal.call(self._durably.health())

    def wait(self, run: Run[I, O] | str, timeout: Seconds | None = None) -> Run[I, O]:
        """As ``Durably.wait``."""
        return self._portal.call(self._durably.wait(run, timeout))

    def retry(self, run_id: str) -> Run:
        """As ``Durably.retry``."""
        return self._portal.call(self._durably.retry(run_id))

    def retrigger(self, run_id: str) -> Run:
        """As ``Durably.retrigger``."""
        return self._portal.call(self._durably.retrigger(run_id))

    def cancel(self, run_id: str) -> Run:
        """As ``Durably.cancel``."""
        return self._portal.call(self._durably.cancel(run_id))

    def delete_run(self, run_id: str) -> None:
        """As ``Durably.delete_run``."""
        self._portal.call(self._durably.delete_run(run_id))

    def purge_runs(self, *, older_than: Seconds) -> int:
        """As ``Durably.purge_runs``."""
        return self._portal.call(self._durably.purge_runs(older_than=older_than))

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run any coroutine on the loop of this instance."""
        return self._portal.call(coroutine)


class SyncJobHandle(Generic[I, O]):
    """``JobHandle`` for blocking callers."""

    def __init__(self, durably: SyncDurably, handle: JobHandle[I, O]) -> None:
        self._durably = durably
        self._handle = handle

    @property
    def name(self) -> str:
        """The job's name."""
        return self._handle.name

    def trigger(
        self,
        input: I = _NO_INPUT,
        *,
        idempotency_key: str | None = None,
        concurrency_key: str | None = None,
        labels: Mapping[str, str] | None = None,
        scope: str = "",
        connection: Any = None,
    ) -> Run[I, O]:
        """As ``JobHandle.trigger``; ``connection`` is one that blocks, too."""
        triggered = self._handle.trigger(
            input,
            idempotency_key=idempotency_key,
            concurrency_key=concurrency_key,
            labels=labels,
            scope=scope,
            connection=_blocking(connection),
        )
        return self._durably.call(triggered)

    def trigger_and_wait(
        self,
        input: I = _NO_INPUT,
        *,
        idempotency_key: str | None = None,
        concurrency_key: str | None = None,
        labels: Mapping[str, str] | None = None,
        scope: str = "",
        timeout: Seconds | None = None,
    ) -> Run[I, O]:
        """As ``JobHandle.trigger_and_wait``."""
        done = self._handle.trigger_and_wait(
            input,
            idempotency_key=idempotency_key,
            concurrency_key=concurrency_key,
            labels=labels,
            scope=scope,
            timeout=timeout,
        )
        return self._durably.call(done)

    def batch_trigger(
        self, inputs: Sequence[I | Trigger[I]], *, connection: Any = None
    ) -> list[Run[I, O]]:
        """As ``JobHandle.batch_trigger``; ``connection`` is one that blocks, too."""
        connection = _blocking(connection)
        return self._durably.call(self._handle.batch_trigger(inputs, connection=connection))

    def get_run(self, run_id: str) -> Run[I, O] | None:
        """As ``JobHandle.get_run``."""
        return self._durably.call(self._handle.get_run(run_id))

    def get_runs(
        self,
        *,
        status: Status | str | Sequence[Status | str] = (),
        labels: Mapping[str, str] | None = None,
        limit: int = 50,
        offset: int = 0,
        cursor: str | None = None,
        scope: str | None = None,
    ) -> list[Run[I, O]]:
        """As ``JobHandle.get_runs``."""
        found = self._handle.get_runs(
            status=status, labels=labels, limit=limit, offset=offset, cursor=cursor, scope=scope
        )
        return self._durably.call(found)


def _blocking(connection: Any) -> Any:
    """Not one that belongs to an event loop, which is another than ours."""
    if inspect.iscoroutinefunction(inspect.unwrap(getattr(connection, "execute", len))):
        raise ConfigurationError(
            "an asynchronous connection belongs to its event loop; with durably.sync() use one that "
            "blocks, as psycopg.Connection or a Session of SQLAlchemy"
        )
    return connection
