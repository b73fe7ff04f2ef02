"""A job: a named function from one typed input to one typed output. Pure until it is registered."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, overload

from .codec import Codec, check_name, codec_for, evaluate_signature
from .errors import ConfigurationError
from .models import I, O

if TYPE_CHECKING:
    from .step import Step, SyncStep


@dataclass(frozen=True, slots=True, eq=False)
class Job(Generic[I, O]):
    """A job's name, its function, and how its input and output are kept."""

    name: str
    fn: Callable[..., Any]
    input: Codec[I]
    output: Codec[O]
    takes_input: bool
    is_sync: bool
    """True for a plain ``def``: it runs in a worker thread and gets a ``SyncStep``."""


class JobDecorator:
    """What ``job("name")`` gives: turns a function into a ``Job``."""

    def __init__(self, name: str) -> None:
        self._name = name

    @overload
    def __call__(self, fn: Callable[[Step, I], Awaitable[O]], /) -> Job[I, O]: ...
    @overload
    def __call__(self, fn: Callable[[Step], Awaitable[O]], /) -> Job[None, O]: ...
    @overload
    def __call__(self, fn: Callable[[SyncStep, I], O], /) -> Job[I, O]: ...
    @overload
    def __call__(self, fn: Callable[[SyncStep], O], /) -> Job[None, O]: ...
    def __call__(self, fn: Callable[..., Any], /) -> Job[Any, Any]:
        return define(self._name, fn)


def job(name: str) -> JobDecorator:
    """Make a job of a function: ``@job("sync-users")``, later ``durably.register(sync_users)``.

    The function takes a ``Step`` and, if it wants one, an input; the input's annotation and the return
    annotation are the job's types. An ``async def`` gets a ``Step``, a plain ``def`` a ``SyncStep``.

    Raises ``ConfigurationError`` when the name or the signature cannot be used.
    """
    return JobDecorator(name)


def define(name: str, fn: Callable[..., Any]) -> Job[Any, Any]:
    """Read a function's signature and make a job of it."""
    try:
        check_name("a job's name", name)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(str(error)) from None
    if not callable(fn):
        raise ConfigurationError(f"job {name!r}: {fn!r} is not a function")
    try:
        signature = evaluate_signature(fn)
        parameters = _positional(name, signature)
        return Job(
            name=name,
            fn=fn,
            input=codec_for(parameters[1].annotation) if len(parameters) > 1 else _NOTHING,
            output=codec_for(signature.return_annotation),
            takes_input=len(parameters) > 1,
            is_sync=not inspect.iscoroutinefunction(fn),
        )
    except ConfigurationError:
        raise
    except Exception as error:
        raise ConfigurationError(f"job {name!r}: {error}") from error


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
