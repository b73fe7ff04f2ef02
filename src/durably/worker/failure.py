"""Exceptions as values that can be stored. Making one of an exception never raises.

Tracebacks show users' frames: Durably's own are removed, unless ``DURABLY_DEBUG`` is set.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from inspect import ismemberdescriptor
from typing import Any, cast, get_args

from pydantic_core import InitErrorDetails, PydanticCustomError, ValidationError, core_schema

from ..errors import StepFailedError
from ..models import RunError
from ..store.snapshots import error_from_json
from ..telemetry.tracebacks import hide_frames
from ..values.codec import PLAIN, Unstorable
from ..values.text import clean_text, dump_json, load_json

MAX_MESSAGE = 8_192
MAX_TRACEBACK = 65_536
_REASONS = 3  # exceptions of a group that its message names
_MAX_REASON = 1_024


def error_info(error: BaseException, step: str | None = None) -> RunError:
    """Return what is stored of an exception: its type, a bounded message, a bounded traceback.

    Removes Durably's frames from it, see ``hide_frames``.
    """
    try:
        message = _message(error)
    except Exception:  # noqa: BLE001 - whatever a user's class does
        message = to_text(error, MAX_MESSAGE)
    return RunError(type(error).__name__[:255], message, step, _traceback(error))


def error_to_json(error: RunError) -> str:
    """Return the JSON of an error."""
    return dump_json(_fields(error))


def _fields(error: RunError) -> dict[str, Any]:
    return {
        "type": error.type,
        "message": error.message,
        "step": error.step,
        "traceback": error.traceback,
    }


def failure_to_json(error: Exception, info: RunError) -> str:
    """Return the JSON of a step's failure: the error, and what it takes to raise it again."""
    try:
        raised = _parts(error)
        if len(dump_json(raised)) > MAX_TRACEBACK:  # a group of very many
            raised = {key: raised[key] for key in ("module", "name")}
    except Exception:  # noqa: BLE001 - whatever a user's class does
        raised = {}
    return dump_json({**_fields(info), "raised": raised})


def _parts(error: Exception) -> dict[str, Any]:
    """The parts of an exception, as far as they are plain JSON and not large."""
    kind = type(error)
    parts = {
        "module": kind.__module__,
        "name": kind.__qualname__,
        "args": _plain(list(error.args), MAX_MESSAGE),
        "attributes": _attributes(error),
    }
    if isinstance(error, ValidationError):
        parts["invalid"] = _invalid(error)
    if isinstance(error, ExceptionGroup):
        group = cast("ExceptionGroup[Exception]", error)
        parts["message"] = clean_text(group.message, MAX_MESSAGE)
        parts["errors"] = [
            {**_parts(inner), "type": kind.__name__, "message": to_text(inner, _MAX_REASON)}
            for inner, kind in ((inner, type(inner)) for inner in group.exceptions)
        ]
    return parts


def _invalid(error: ValidationError) -> Any:
    """What pydantic's own pickle support stores of the error, without inputs that are not plain JSON."""
    title, lines, mode, hide_input = cast("Any", error).__reduce__()[1]
    for left_out in ({"url"}, {"url", "input"}):
        kept = [{k: v for k, v in line.items() if k not in left_out} for line in lines]
        for line in kept:
            line["type"] = getattr(line["type"], "type", line["type"])  # of a custom error
            line["loc"] = [*line["loc"]]
            if "ctx" in line:
                line["ctx"] = {k: _plain_or_text(v) for k, v in line["ctx"].items()}
        plain = _plain([title, kept, mode, hide_input or "input" in left_out], MAX_MESSAGE)
        if plain is not None:
            return plain
    return None


def _restore_invalid(
    title: str, lines: list[dict[str, Any]], mode: Any, hide_input: bool
) -> ValidationError:
    known = get_args(core_schema.ErrorType)
    details: list[InitErrorDetails] = []
    for line in lines:
        custom = line["type"] not in known
        details.append(
            InitErrorDetails(
                type=PydanticCustomError(line["type"], line["msg"]) if custom else line["type"],
                loc=tuple(line["loc"]),
                input=line.get("input"),
                ctx=line.get("ctx", {}),
            )
        )
    return ValidationError.from_exception_data(title, details, mode, hide_input)


def _attributes(error: Exception) -> dict[str, Any]:
    found: dict[str, Any] = {}
    remaining = MAX_MESSAGE
    held = {name: getattr(error, name, None) for name in _slots(type(error))}
    held = {name: value for name, value in held.items() if value is not None} | vars(error)
    for name, value in held.items():
        plain = None if name == "__notes__" else _plain(value, remaining)
        if plain is not None or value is None:
            found[name] = plain
            remaining -= len(dump_json(plain))
    return found


def _slots(kind: type[BaseException]) -> list[str]:
    """Attributes that are not in ``__dict__``, as an ``OSError``'s file name."""
    bases = (base for base in kind.__mro__ if base not in (Exception, BaseException, object))
    return [name for base in bases for name, is_ in vars(base).items() if ismemberdescriptor(is_)]


def _plain(value: Any, limit: int) -> Any:
    """A value where it is plain JSON of at most ``limit`` characters, otherwise None."""
    try:
        text = PLAIN.keep(value).text
    except Unstorable:
        return None
    return load_json(text) if len(text) <= limit else None


def _plain_or_text(value: Any) -> Any:
    return value if value is None or _plain(value, MAX_MESSAGE) is not None else str(value)


