"""The handle of a registered job: triggers runs of it and reads them, with its types."""

# Of overloads the first that matches holds, which is what they are ordered by.
# pyright: reportOverlappingOverload=false

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Generic, Literal, TypedDict, cast, overload

from pydantic import PydanticUserError, TypeAdapter, ValidationError
from typing_extensions import Unpack

from .codec import Unstorable, check_name
from .errors import ConfigurationError, InvalidInputError, InvalidValueError
from .events import AnyEvent, LogWrite, RunProgress
from .job import (
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
)
from .models import CompletedRun, I, O, Progress, Run, RunRow, run_from_row
from .options import flag, whole
from .runtime import Seconds
from .state import Status
from .step import Step, SyncStep
from .store.base import NewRun, RunFilter

if TYPE_CHECKING:
    from .durably import Durably

MAX_LIMIT = 1000
MAX_LABELS = 64
CURSOR = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
"""A page's cursor: the id of the run that the page before ended with."""


@dataclass(frozen=True, slots=True)
class Trigger(Generic[I]):
    """One item of ``batch_trigger`` with options of its own."""

    input: I
    idempotency_key: str | None = None
    concurrency_key: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    scope: str = ""
    coalesce: Literal["skip"] | None = None


class ClientTriggerOptions(TypedDict, total=False):
    """What a trigger takes beside its input, of those who trigger over HTTP as well."""

    idempotency_key: str | None
    concurrency_key: str | None
    coalesce: Literal["skip"] | None
    labels: Mapping[str, str] | None


class TriggerOptions(ClientTriggerOptions, total=False):
    """What ``trigger`` takes beside an input."""

    scope: str
    connection: Any


class ClientWaitOptions(ClientTriggerOptions, total=False):
    """What ``trigger_and_wait`` of a client takes beside an input."""

    timeout: Seconds | None
    on_progress: Callable[[Progress], object] | None
    on_log: Callable[[LogWrite], object] | None


class WaitOptions(ClientWaitOptions, total=False):
    """What ``trigger_and_wait`` takes beside an input."""

    scope: str


class Registrar:
    """``@durably.job(name)``: makes a job of a function, registers it, and gives the handle."""

    def __init__(self, durably: Durably, name: str | None, *, lax: bool) -> None:
        self._durably = durably
        self._name = name
        self._lax = flag("lax", lax)

    @overload
    def __call__(self, fn: AsyncWithDefault[A, R], /) -> JobHandle[A, R, InputOptional]: ...
    @overload
    def __call__(self, fn: Callable[[Step, A], Awaitable[R]], /) -> JobHandle[A, R]: ...
    @overload
    def __call__(self, fn: Callable[[Step], Awaitable[R]], /) -> JobHandle[None, R]: ...
    @overload
    def __call__(self, fn: WrongStep, /) -> AsyncJobsTakeAStep: ...
    @overload
    def __call__(self, fn: SyncWithDefault[A, R], /) -> JobHandle[A, R, InputOptional]: ...
    @overload
    def __call__(self, fn: Callable[[SyncStep, A], R], /) -> JobHandle[A, R]: ...
    @overload
    def __call__(self, fn: Callable[[SyncStep], R], /) -> JobHandle[None, R]: ...
    def __call__(self, fn: Callable[..., Any], /) -> Any:
        return self._durably.register(define(self._name, fn, lax=self._lax))


class JobHandle(Generic[I, O, N]):
    """A registered job: triggers runs of it and reads them, with its types."""

    def __init__(self, durably: Durably, job: Job[I, O, N]) -> None:
        self._durably = durably
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
        done = await self._durably.wait(run, timeout, on_progress=on_progress, on_log=on_log)
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
                new.append(self._durably.new_run(self.definition, one))
            except InvalidInputError as error:
                if len(inputs) == 1:
                    raise
                raise InvalidInputError(f"item {i}: {error}", path=error.path) from None
        enqueued = await self._durably.enqueue(new, connection)
        types = (self.definition.input, self.definition.output)
        counts = await self._durably.count_steps([row for row, _ in enqueued])
        return [
            run_from_row(row, *types, disposition, steps_done=count)
            for (row, disposition), count in zip(enqueued, counts, strict=True)
        ]

    async def get_run(self, run_id: str) -> Run[I, O] | None:
        """A run of this job, typed; None if there is none or it is another job's."""
        row = await self._durably.row(run_id)
        if row is None or row.job != self.name:
            return None
        return (await self._durably.snapshots([row], self.definition))[0]

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
        return await self._durably.snapshots(await self._durably.rows(filter), self.definition)


def snapshot(row: RunRow, job: Job[I, O] | None, now: int, steps_done: int) -> Run[I, O]:
    """The run of a row as of ``now``: with the job's types, or as plain JSON."""
    if job is None:
        return cast("Run[I, O]", run_from_row(row, now=now, steps_done=steps_done))
    try:
        return run_from_row(row, job.input, job.output, now=now, steps_done=steps_done)
    except Unstorable as problem:
        raise InvalidValueError(
            f"what is stored of run {row.id} does not fit job {job.name!r} any more: {problem}; "
            "durably.get_run gives it as plain JSON",
            path=problem.path,
        ) from None


