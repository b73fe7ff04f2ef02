"""Values as JSON text: what comes back is what went in, value and type, or it is refused.

An annotated value goes through pydantic's ``TypeAdapter``; one without annotation must be plain JSON.
Either way the text is decoded at once and the *decoded* value is what the caller goes on with, so
that a first run and a replay see the same thing. There is no pickle, and stored text never names a
class.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import math
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping
from types import CodeType
from typing import Any, Generic, NamedTuple, TypeVar, cast, get_args, get_origin
from weakref import WeakKeyDictionary

from pydantic import BaseModel, ConfigDict, PydanticUserError, TypeAdapter, ValidationError
from pydantic.errors import PydanticInvalidForJsonSchema
from pydantic_core import PydanticSerializationError

from .schema import AsWritten

T = TypeVar("T")

MAX_DEPTH = 200
MAX_NAME = 255
_MAX_INT_BITS = 14_000  # json refuses integers of more than 4,300 digits

_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode


class Unstorable(Exception):  # noqa: N818 - caught and named by the caller, never seen by a user
    """A value that would not come back as it is: ``problem`` at ``path``."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{problem} at {path}")
        self.path, self.problem = path, problem


class Kept(NamedTuple, Generic[T]):
    """A value and the text that it is kept as."""

    text: str
    value: T


class Codec(Generic[T]):
    """How values of one type are written and read."""

    def keep(self, value: T) -> Kept[T]:
        """Encode, decode again, and make sure that nothing changed; else ``Unstorable``."""
        raise NotImplementedError

    def decode(self, text: str) -> T:
        """The value of a text; ``Unstorable`` when it does not fit the type (any more)."""
        raise NotImplementedError

    def accept(self, value: Any) -> Kept[T]:
        """Keep a value that may still have to be validated (a dict for a model, say)."""
        return self.keep(value)

    def schema(self, *, written: bool = False) -> dict[str, Any]:
        """The type's JSON Schema; ``{}`` for any JSON, and for what no schema describes.

        It is of what may be given; ``written``: of what ``keep`` writes, which may be less (a ``Decimal``
        is always a string) or more (fields with a default, and computed ones, are always there).
        """
        return {}


class PlainCodec(Codec[Any]):
    """Plain JSON: None, bool, int, finite float, str, and lists and dicts with str keys of these."""

    def keep(self, value: Any) -> Kept[Any]:
        kind = cast("type[Any]", type(value))
        if value is None or kind is bool:
            return Kept(_encode(value), value)
        try:
            text = _encode(value)
            plain = _is_plain(value)
        except (TypeError, ValueError, RecursionError):
            plain, text = False, ""
        if not plain:
            raise _first_unplain(value)
        return Kept(text, value if kind is str else json.loads(text))

    def decode(self, text: str) -> Any:
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise Unstorable("$", f"not readable as JSON ({error})") from None


class TypedCodec(Codec[T]):
    """A type that pydantic knows."""

    def __init__(self, adapter: TypeAdapter[T]) -> None:
        self._adapter = adapter

    def keep(self, value: T) -> Kept[T]:
        text = self._write(value)
        decoded = self.decode(text)
        if decoded != value and (found := difference(value, decoded)):
            raise Unstorable(*found)
        return Kept(text, decoded)

    def accept(self, value: Any) -> Kept[T]:
        try:
            valid = self._adapter.validate_python(value)
        except ValidationError as error:
            raise _refusal(error) from None
        return self.keep(valid)

    def decode(self, text: str) -> T:
        try:
            return self._adapter.validate_json(text)
        except ValidationError as error:
            if "\\ud" not in text:
                raise _refusal(error) from None
        try:  # lone surrogates: json reads them, pydantic's parser does not
            return self._adapter.validate_python(json.loads(text))
        except ValidationError as error:
            raise _refusal(error) from None

    def schema(self, *, written: bool = False) -> dict[str, Any]:
        try:
            if written:
                return self._adapter.json_schema(mode="serialization", schema_generator=AsWritten)
            return self._adapter.json_schema()
        except PydanticInvalidForJsonSchema:  # some types can be kept as JSON, but not be described
            return {}

    def _write(self, value: T) -> str:
        try:
            return self._adapter.dump_json(value, ensure_ascii=True, warnings="error").decode()
        except (PydanticSerializationError, ValueError, RecursionError) as error:
            if "surrogates" not in str(error):
                raise Unstorable("$", _one_line(str(error))) from None
        try:  # pydantic's writer knows no lone surrogates; json's does
            return _encode(self._adapter.dump_python(value, mode="json", warnings="error"))
        except (PydanticSerializationError, ValueError, RecursionError) as error:
            raise Unstorable("$", _one_line(str(error))) from None


