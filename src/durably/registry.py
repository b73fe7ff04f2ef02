"""Registering jobs: what an instance knows by name, and their handles."""

# Of overloads the first that matches holds, which is what they are ordered by.
# pyright: reportOverlappingOverload=false

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, cast, overload

from .engine.engine import Engine
from .errors import ConfigurationError
from .handle import JobHandle
from .jobs.job import (
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
from .models import I, O
from .options import flag


class Registry:
    """The jobs that an instance knows."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._handles: dict[str, JobHandle[Any, Any]] = {}

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
        known = self._engine.jobs.get(made.name)
        if known is made:
            return self._handles[made.name]
        if known is None:
            self._handles[made.name] = JobHandle(self._engine.runs, made)
        elif is_typed_in(made) and is_typed_in(known):
            self._handles[made.name].definition = made  # each holder of the handle gets the new job
        else:
            raise ConfigurationError(f"another job is already registered as {made.name!r}")
        self._engine.jobs[made.name] = made
        self._engine.wake_worker()
        return self._handles[made.name]

    def _job_of(self, fn: Any) -> Job[Any, Any]:
        if isinstance(fn, JobHandle):
            raise ConfigurationError(
                f"{fn!r} is the handle of a job; pass the job itself, its .definition"
            )
        made = define(None, fn)
        known = self._engine.jobs.get(made.name)
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


class Registrar:
    """``@durably.job(name)``: makes a job of a function, registers it, and gives the handle."""

    def __init__(self, registry: Registry, name: str | None, *, lax: bool) -> None:
        self._registry = registry
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
        return self._registry.register(define(self._name, fn, lax=self._lax))
