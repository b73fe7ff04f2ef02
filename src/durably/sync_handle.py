"""The handle of a job for callers that cannot await."""

# Of overloads the first that matches holds, which is what they are ordered by.
# pyright: reportOverlappingOverload=false

from __future__ import annotations

import inspect
from collections.abc import (
    Callable,
    Coroutine,
    Mapping,
    Sequence,
)
from typing import Any, Generic, Literal, Protocol, overload

from typing_extensions import Unpack

from . import events
from .errors import ConfigurationError
from .handle import JobHandle
from .jobs.job import (
    NO_INPUT,
    InputOptional,
    N,
)
from .jobs.trigger import Trigger, TriggerOptions, WaitOptions
from .models import CompletedRun, I, O, Progress, Run
from .portal import T
from .runtime import Seconds
from .state import Status


class Blocking(Protocol):
    """What runs a coroutine to its end while the caller waits."""

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the event loop of an instance."""
        ...


class SyncJobHandle(Generic[I, O, N]):
    """``JobHandle`` for blocking callers."""

    def __init__(self, portal: Blocking, handle: JobHandle[I, O, N]) -> None:
        self._portal = portal
        self._handle = handle

    @property
    def _plain(self) -> JobHandle[Any, Any]:
        """The handle, where its types have been checked already."""
        return self._handle

    @property
    def name(self) -> str:
        """The job's name."""
        return self._handle.name

    @overload
    def trigger(
        self: SyncJobHandle[None, O], input: None = None, **options: Unpack[TriggerOptions]
    ) -> Run[None, O]: ...
    @overload
    def trigger(
        self: SyncJobHandle[I, O, InputOptional], input: I = ..., **options: Unpack[TriggerOptions]
    ) -> Run[I, O]: ...
    @overload
    def trigger(self, input: I, **options: Unpack[TriggerOptions]) -> Run[I, O]: ...
    def trigger(
        self,
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
        triggered = self._plain.trigger(
            input,
            idempotency_key=idempotency_key,
            concurrency_key=concurrency_key,
            coalesce=coalesce,
            labels=labels,
            scope=scope,
            connection=_check_blocking(connection),
        )
        return self._portal.call(triggered)

    @overload
    def trigger_and_wait(
        self: SyncJobHandle[None, O], input: None = None, **options: Unpack[WaitOptions]
    ) -> CompletedRun[None, O]: ...
    @overload
    def trigger_and_wait(
        self: SyncJobHandle[I, O, InputOptional], input: I = ..., **options: Unpack[WaitOptions]
    ) -> CompletedRun[I, O]: ...
    @overload
    def trigger_and_wait(self, input: I, **options: Unpack[WaitOptions]) -> CompletedRun[I, O]: ...
    def trigger_and_wait(
        self,
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
        done = self._plain.trigger_and_wait(
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
        return self._portal.call(done)

    def batch_trigger(
        self, inputs: Sequence[I | Trigger[I]], *, connection: Any = None
    ) -> list[Run[I, O]]:
        """As ``JobHandle.batch_trigger``; ``connection`` is one that blocks, too."""
        connection = _check_blocking(connection)
        return self._portal.call(self._handle.batch_trigger(inputs, connection=connection))

    def get_run(self, run_id: str) -> Run[I, O] | None:
        """As ``JobHandle.get_run``."""
        return self._portal.call(self._handle.get_run(run_id))

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
        return self._portal.call(found)


def _check_blocking(connection: Any) -> Any:
    """Not one that belongs to an event loop, which is another than ours."""
    if inspect.iscoroutinefunction(inspect.unwrap(getattr(connection, "execute", len))):
        raise ConfigurationError(
            "an asynchronous connection belongs to its event loop; with durably.sync() use one that "
            "blocks, as psycopg.Connection or a Session of SQLAlchemy"
        )
    return connection
