"""The handle of a registered job: triggers runs of it and reads them, with its types."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Literal, cast, overload

from .codec import Unstorable, check_name
from .errors import ConfigurationError, InvalidInputError, InvalidValueError
from .job import Job, define
from .models import I, O, Run, RunRow, run_from_row
from .runtime import Seconds
from .state import Status
from .store.base import NewRun, RunFilter

if TYPE_CHECKING:
    from .durably import Durably
    from .step import Step, SyncStep

MAX_LIMIT = 1000
MAX_LABELS = 64
_NO_INPUT: Any = None  # for a job that takes none


@dataclass(frozen=True, slots=True)
class Trigger(Generic[I]):
    """One item of ``batch_trigger`` with options of its own."""

    input: I
    idempotency_key: str | None = None
    concurrency_key: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    scope: str = ""


class Registrar:
    """``@durably.job(name)``: makes a job of a function, registers it, and gives the handle."""

    def __init__(self, durably: Durably, name: str) -> None:
        self._durably = durably
        self._name = name

    @overload
    def __call__(self, fn: Callable[[Step, I], Awaitable[O]], /) -> JobHandle[I, O]: ...
    @overload
    def __call__(self, fn: Callable[[Step], Awaitable[O]], /) -> JobHandle[None, O]: ...
    @overload
    def __call__(self, fn: Callable[[SyncStep, I], O], /) -> JobHandle[I, O]: ...
    @overload
    def __call__(self, fn: Callable[[SyncStep], O], /) -> JobHandle[None, O]: ...
    def __call__(self, fn: Callable[..., Any], /) -> JobHandle[Any, Any]:
        return self._durably.register(define(self._name, fn))


class JobHandle(Generic[I, O]):
    """A registered job: triggers runs of it and reads them, with its types."""

    def __init__(self, durably: Durably, job: Job[I, O]) -> None:
        self._durably = durably
        self.definition = job
        """The job itself."""

    @property
    def name(self) -> str:
        """The job's name."""
        return self.definition.name

    def __repr__(self) -> str:
        return f"JobHandle({self.name!r})"

    async def trigger(
        self,
        input: I = _NO_INPUT,
        *,
        idempotency_key: str | None = None,
        concurrency_key: str | None = None,
        labels: Mapping[str, str] | None = None,
        scope: str = "",
        connection: Any = None,
    ) -> Run[I, O]:
        """Create a pending run, once ``input`` is valid.

        ``idempotency_key``: a run of this job with the same key is returned instead, whatever its
        status. ``concurrency_key``: of all runs with the same key, over all jobs, one runs at a time,
        first come first served. ``labels``: strings to find the run by. ``scope``: the tenant, or
        whatever else the run belongs to; both keys hold within their scope. Set it on the server: it
        is not for clients to choose.

        ``connection``, on PostgreSQL: yours, of asyncpg, psycopg 3 or SQLAlchemy, in a transaction. The
        run is there exactly if that is committed, and workers hear of it then. Errors of its driver
        are raised as they are.

        Raises ``InvalidInputError`` with the path of what does not fit, and ``ConfigurationError`` for
        a connection that cannot be used, before anything is written.
        """
        item = Trigger(input, idempotency_key, concurrency_key, labels or {}, scope)
        return (await self.batch_trigger([item], connection=connection))[0]

    async def trigger_and_wait(
        self,
        input: I = _NO_INPUT,
        *,
        idempotency_key: str | None = None,
        concurrency_key: str | None = None,
        labels: Mapping[str, str] | None = None,
        scope: str = "",
        timeout: Seconds | None = None,
    ) -> Run[I, O]:
        """``trigger``, then ``Durably.wait``: the completed run, or an error that carries it."""
        run = await self.trigger(
            input,
            idempotency_key=idempotency_key,
            concurrency_key=concurrency_key,
            labels=labels,
            scope=scope,
        )
        return await self._durably.wait(run, timeout)

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
                new.append(self._durably.new_run(self.definition, one))
            except InvalidInputError as error:
                if len(inputs) == 1:
                    raise
                raise InvalidInputError(f"item {i}: {error}", path=error.path) from None
        enqueued = await self._durably.enqueue(new, connection)
        return [
            run_from_row(
                row,
                self.definition.input,
                self.definition.output,
                "created" if created else "idempotent",
            )
            for row, created in enqueued
        ]

    async def get_run(self, run_id: str) -> Run[I, O] | None:
        """A run of this job, typed; None if there is none or it is another job's."""
        row = await self._durably.row(run_id)
        return None if row is None or row.job != self.name else snapshot(row, self.definition)

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
        return [snapshot(row, self.definition) for row in await self._durably.rows(filter)]


def snapshot(row: RunRow, job: Job[I, O] | None) -> Run[I, O]:
    """The run of a row: with the job's types, or as plain JSON."""
    if job is None:
        return cast("Run[I, O]", run_from_row(row))
    try:
        return run_from_row(row, job.input, job.output)
    except Unstorable as problem:
        raise InvalidValueError(
            f"what is stored of run {row.id} does not fit job {job.name!r} any more: {problem}; "
            "durably.get_run gives it as plain JSON",
            path=problem.path,
        ) from None


def make_filter(
    job: str | Sequence[str],
    status: Status | str | Sequence[Status | str],
    labels: Mapping[str, str] | None,
    limit: int,
    offset: int,
    cursor: str | None,
    scope: str | None = None,
) -> RunFilter:
    """A listing's filter, checked."""
    if not 1 <= limit <= MAX_LIMIT:
        raise ConfigurationError(f"limit must be 1 to {MAX_LIMIT}, not {limit}")
    if offset < 0:
        raise ConfigurationError(f"offset must be 0 or more, not {offset}")
    return RunFilter(
        jobs=(job,) if isinstance(job, str) else tuple(job),
        statuses=tuple(_status(s) for s in ((status,) if isinstance(status, str) else status)),
        labels=check_labels(labels or {}),
        limit=limit,
        offset=offset,
        after=None if cursor is None else _check("cursor", cursor),
        scope=None if scope is None else check_scope(scope),
    )


def _status(value: Status | str) -> Status:
    try:
        return Status(value)
    except ValueError:
        known = ", ".join(Status)
        raise ConfigurationError(f"status must be one of {known}; not {value!r}") from None


def check_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """Labels, checked: at most 64, names and values of 1 to 255 characters."""
    if len(labels) > MAX_LABELS:
        raise InvalidInputError(f"a run has at most {MAX_LABELS} labels, not {len(labels)}")
    for name, value in labels.items():
        _check(f"label name {name!r}", name)
        _check(f"label {name!r}", value)
        if '"' in name or "\\" in name:
            raise InvalidInputError(f"label name {name!r} may not hold a quote or a backslash")
    return dict(labels)


def check_key(what: Literal["idempotency_key", "concurrency_key"], key: str | None) -> str | None:
    """A key, checked: 1 to 255 characters."""
    return None if key is None else _check(what, key)


def check_scope(scope: str) -> str:
    """A scope, checked: 1 to 255 characters, or '' for none."""
    return scope if scope == "" else _check("scope", scope)


def _check(what: str, name: Any) -> str:
    try:
        return check_name(what, name)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(str(error)) from None


def bad_input(job: Job[Any, Any], problem: Unstorable) -> InvalidInputError:
    """The error for an input that does not fit its job."""
    return InvalidInputError(f"the input of job {job.name!r}: {problem}", path=problem.path)
