"""A job: a named function from one typed input to one typed output. Pure until it is registered."""

# Of overloads the first that matches holds, which is what they are ordered by.
# pyright: reportOverlappingOverload=false

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from types import FunctionType
from typing import (
    Annotated,
    Any,
    Concatenate,
    Generic,
    Protocol,
    cast,
    get_args,
    get_origin,
    overload,
)

from pydantic import BaseModel
from typing_extensions import TypeVar

from ..errors import ConfigurationError
from ..models import I, O
from ..options import flag
from ..values.codec import Codec, Unstorable, codec_for, codec_of_returns
from ..values.signatures import called, evaluate, signature_of
from .checks import check_name
from .step import Step, SyncStep


class InputRequired:
    """To type checkers: the input of a job that must be given."""


class InputOptional(InputRequired):
    """To type checkers: an input that has a default."""


N = TypeVar("N", bound=InputRequired, default=InputRequired, covariant=True)
A = TypeVar("A")  # of functions: where inference fails, a default would hide it
R = TypeVar("R")
A_contra = TypeVar("A_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)


class AsyncWithDefault(Protocol[A_contra, R_co]):
    """An ``async def`` job whose input has a default."""

    def __call__(self, step: Step, input: A_contra = ..., /) -> Awaitable[R_co]: ...


class SyncWithDefault(Protocol[A_contra, R_co]):
    """A plain ``def`` job whose input has a default."""

    def __call__(self, step: SyncStep, input: A_contra = ..., /) -> R_co: ...


WrongStep = Callable[Concatenate[SyncStep, ...], Coroutine[Any, Any, Any]]
"""An ``async def`` that is annotated ``SyncStep``: no job."""


class AsyncJobsTakeAStep:
    """To type checkers: what ``job`` gives for a ``WrongStep``. At run time it is refused."""


@dataclass(frozen=True, slots=True, eq=False)
class Job(Generic[I, O, N]):
    """A job's name, its function, and how its input and output are kept."""

    name: str
    fn: Callable[..., Any]
    input: Codec[I]
    output: Codec[O]
    takes_input: bool
    is_sync: bool
    """True for a plain ``def``: it runs in a worker thread and gets a ``SyncStep``."""
    default: str | None = None
    """The JSON of its input's default, for runs that are triggered without an input."""

    @property
    def parameter(self) -> str | None:
        """The name of the parameter that takes its input; None if it takes none."""
        return [*signature_of(self.fn).parameters][1] if self.takes_input else None


def is_typed_in(job: Job[Any, Any, Any]) -> bool:
    """Whether a job's function was typed into an interactive session, such as a notebook's cell."""
    return getattr(job.fn, "__module__", None) == "__main__" and hasattr(sys, "ps1")


class JobDecorator:
    """What ``job("name")`` gives: turns a function into a ``Job``."""

    def __init__(self, name: str | None = None, *, lax: bool = False) -> None:
        self._name = name
        self._lax = flag("lax", lax)

    @overload
    def __call__(self, fn: AsyncWithDefault[A, R], /) -> Job[A, R, InputOptional]: ...
    @overload
    def __call__(self, fn: Callable[[Step, A], Awaitable[R]], /) -> Job[A, R]: ...
    @overload
    def __call__(self, fn: Callable[[Step], Awaitable[R]], /) -> Job[None, R]: ...
    @overload
    def __call__(self, fn: WrongStep, /) -> AsyncJobsTakeAStep: ...
    @overload
    def __call__(self, fn: SyncWithDefault[A, R], /) -> Job[A, R, InputOptional]: ...
    @overload
    def __call__(self, fn: Callable[[SyncStep, A], R], /) -> Job[A, R]: ...
    @overload
    def __call__(self, fn: Callable[[SyncStep], R], /) -> Job[None, R]: ...
    def __call__(self, fn: Callable[..., Any], /) -> Any:
        return define(self._name, fn, lax=self._lax)


@overload
def job(name: str | None = None, *, lax: bool = False) -> JobDecorator: ...
@overload
def job(fn: AsyncWithDefault[A, R], /) -> Job[A, R, InputOptional]: ...
@overload
def job(fn: Callable[[Step, A], Awaitable[R]], /) -> Job[A, R]: ...
@overload
def job(fn: Callable[[Step], Awaitable[R]], /) -> Job[None, R]: ...
@overload
def job(fn: WrongStep, /) -> AsyncJobsTakeAStep: ...
@overload
def job(fn: SyncWithDefault[A, R], /) -> Job[A, R, InputOptional]: ...
@overload
def job(fn: Callable[[SyncStep, A], R], /) -> Job[A, R]: ...
@overload
def job(fn: Callable[[SyncStep], R], /) -> Job[None, R]: ...
def job(name: Any = None, *, lax: bool = False) -> Any:
    """Make a job of a function: ``@job`` or ``@job("sync-users")``, later ``durably.register(sync_users)``.

    Without a name the job has that of the function, with dashes for underscores. The function takes a
    ``Step`` and, if it needs one, an input; the input's annotation and the return annotation are the
    job's types. An ``async def`` gets a ``Step``, a plain ``def`` a ``SyncStep``.

    ``lax``: convert inputs as pydantic does by default (``"5"`` for an ``int``), and drop unknown keys;
    without it both are refused, unless the input's model says otherwise.

    Raises ``ConfigurationError`` when the name or the signature cannot be used.
    """
    decorator = JobDecorator(name if isinstance(name, str) else None, lax=lax)
    if name is None or isinstance(name, str):
        return decorator
    return decorator(cast("Callable[..., Any]", name))


def name_of(fn: Callable[..., Any]) -> str:
    """The name of a job that is given none: its function's, with dashes for underscores."""
    name: Any = None if isinstance(fn, type) else getattr(fn, "__name__", None)
    if not isinstance(name, str) or not name.strip("_").isidentifier():
        raise ConfigurationError(
            f"{fn!r} has no name that a job could have; pass one, as in job('import-csv')"
        )
    return name.strip("_").replace("_", "-")


def define(name: str | None, fn: Callable[..., Any], *, lax: bool = False) -> Job[Any, Any]:
    """Read a function's signature and make a job of it."""
    name = _checked_name(name, fn)
    if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
        raise ConfigurationError(
            f"job {name!r}: a job returns its output, and {fn!r} is a generator: it has 'yield'"
        )
    try:
        parameters = _positional(name, signature_of(fn))
        is_sync = not _is_async(fn)
        _check_step(name, fn, parameters[0], is_sync=is_sync)
        given = parameters[1] if len(parameters) > 1 else None
        codec = _NOTHING if given is None else codec_for(evaluate(given.annotation, fn))
        codec = codec if lax else codec.strict()
        return Job(
            name=name,
            fn=fn,
            input=codec,
            output=codec_of_returns(fn),
            takes_input=given is not None,
            is_sync=is_sync,
            default=None if given is None else _default(name, given, codec),
        )
    except ConfigurationError:
        raise
    except Exception as error:
        raise ConfigurationError(f"job {name!r}: {error}") from error


def _checked_name(name: str | None, fn: object) -> str:
    """Refuse what is not a function, and a name that cannot be one; return the job's name."""
    if isinstance(fn, Job):
        raise ConfigurationError(f"{fn.name!r} is a job already; durably.register() makes it known")
    if not callable(fn):
        raise ConfigurationError(
            f"{fn!r} is neither the name of a job nor a function"
            if name is None
            else f"job {name!r}: {fn!r} is not a function"
        )
    if name is None:
        name = name_of(fn)
    try:
        return check_name("a job's name", name)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(str(error)) from None


def _check_step(
    name: str, fn: Callable[..., Any], step: inspect.Parameter, *, is_sync: bool
) -> None:
    """Refuse the step of the other kind of job, whose methods would not be awaited, or block; and an input
    where the step is."""
    if _names(step.annotation, _INPUTS, fn):
        right = "SyncStep" if is_sync else "Step"
        raise ConfigurationError(
            f"job {name!r}: a job takes (step) or (step, input), but its first parameter {step.name!r} is "
            f"annotated as a value; write '(step: {right}, {step.name}: ...)'"
        )
    wrong = Step if is_sync else SyncStep
    if not _names(step.annotation, (wrong,), fn):
        return
    if is_sync:
        what = "a plain 'def', which gets a SyncStep"
        how = "annotate it SyncStep, or make the job 'async def'"
    else:
        what = "'async def', which gets a Step"
        how = "annotate it Step and await its calls, or make the job a plain 'def'"
    raise ConfigurationError(
        f"job {name!r} is {what}, but its parameter {step.name!r} is annotated {wrong.__name__}; {how}"
    )


_INPUTS = (BaseModel, bool, bytes, dict, float, int, list, set, str, tuple)  # never a step


def _names(annotation: Any, kinds: tuple[type[Any], ...], fn: Callable[..., Any]) -> bool:
    """Whether an annotation is one of these classes. Text that cannot be found yet, as of an import for type
    checkers only, counts by the class's name."""
    try:
        found = evaluate(annotation, fn)
    except TypeError:
        text: Any = getattr(annotation, "__forward_arg__", annotation)
        return isinstance(text, str) and text.rpartition(".")[2] in [it.__name__ for it in kinds]
    if get_origin(found) is Annotated:
        found = get_args(found)[0]
    found = get_origin(found) or found
    return isinstance(found, type) and issubclass(found, kinds)


def _default(name: str, parameter: inspect.Parameter, codec: Codec[Any]) -> str | None:
    if parameter.default is parameter.empty:
        return None
    try:
        return codec.accept(parameter.default).text
    except Unstorable as problem:
        raise ConfigurationError(
            f"job {name!r}: the default of {parameter.name!r} cannot be an input: {problem}"
        ) from None


def _is_async(fn: Any) -> bool:
    """Whether a call gives an awaitable: also of an object, and of what wraps an ``async def``."""
    while not inspect.iscoroutinefunction(fn):
        if isinstance(fn, functools.partial):
            fn = cast("functools.partial[Any]", fn).func
        elif hasattr(fn, "__wrapped__"):
            fn = fn.__wrapped__
        elif isinstance(fn, FunctionType | type):
            return False
        elif (call := called(fn)) is not None:
            fn = call
        else:
            return False
    return True


def _positional(name: str, signature: inspect.Signature) -> list[inspect.Parameter]:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = [p for p in signature.parameters.values() if p.kind in kinds]
    required = [p for p in signature.parameters.values() if p.default is p.empty]
    if not len(parameters) >= 1 or len(required) > 2 or any(p.kind not in kinds for p in required):
        raise ConfigurationError(
            f"job {name!r}: a job takes (step) or (step, input), not {signature}"
        )
    return parameters[:2]


_NOTHING = codec_for(None)  # the input of a job that takes none


class _NoInput:
    def __repr__(self) -> str:
        return "NO_INPUT"


NO_INPUT: Any = _NoInput()
"""For an input that is not given: the job's default, or None."""