PLAIN: Codec[Any] = PlainCodec()
_STRING_SAFE = ConfigDict(
    ser_json_bytes="base64", val_json_bytes="base64", ser_json_inf_nan="strings"
)
_ANYTHING = (Any, object, inspect.Signature.empty, inspect.Parameter.empty)


def codec_for(annotation: Any) -> Codec[Any]:
    """The codec of a type annotation; plain JSON for ``Any``, ``object`` or none at all."""
    if annotation in _ANYTHING:
        return PLAIN
    try:
        return _typed(annotation)
    except TypeError:  # not hashable, as some Annotated[...] are
        return _make_typed(annotation)


def _make_typed(annotation: Any) -> Codec[Any]:
    if get_origin(annotation) in (Coroutine, Awaitable, Generator):  # its result is what is kept
        return codec_for(get_args(annotation)[-1])
    try:
        return TypedCodec(TypeAdapter(annotation, config=_STRING_SAFE))
    except PydanticUserError as error:
        if error.code != "type-adapter-config-unused":
            raise
        return TypedCodec(TypeAdapter(annotation))  # a model's own configuration holds


_typed = functools.lru_cache(maxsize=4096)(_make_typed)


def codec_of_returns(fn: Callable[..., Any]) -> Codec[Any]:
    """The codec of what ``fn`` returns, by its annotation; an awaitable counts as its result."""
    while isinstance(fn, functools.partial):
        fn = cast("functools.partial[Any]", fn).func
    fn = getattr(fn, "__func__", fn)
    annotations = getattr(fn, "__annotations__", None)
    if not annotations:
        return PLAIN
    annotation = annotations.get("return", Any)
    if not isinstance(annotation, str):
        return codec_for(annotation)
    code = fn.__code__
    if (codec := _by_code.get(code)) is None:
        codec = codec_for(evaluate_signature(fn).return_annotation)
        _by_code[code] = codec
    return codec


# A closure made anew in a loop shares its code, and so its annotation's meaning.
_by_code: WeakKeyDictionary[CodeType, Codec[Any]] = WeakKeyDictionary()


def evaluate_signature(fn: Callable[..., Any]) -> inspect.Signature:
    """The signature of ``fn`` with its annotations as types, not as text."""
    closure: dict[str, Any] = {}
    if inspect.isfunction(fn):
        closure.update(inspect.getclosurevars(fn).nonlocals)
    try:
        return inspect.signature(fn, eval_str=True, locals=closure)
    except NameError as error:
        name = getattr(fn, "__qualname__", repr(fn))
        raise TypeError(
            f"the annotations of {name} name {error.name!r}, which cannot be found from its module; "
            "define it at module level or pass returns="
        ) from None


def _is_plain(value: Any) -> bool:
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH + 1):
        below: list[Any] = []
        for item in level:
            kind = cast("type[Any]", type(item))
            if kind is str or kind is bool or item is None or kind is int or kind is float:
                continue  # the encoder has refused infinities and integers that are too long
            if kind is dict:
                if any(type(key) is not str for key in item):
                    return False
                below.extend(item.values())
            elif kind is list:
                below.extend(item)
            else:
                return False
        if not below:
            return True
        level = below
    return False


def _first_unplain(value: Any) -> Unstorable:
    """Find what is wrong with a value that is not plain JSON, nearest to the root first."""
    level: list[tuple[str, Any]] = [("$", value)]
    for _ in range(MAX_DEPTH + 1):
        below: list[tuple[str, Any]] = []
        for path, item in level:
            if problem := _unplain(item):
                return Unstorable(path, problem)
            if type(item) is dict:
                pairs = cast("dict[Any, Any]", item)
                for key in pairs:
                    if type(key) is not str:
                        return Unstorable(path, f"a dict with the {_a(key)} key {key!r}")
                below.extend((_member(path, key), child) for key, child in pairs.items())
            elif type(item) is list:
                items = cast("list[Any]", item)
                below.extend((f"{path}[{i}]", child) for i, child in enumerate(items))
        level = below[:100_000]
        if not level:
            return Unstorable("$", "a value that JSON cannot hold")
    return Unstorable(level[0][0][:200] + "…", f"a value nested deeper than {MAX_DEPTH} levels")


