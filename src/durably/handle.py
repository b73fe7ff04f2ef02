"""The handle of a registered job: triggers runs of it and reads them, with its types."""

# Of overloads the first that matches holds, which is what they are ordered by.
# pyright: reportOverlappingOverload=false

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Generic, Literal, cast, overload

from typing_extensions import Unpack

from .engine.runs import Runs
from .errors import InvalidInputError
from .events import LogWrite
from .jobs.filter import make_filter
from .jobs.job import (
    NO_INPUT,
    InputOptional,
    Job,
    N,
)
from .jobs.trigger import Trigger, TriggerOptions, WaitOptions
from .models import CompletedRun, I, O, Progress, Run
from .runtime import Seconds
from .state import Status
from .store.records import NewRun
from .store.snapshots import run_from_row


class JobHandle(Generic[I, O, N]):
    """A registered job: triggers runs of it and reads them, with its types."""

    def __init__(self, runs: Runs, job: Job[I, O, N]) -> None:
        self._runs = runs
        self.definition = job
        """The job itself."""

    @property
    def name(self) -> str:
        """The job's name."""
        return self.definition.name

    def __repr__(self) -> str:
        return f"JobHandle({self.name!r})"

    @overload
    async def trigger(
        self: JobHandle[None, O], input: None = None, **options: Unpack[TriggerOptions]
    ) -> Run[None, O]: ...
    @overload
    async def trigger(
        self: JobHandle[I, O, InputOptional], input: I = ..., **options: Unpack[TriggerOptions]
    ) -> Run[I, O]: ...
    @overload
    async def trigger(self, input: I, **options: Unpack[TriggerOptions]) -> Run[I, O]: ...
    async def trigger(
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
        """Create a pending run, once ``input`` is valid. It may be left out if it has a default.

        ``idempotency_key``: a run of this job with the same key is returned instead, whatever its
        status. ``concurrency_key``: of all runs with the same key, over all jobs, one runs at a time,
        first come first served. ``coalesce="skip"``: if a run of this job with the same concurrency
        key waits and has not begun, it is returned instead, with the input that it has. ``labels``:
        strings to find the run by. ``scope``: the tenant, or whatever else the run belongs to; both
        keys hold within their scope. Set it on the server: it is not for clients to choose.

        The run's ``disposition`` tells what the trigger came to.

        ``connection``, on PostgreSQL: yours, of asyncpg, psycopg 3 or SQLAlchemy, in a transaction. The
        run is there exactly if that is committed, and workers hear of it then. Errors of its driver
        are raised as they are.

        Raises ``InvalidInputError`` with the path of what does not fit, and ``ConfigurationError`` for
        a connection that cannot be used, before anything is written.
        """
        item = Trigger(input, idempotency_key, concurrency_key, labels or {}, scope, coalesce)
        return (await self.batch_trigger([item], connection=connection))[0]

    @overload
    async def trigger_and_wait(
        self: JobHandle[None, O], input: None = None, **options: Unpack[WaitOptions]
    ) -> CompletedRun[None, O]: ...
    @overload
    async def trigger_and_wait(
        self: JobHandle[I, O, InputOptional], input: I = ..., **options: Unpack[WaitOptions]
    ) -> CompletedRun[I, O]: ...
    @overload
    async def trigger_and_wait(
        self, input: I, **options: Unpack[WaitOptions]
    ) -> CompletedRun[I, O]: ...
    async def trigger_and_wait(
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
        on_log: Callable[[LogWrite], object] | None = None,
    ) -> CompletedRun[Any, Any]:
        """``trigger``, then ``Durably.wait``: the completed run, or an error that carries it.

        Its ``disposition`` tells whether the run is new, or its idempotency key was known.
        """
        handle = cast("JobHandle[Any, Any]", self)
        run = await handle.trigger(
            input,
            idempotency_key=idempotency_key,
            concurrency_key=concurrency_key,
            coalesce=coalesce,
            labels=labels,
            scope=scope,
        )
        done = await self._runs.wait(run, timeout, on_progress=on_progress, on_log=on_log)
        return replace(done, disposition=run.disposition)

    async def batch_trigger(
        self, inputs: Sequence[I | Trigger[I]], *, connection: Any = None
    ) -> list[Run[I, O]]:
        """Trigger many in one transaction; all inputs are validated before any is stored.

        ``connection``: a transaction of yours to do it in; see ``trigger``.
        """
        new: list[NewRun] = []
        for i, item in enumerate(inputs):
            one = cast("Trigger[I]", item if isinstance(item, Trigger) else Trigger(item))
            try:
                new.append(self._runs.new_run(self.definition, one))
            except InvalidInputError as error:
                if len(inputs) == 1:
                    raise
                raise InvalidInputError(f"item {i}: {error}", path=error.path) from None
        enqueued = await self._runs.enqueue(new, connection)
        types = (self.definition.input, self.definition.output)
        counts = await self._runs.count_steps([row for row, _ in enqueued])
        return [
            run_from_row(row, *types, disposition, steps_done=count)
            for (row, disposition), count in zip(enqueued, counts, strict=True)
        ]

    async def get_run(self, run_id: str) -> Run[I, O] | None:
        """A run of this job, typed; None if there is none or it is another job's."""
        row = await self._runs.get_row(run_id)
        if row is None or row.job != self.name:
            return None
        return (await self._runs.snapshots([row], self.definition))[0]

    async def get_runs(
        self,
        *,
        status: Status | str | Sequence[Status | str] = (),
        labels: Mapping[str, str] | None = None,
        limit: int = 50,
        offset: int = 0,
        cursor: str | None = None,
        scope: str | None = None,
    ) -> list[Run[I, O]]:
        """Runs of this job, typed; as ``Durably.get_runs``."""
        filter = make_filter(self.name, status, labels, limit, offset, cursor, scope)
        return await self._runs.snapshots(await self._runs.get_rows(filter), self.definition)
