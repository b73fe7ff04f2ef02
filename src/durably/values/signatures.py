"""The annotations of functions: whose they are, and what their text means where it was written."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FunctionType, GenericAlias, MethodType, SimpleNamespace
from typing import (
    Annotated,
    Any,
    ForwardRef,
    Literal,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

if sys.version_info >= (3, 14):
    import annotationlib


def annotated(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The function whose annotations hold for a callable: through partials, methods and ``__call__``."""
    while True:
        if isinstance(fn, functools.partial):
            fn = cast("functools.partial[Any]", fn).func
        elif isinstance(fn, MethodType):
            fn = fn.__func__
        elif "return" in annotations_of(fn):
            return fn
        elif hasattr(fn, "__wrapped__"):
            fn = cast("Any", fn).__wrapped__
        elif isinstance(fn, FunctionType | type):
            return fn
        elif (call := called(fn)) is not None:
            fn = call
        else:
            return fn


def called(fn: Callable[..., Any]) -> FunctionType | None:
    """The ``__call__`` that an object's class defines, if it does."""
    found: Any = inspect.getattr_static(cast("type[Any]", type(fn)), "__call__", None)
    return found if isinstance(found, FunctionType) else None


def annotations_of(fn: Callable[..., Any]) -> dict[str, Any]:
    """The annotations as they are written. Those that cannot be found yet do no harm to the others."""
    if isinstance(fn, type):  # its annotations are its attributes'
        return {}
    if sys.version_info >= (3, 14):
        try:
            return annotationlib.get_annotations(fn, format=annotationlib.Format.FORWARDREF)
        except TypeError:
            return {}
    return getattr(fn, "__annotations__", None) or {}


def signature_of(fn: Callable[..., Any]) -> inspect.Signature:
    """The signature of ``fn``, its annotations as they are written."""
    if sys.version_info >= (3, 14):
        return inspect.signature(fn, annotation_format=annotationlib.Format.FORWARDREF)
    return inspect.signature(fn)


def evaluate(annotation: Any, fn: Callable[..., Any]) -> Any:
    """An annotation of ``fn`` as a type: what it names by text is found where ``fn`` was written.

    Raises ``TypeError`` when a name cannot be found.
    """
    if not names_by_text(annotation):
        return annotation
    written = annotated(inspect.unwrap(annotated(fn)))
    holder = SimpleNamespace(
        __annotations__={"it": annotation},
        __type_params__=getattr(written, "__type_params__", ()),
    )
    names, closure = getattr(written, "__globals__", {}), _closure(written)
    whose = getattr(written, "__qualname__", repr(written))
    try:
        return get_type_hints(holder, names, closure, include_extras=True)["it"]
    except NameError as error:
        raise TypeError(
            f"the annotations of {whose} name {error.name!r}, which cannot be found from its module; "
            "define it at module level or pass returns="
        ) from None
    except Exception as error:  # noqa: BLE001 - text may do anything when it is evaluated
        raise TypeError(
            f"the annotation {annotation!r} of {whose} is not a type: {error}"
        ) from None


def _closure(fn: Callable[..., Any]) -> dict[str, Any]:
    if not isinstance(fn, FunctionType):
        return {}
    found: dict[str, Any] = {}
    for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True):
        with suppress(ValueError):  # not assigned yet
            found[name] = cell.cell_contents
    return found


def names_by_text(annotation: Any) -> bool:
    """Whether a type is named by text, in it or in what it is made of."""
    if isinstance(annotation, str | ForwardRef):
        return True
    if isinstance(annotation, type) and not isinstance(annotation, GenericAlias):
        return False
    origin: Any = get_origin(annotation)
    if origin is None or origin is Literal:
        return False
    arguments = get_args(annotation)[:1] if origin is Annotated else get_args(annotation)
    return any(
        names_by_text(inner)
        for argument in arguments
        for inner in (cast("list[Any]", argument) if isinstance(argument, list) else [argument])
    )