def call_for_event(
    event: AnyEvent,
    on_progress: Callable[[Progress], object] | None,
    on_log: Callable[[LogWrite], object] | None,
) -> None:
    """Call what ``wait`` was given for an event of its run."""
    if on_progress is not None and isinstance(event, RunProgress):
        on_progress(event.progress)
    elif on_log is not None and isinstance(event, LogWrite):
        on_log(event)


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
    return RunFilter(
        jobs=tuple(_check("job", name) for name in _several("job", job)),
        statuses=tuple(_status(value) for value in _several("status", status)),
        labels={} if labels is None else check_labels(labels),
        limit=whole("limit", limit, 1, MAX_LIMIT),
        offset=whole("offset", offset),
        after=None if cursor is None else check_cursor(cursor),
        scope=None if scope is None else check_scope(scope),
    )


def check_cursor(cursor: Any) -> str:
    """A page's cursor, checked: any other text would give the newest page again, or none."""
    if not isinstance(cursor, str) or re.fullmatch(CURSOR, cursor) is None:
        raise ConfigurationError(f"cursor must be the .cursor of a run, not {cursor!r:.100}")
    return cursor


def _several(name: str, value: Any) -> Sequence[Any]:
    if isinstance(value, str):
        return (value,)
    if isinstance(value, Sequence | Set) and not isinstance(value, bytes):
        return tuple(cast("Sequence[Any]", value))
    raise ConfigurationError(f"{name} must be a str or several, not {value!r}")


def _status(value: Status | str) -> Status:
    try:
        return Status(value)
    except ValueError:
        known = ", ".join(Status)
        raise ConfigurationError(f"status must be one of {known}; not {value!r}") from None


def check_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """Labels, checked: at most 64, names and values of 1 to 255 characters."""
    given: Any = labels
    if not isinstance(given, Mapping):
        raise InvalidInputError(f"labels must be a mapping of str to str, not {labels!r}")
    if len(labels) > MAX_LABELS:
        raise InvalidInputError(f"a run has at most {MAX_LABELS} labels, not {len(labels)}")
    for name, value in labels.items():
        _check(f"label name {name!r}", name)
        _check(f"label {name!r}", value)
        if '"' in name or "\\" in name:
            raise InvalidInputError(f"label name {name!r} may not hold a quote or a backslash")
    return dict(labels)


class LabelSchema:
    """Which labels there are: the fields of a pydantic model or a TypedDict."""

    def __init__(self, labels: Any) -> None:
        try:
            self._adapter: TypeAdapter[Any] = TypeAdapter(labels)
            schema = self._adapter.json_schema()
        except PydanticUserError as error:
            raise ConfigurationError(f"labels={labels!r} cannot be used: {error.message}") from None
        if "properties" not in schema:
            raise ConfigurationError(
                f"labels must be a pydantic model or a TypedDict with fields, not {labels!r}"
            )
        self._names: set[str] = set(schema["properties"])
        self._is_open = bool(schema.get("additionalProperties"))

    def check(self, labels: Mapping[str, str]) -> None:
        """Raise ``InvalidInputError`` for the first label that does not fit."""
        if not self._is_open and (unknown := [name for name in labels if name not in self._names]):
            known = ", ".join(sorted(self._names))
            raise InvalidInputError(f"there is no label {unknown[0]!r}; there are: {known}")
        try:
            self._adapter.validate_python(labels)
        except ValidationError as error:
            problem = error.errors(include_url=False, include_context=False)[0]
            name = problem["loc"][0] if problem["loc"] else None
            which = "the labels do" if name is None else f"label {name!r} does"
            raise InvalidInputError(
                f"{which} not fit the labels schema: {problem['msg']}"
            ) from None


def check_key(what: Literal["idempotency_key", "concurrency_key"], key: str | None) -> str | None:
    """A key, checked: 1 to 255 characters."""
    return None if key is None else _check(what, key)


def check_coalesce(coalesce: Literal["skip"] | None, concurrency_key: str | None) -> bool:
    """Whether to coalesce, checked: only with a concurrency key."""
    if coalesce is None:
        return False
    if coalesce != "skip":
        raise InvalidInputError(f'coalesce must be "skip" or None, not {coalesce!r:.100}')
    if concurrency_key is None:
        raise InvalidInputError(
            'coalesce="skip" looks for a run that waits with the same concurrency key; pass a '
            "concurrency_key, or leave coalesce out"
        )
    return True


def check_scope(scope: str) -> str:
    """A scope, checked: 1 to 255 characters, or '' for none."""
    return scope if scope == "" else _check("scope", scope)


def _check(what: str, name: Any) -> str:
    try:
        return check_name(what, name)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(str(error)) from None


def missing_input(job: Job[Any, Any], how: str) -> InvalidInputError:
    """The error for a run without an input that its job needs; ``how`` to give it."""
    return InvalidInputError(
        f"job {job.name!r} needs an input for its parameter {job.parameter!r}; {how}"
    )


def bad_input(job: Job[Any, Any], problem: Unstorable) -> InvalidInputError:
    """The error for an input that does not fit its job."""
    return InvalidInputError(f"the input of job {job.name!r}: {problem}", path=problem.path)