def failure_from_json(text: str) -> Exception:
    """Return the exception of a stored failure, to be raised again.

    It has the class it had, if that class is loaded by now - nothing is imported for it - and an instance
    can be made without its ``__init__``; otherwise it is a ``StepFailedError`` whose ``type`` names the class.
    """
    info = error_from_json(text)
    assert info is not None
    raised: dict[str, Any] = load_json(text).get("raised") or {}
    error = _instance(raised, info.message)
    if error is None:
        error = StepFailedError(str(info))
        error.type = info.type
    note = f"step {info.step!r} failed in an earlier attempt, with:\n{info.traceback}"
    BaseException.__setattr__(
        error, "__notes__", [note]
    )  # a class may have a __getattr__ of its own
    return error


def _loaded(module: object, name: object) -> type[Exception] | None:
    found: Any = sys.modules.get(str(module))
    for part in str(name).split("."):
        found = getattr(found, part, None)
    if not (isinstance(found, type) and issubclass(found, Exception)):
        return None
    return found if (found.__module__, found.__qualname__) == (module, name) else None


def _instance(raised: dict[str, Any], message: str) -> Exception | None:
    """Make an instance without calling ``__init__``, which may need what was not stored."""
    kind = _loaded(raised.get("module"), raised.get("name"))
    if kind is None:
        return None
    if issubclass(kind, ExceptionGroup):
        return _group(cast("type[Any]", kind), raised)
    if invalid := raised.get("invalid"):
        with suppress(Exception):  # another version of pydantic
            return _restore_invalid(*invalid)
    args = raised.get("args")
    error = _rebuild(kind, [message] if args is None else args, raised)
    if error is None or to_text(error, MAX_MESSAGE) == message:
        return error
    return _rebuild(_with_text(kind, message), error.args, raised) or error


def _group(kind: type[Any], raised: dict[str, Any]) -> Exception | None:
    if "errors" not in raised:
        return None
    inner = [
        _instance(parts, parts["message"]) or _unknown_error(parts) for parts in raised["errors"]
    ]
    return _rebuild(kind, [raised["message"], inner], raised)


def _unknown_error(parts: dict[str, Any]) -> StepFailedError:
    error = StepFailedError(f"{parts['type']}: {parts['message']}")
    error.type = parts["type"]
    return error


def _rebuild(
    kind: type[Exception] | None, args: Sequence[Any], raised: dict[str, Any]
) -> Exception | None:
    if kind is None:
        return None
    for given in (args, ()):  # a class with a __new__ may need the arguments, or none
        try:
            error = kind.__new__(kind, *given)
            # Bypass a __setattr__ of the class, as a frozen dataclass has.
            BaseException.__setattr__(error, "args", tuple(args))
            attributes: dict[str, Any] = raised.get("attributes") or {}
            for name, value in attributes.items():
                with suppress(Exception):  # such as an attribute that can only be read
                    BaseException.__setattr__(error, name, value)
        except Exception:  # noqa: BLE001, S112 - whatever a user's class does
            continue
        return error
    return None


def _with_text(kind: type[Exception], message: str) -> type[Exception] | None:
    """Derive a class from ``kind`` whose text is the stored one: what its own is made of was not stored."""

    def text(_: object) -> str:
        return message

    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__str__": text}
    make: Any = type(kind)
    try:
        found: Any = make(kind.__name__, (kind,), names)
    except Exception:  # noqa: BLE001 - a class may refuse to be derived from
        return None
    return cast("type[Exception]", found)


def to_text(value: object, limit: int) -> str:
    """Return ``str(value)``, safe to store, of at most ``limit`` characters."""
    try:
        text = str(value)
    except Exception:  # noqa: BLE001 - a user's __str__ may do anything
        text = f"<{type(value).__name__} whose str() raises>"
    return clean_text(text, limit)


def _message(error: BaseException) -> str:
    text = to_text(error, MAX_MESSAGE)
    if isinstance(error, BaseExceptionGroup):  # its own message has only their number
        text = f"{text}: {_reasons(cast('BaseExceptionGroup[BaseException]', error))}"
    return clean_text(text, MAX_MESSAGE)


def _reasons(group: BaseExceptionGroup[BaseException]) -> str:
    found = [error for error in members(group) if not isinstance(error, BaseExceptionGroup)]
    shown = [f"{type(leaf).__name__}: {to_text(leaf, _MAX_REASON)}" for leaf in found[:_REASONS]]
    more = f" (and {len(found) - _REASONS} more)" if len(found) > _REASONS else ""
    return "; ".join(shown) + more


def members(error: BaseException) -> list[BaseException]:
    """Return the exception and, if it is a group, all exceptions and groups in it."""
    found: list[BaseException] = []
    todo = [error]  # not recursive: groups may be nested deeper than the stack
    while todo:
        found.append(member := todo.pop())
        if isinstance(member, BaseExceptionGroup):
            todo += reversed(cast("BaseExceptionGroup[BaseException]", member).exceptions)
    return found


def _traceback(error: BaseException) -> str | None:
    try:
        hide_frames(error)
        text = "".join(traceback.format_exception(error, limit=-50))
    except Exception:  # noqa: BLE001
        return None
    if len(text) > MAX_TRACEBACK:  # its end shows where it was raised
        half = MAX_TRACEBACK // 2
        text = f"{text[:half]}\n… ({len(text) - 2 * half} characters) …\n{text[-half:]}"
    return clean_text(text, MAX_TRACEBACK + 200)
