"""An exception as a value that can be kept. Describing a failure never fails.

Tracebacks show users' frames: Durably's own are taken out of them, unless ``DURABLY_DEBUG`` is set.
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
    """What is kept of an exception: its type, a bounded message, a bounded traceback.

    Hides Durably's frames in it, see ``hide_frames``.
    """
    try:
        message = _message(error)
    except Exception:  # noqa: BLE001 - whatever a user's class does
        message = to_text(error, MAX_MESSAGE)
    return RunError(type(error).__name__[:255], message, step, _traceback(error))


def error_to_json(error: RunError) -> str:
    """The text that an error is kept as."""
    return dump_json(_fields(error))


def _fields(error: RunError) -> dict[str, Any]:
    return {
        "type": error.type,
        "message": error.message,
        "step": error.step,
        "traceback": error.traceback,
    }


def failure_to_json(error: Exception, described: RunError) -> str:
    """The text that a step's failure is kept as: also what it takes to raise it again."""
    try:
        raised = _parts(error)
        if len(dump_json(raised)) > MAX_TRACEBACK:  # a group of very many
            raised = {key: raised[key] for key in ("module", "name")}
    except Exception:  # noqa: BLE001 - whatever a user's class does
        raised = {}
    return dump_json({**_fields(described), "raised": raised})


def _parts(error: Exception) -> dict[str, Any]:
    """What an exception is made of, as far as that is plain JSON and not large."""
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
    """What pydantic's own pickle support makes one of, without the inputs where they are not plain."""
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


def _invalid_again(
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
    room = MAX_MESSAGE
    held = {name: getattr(error, name, None) for name in _slots(type(error))}
    held = {name: value for name, value in held.items() if value is not None} | vars(error)
    for name, value in held.items():
        plain = None if name == "__notes__" else _plain(value, room)
        if plain is not None or value is None:
            found[name] = plain
            room -= len(dump_json(plain))
    return found


def _slots(kind: type[BaseException]) -> list[str]:
    """Attributes that are not in ``__dict__``, as an ``OSError``'s file name."""
    bases = (base for base in kind.__mro__ if base not in (Exception, BaseException, object))
    return [name for base in bases for name, is_ in vars(base).items() if ismemberdescriptor(is_)]


def _plain(value: Any, limit: int) -> Any:
    """A value where it is plain JSON of at most ``limit`` characters, else None."""
    try:
        text = PLAIN.keep(value).text
    except Unstorable:
        return None
    return load_json(text) if len(text) <= limit else None


def _plain_or_text(value: Any) -> Any:
    return value if value is None or _plain(value, MAX_MESSAGE) is not None else str(value)


def failure_from_json(text: str) -> Exception:
    """The exception that a kept failure of a step is raised as again.

    It has the class it had, if that class is loaded by now - nothing is imported for it - and an instance
    can be made without its ``__init__``; else it is a ``StepFailedError`` that tells the class in ``type``.
    """
    described = error_from_json(text)
    assert described is not None
    raised: dict[str, Any] = load_json(text).get("raised") or {}
    error = _instance(raised, described.message)
    if error is None:
        error = StepFailedError(str(described))
        error.type = described.type
    note = f"step {described.step!r} failed in an earlier attempt, with:\n{described.traceback}"
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
    """An instance without calling ``__init__``, which may want what was not kept."""
    kind = _loaded(raised.get("module"), raised.get("name"))
    if kind is None:
        return None
    if issubclass(kind, ExceptionGroup):
        return _group(cast("type[Any]", kind), raised)
    if invalid := raised.get("invalid"):
        with suppress(Exception):  # another version of pydantic
            return _invalid_again(*invalid)
    args = raised.get("args")
    error = _made(kind, [message] if args is None else args, raised)
    if error is None or to_text(error, MAX_MESSAGE) == message:
        return error
    return _made(_saying(kind, message), error.args, raised) or error


def _group(kind: type[Any], raised: dict[str, Any]) -> Exception | None:
    if "errors" not in raised:
        return None
    inner = [_instance(parts, parts["message"]) or _unknown(parts) for parts in raised["errors"]]
    return _made(kind, [raised["message"], inner], raised)


def _unknown(parts: dict[str, Any]) -> StepFailedError:
    error = StepFailedError(f"{parts['type']}: {parts['message']}")
    error.type = parts["type"]
    return error


def _made(
    kind: type[Exception] | None, args: Sequence[Any], raised: dict[str, Any]
) -> Exception | None:
    if kind is None:
        return None
    for given in (args, ()):  # a class of its own __new__ may want the arguments, or none
        try:
            error = kind.__new__(kind, *given)
            # Past a __setattr__ of its own, as a frozen dataclass has.
            BaseException.__setattr__(error, "args", tuple(args))
            attributes: dict[str, Any] = raised.get("attributes") or {}
            for name, value in attributes.items():
                with suppress(Exception):  # it can only be read, say
                    BaseException.__setattr__(error, name, value)
        except Exception:  # noqa: BLE001, S112 - whatever a user's class does
            continue
        return error
    return None


def _saying(kind: type[Exception], message: str) -> type[Exception] | None:
    """A class like ``kind`` whose text is the one that was kept: what its own is made of was not."""

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
    """``str(value)``, safe to store, of at most ``limit`` characters."""
    try:
        text = str(value)
    except Exception:  # noqa: BLE001 - a user's __str__ may do anything
        text = f"<{type(value).__name__} whose str() raises>"
    return clean_text(text, limit)


def _message(error: BaseException) -> str:
    text = to_text(error, MAX_MESSAGE)
    if isinstance(error, BaseExceptionGroup):  # its own message says only how many they are
        text = f"{text}: {_reasons(cast('BaseExceptionGroup[BaseException]', error))}"
    return clean_text(text, MAX_MESSAGE)


def _reasons(group: BaseExceptionGroup[BaseException]) -> str:
    found = [error for error in members(group) if not isinstance(error, BaseExceptionGroup)]
    shown = [f"{type(leaf).__name__}: {to_text(leaf, _MAX_REASON)}" for leaf in found[:_REASONS]]
    more = f" (and {len(found) - _REASONS} more)" if len(found) > _REASONS else ""
    return "; ".join(shown) + more


def members(error: BaseException) -> list[BaseException]:
    """The exception and, if it is a group, all exceptions and groups in it."""
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
    if len(text) > MAX_TRACEBACK:  # the end says where it was raised
        half = MAX_TRACEBACK // 2
        text = f"{text[:half]}\n… ({len(text) - 2 * half} characters) …\n{text[-half:]}"
    return clean_text(text, MAX_TRACEBACK + 200)