def _unplain(item: Any) -> str | None:
    kind = cast("type[Any]", type(item))
    if kind is float:
        return None if math.isfinite(item) else f"the float {item!r}"
    if kind is int:
        return None if item.bit_length() < _MAX_INT_BITS else "an integer of over 4,000 digits"
    if item is None or kind in (str, bool, dict, list):
        return None
    return _a(item, article=True)


def difference(before: Any, after: Any, path: str = "$", depth: int = 0) -> tuple[str, str] | None:
    """Where two values differ, as (path, problem); None when they only look as if they did."""
    if before is after or depth > MAX_DEPTH:
        return None
    if type(before) is not type(after):
        return path, f"{_a(before, article=True)} that would come back as {_a(after, article=True)}"
    if _is_nan(before) and _is_nan(after):
        return None
    if _keys(before) != _keys(after):
        return path, f"{_a(before, article=True)} whose keys would come back changed"
    for (inner, left), (_, right) in zip(_parts(before, path), _parts(after, path), strict=False):
        if left != right and (found := difference(left, right, inner, depth + 1)):
            return found
    if before == after or _has_parts(before) or _compares_by_identity(before):
        return None if _size(before) == _size(after) else (path, "a value that loses items")
    return path, f"{_a(before, article=True)} that would come back changed"


def _compares_by_identity(value: Any) -> bool:
    compare: Any = type(value).__eq__
    return compare is object.__eq__


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _keys(value: Any) -> set[Any]:
    return set(cast("Mapping[Any, Any]", value)) if isinstance(value, Mapping) else set()


def _has_parts(value: Any) -> bool:
    if isinstance(value, set | frozenset):
        return False
    return isinstance(value, Mapping | list | tuple | BaseModel) or dataclasses.is_dataclass(value)


def _size(value: Any) -> int:
    return len(value) if hasattr(value, "__len__") else 0


def _parts(value: Any, path: str) -> list[tuple[str, Any]]:
    if isinstance(value, Mapping):
        mapping = cast("Mapping[Any, Any]", value)
        return [(_member(path, key), item) for key, item in mapping.items()]
    if isinstance(value, list | tuple):
        items = cast("list[Any]", value)
        return [(f"{path}[{i}]", item) for i, item in enumerate(items)]
    if isinstance(value, BaseModel):
        return [(_member(path, name), item) for name, item in value.__dict__.items()]
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value)]
        return [(_member(path, name), getattr(value, name)) for name in names]
    return []


def _a(value: Any, *, article: bool = False) -> str:
    name = type(value).__name__
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}" if article else name


def _member(path: str, key: Any) -> str:
    text = str(key)
    return f"{path}.{text}" if text.isidentifier() else f"{path}[{text[:50]!r}]"


def _refusal(error: ValidationError) -> Unstorable:
    details = error.errors(include_url=False, include_context=False, include_input=False)
    path = "$"
    for part in details[0]["loc"]:
        path = f"{path}[{part}]" if isinstance(part, int) else _member(path, part)
    more = f" (and {len(details) - 1} more)" if len(details) > 1 else ""
    return Unstorable(path, _one_line(details[0]["msg"]) + more)


def _one_line(text: str) -> str:
    return " ".join(clean_text(text, 500).split())


def clean_text(text: str, limit: int) -> str:
    """Any text, made safe to store: no NUL, no lone surrogates, at most ``limit`` characters."""
    if len(text) > limit:
        text = f"{text[:limit]}… ({len(text) - limit} more characters)"
    if not text.isascii() or "\0" in text:
        text = text.encode("utf-8", "backslashreplace").decode("utf-8").replace("\0", "\\x00")
    return text


def check_name(what: str, name: Any, limit: int = MAX_NAME) -> str:
    """``name`` if it can be a name (job, step, key, label); else ``ValueError`` that says why."""
    if not isinstance(name, str):
        raise TypeError(f"{what} must be a str, not {_a(name, article=True)}")
    if not name or len(name) > limit:
        raise ValueError(f"{what} must have 1 to {limit} characters, not {len(name)}")
    if name.isascii() and name.isprintable():
        return name
    for char in name:
        if ord(char) < 32 or 0x7F <= ord(char) < 0xA0 or 0xD800 <= ord(char) < 0xE000:
            raise ValueError(f"{what} has the character {char!a}, which no name may hold")
    return name


def dump_json(value: Any) -> str:
    """Plain JSON that Durably itself writes (labels, errors): compact and ASCII."""
    return _encode(value)


def load_json(text: str | None) -> Any:
    """Plain JSON that Durably itself reads; None stays None."""
    return None if text is None else json.loads(text)
