"""Values as JSON text: what comes back is what went in, value and type, or it is refused.

An annotated value goes through pydantic's ``TypeAdapter``; one without annotation must be plain JSON.
Either way the text is decoded at once and the *decoded* value is what the caller goes on with, so
that a first run and a replay see the same thing. There is no pickle, and stored text never names a
class.
"""

from __future__ import annotations

import functools
import inspect
import json
import math
import re
from collections.abc import Awaitable, Callable, Coroutine, Generator
from types import FunctionType, GenericAlias
from typing import Any, Generic, NamedTuple, Never, NoReturn, TypeVar, cast, get_args, get_origin
from weakref import WeakKeyDictionary

from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError
from pydantic.errors import PydanticInvalidForJsonSchema
from pydantic_core import CoreConfig, PydanticSerializationError

from .difference import MAX_DEPTH, a_type, difference, in_one_order, member, retyped
from .schema import AsGiven, AsWritten
from .signatures import annotated, annotations_of, evaluate, names_by_text
from .strict import strict_validator
from .text import clean_text, dump_json

T = TypeVar("T")

_MAX_INT_BITS = 14_000  # json refuses integers of more than 4,300 digits


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

    def restore(self, text: str) -> T:
        """Decode what was kept: ``Unstorable`` also when it would come back as another type by now."""
        return self.decode(text)

    def accept(self, value: Any) -> Kept[T]:
        """Keep a value that may still have to be validated (a dict for a model, say)."""
        return self.keep(value)

    def parse(self, text: str) -> T:
        """The value of JSON that is given from outside, as strict as ``accept``."""
        return self.decode(text)

    def strict(self) -> Codec[T]:
        """The codec that accepts only what it need not change: see ``StrictCodec``."""
        return self

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
            return Kept(dump_json(value), value)
        try:
            text = dump_json(value)
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

    def __init__(self, adapter: TypeAdapter[T], config: CoreConfig | None = None) -> None:
        self._adapter = adapter
        self._config = config
        """What the adapter was made with."""

    def strict(self) -> Codec[T]:
        return StrictCodec(self._adapter, self._config)

    def keep(self, value: T) -> Kept[T]:
        text = self._write(value)
        try:
            return self._checked(text, value)
        except Unstorable:
            # As pydantic writes for itself alone: without computed fields, which a model that
            # forbids or keeps unknown names reads as such, and with Json[...] as it was given.
            exact = self._write(value, round_trip=True)
            if exact == text:
                raise
        return self._checked(exact, value)

    def _checked(self, text: str, value: T) -> Kept[T]:
        try:
            decoded = self.decode(text)
        except Unstorable as problem:
            if problem.problem.startswith("Input should be a valid number"):
                problem = Unstorable(problem.path, problem.problem + _NOT_FINITE)
            raise problem from None
        if found := difference(value, decoded):
            raise Unstorable(*found)
        return Kept(text, decoded)

    def accept(self, value: Any) -> Kept[T]:
        return self.keep(self._valid(self._adapter.validator, value))

    def _valid(self, validator: Any, value: Any) -> T:
        try:
            return cast("T", validator.validate_python(value, by_alias=True, by_name=True))
        except ValidationError as error:
            raise _refusal(error) from None
        except PydanticUserError as error:
            raise Unstorable("$", _first_sentence(error)) from None

    def decode(self, text: str) -> T:
        return self._read(self._adapter.validator, text)

    def _read(self, validator: Any, text: str) -> T:
        # Names are what is written, and aliases what a client may send.
        try:
            return cast("T", validator.validate_json(text, by_alias=True, by_name=True))
        except ValidationError as error:
            if "\\ud" not in text:
                raise _refusal(error) from None
        except PydanticUserError as error:
            raise Unstorable("$", _first_sentence(error)) from None
        # Lone surrogates: json reads them, pydantic's parser does not.
        return self._valid(validator, json.loads(text))

    def restore(self, text: str) -> T:
        value = self.decode(text)
        found = self._retyped(text, value, round_trip=False)
        if found and self._retyped(
            text, value, round_trip=True
        ):  # ``keep`` may have written either
            raise Unstorable(*found)
        return value

    def _retyped(self, text: str, value: T, *, round_trip: bool) -> tuple[str, str] | None:
        if (again := self._write(value, round_trip=round_trip)) == text:
            return None
        before, after = json.loads(text), json.loads(again)
        found = retyped(before, after)
        return found and retyped(in_one_order(before), in_one_order(after)) and found

    def schema(self, *, written: bool = False) -> dict[str, Any]:
        try:
            if written:
                return self._adapter.json_schema(mode="serialization", schema_generator=AsWritten)
            return self._adapter.json_schema()
        except PydanticInvalidForJsonSchema:  # some types can be kept as JSON, but not be described
            return {}

    def _write(self, value: T, *, round_trip: bool = False) -> str:
        try:
            return self._adapter.dump_json(
                value, ensure_ascii=True, warnings="error", round_trip=round_trip
            ).decode()
        except PydanticUserError as error:
            raise Unstorable("$", _first_sentence(error)) from None
        except (PydanticSerializationError, ValueError, RecursionError) as error:
            if "surrogates" not in str(error):
                raise _unwritable(value, error) from None
        try:  # pydantic's writer knows no lone surrogates; json's does
            return dump_json(
                self._adapter.dump_python(
                    value, mode="json", warnings="error", round_trip=round_trip
                )
            )
        except (PydanticSerializationError, ValueError, RecursionError) as error:
            raise _unwritable(value, error) from None


class StrictCodec(TypedCodec[T]):
    """A type whose values are given from outside: what would be changed or dropped is refused.

    What is stored is read as by any other codec, for it was given when other rules may have held.
    """

    def __init__(self, adapter: TypeAdapter[T], config: CoreConfig | None) -> None:
        super().__init__(adapter, config)
        if not isinstance(cast("Any", adapter.core_schema), dict):  # its type put off building it
            adapter.rebuild(force=True)
        self._validator = strict_validator(adapter.core_schema, config)

    def keep(self, value: T) -> Kept[T]:
        """As it may be given again: without computed fields, which are unknown keys of an input."""
        text = self._write(value, round_trip=True)  # it may be an iterator, so once if it fails
        try:
            return self._checked(text, value)
        except Unstorable:
            return super().keep(value)

    def accept(self, value: Any) -> Kept[T]:
        return self.keep(self._valid(self._validator, value))

    def parse(self, text: str) -> T:
        return self._read(self._validator, text)

    def schema(self, *, written: bool = False) -> dict[str, Any]:
        if written:
            return super().schema(written=True)
        try:
            return self._adapter.json_schema(schema_generator=AsGiven)
        except PydanticInvalidForJsonSchema:
            return {}


PLAIN: Codec[Any] = PlainCodec()
_STRING_SAFE = ConfigDict(
    ser_json_bytes="base64", val_json_bytes="base64", ser_json_inf_nan="strings"
)
_STRING_SAFE_CORE = CoreConfig(
    ser_json_bytes="base64", val_json_bytes="base64", ser_json_inf_nan="strings"
)
_ANYTHING = (Any, object, NoReturn, Never, inspect.Signature.empty, inspect.Parameter.empty)


def codec_for(annotation: Any) -> Codec[Any]:
    """The codec of a type annotation; plain JSON for ``Any``, ``object`` or none at all, and for what
    never returns.

    Raises ``TypeError`` for a type that cannot be kept as JSON.
    """
    if annotation in _ANYTHING:
        return PLAIN
    try:
        hash(annotation)
    except TypeError:  # as some Annotated[...] are
        return _make_typed(annotation)
    return _typed(annotation, repr(annotation))


def _make_typed(annotation: Any) -> Codec[Any]:
    if get_origin(annotation) in (Coroutine, Awaitable, Generator):  # its result is what is kept
        return codec_for(get_args(annotation)[-1])
    if names_by_text(annotation):
        raise TypeError(f"{annotation!r} names a type by text; pass the type itself")
    try:
        return _adapted(annotation)
    except (PydanticUserError, NameError) as error:
        raise TypeError(
            f"{_shown(annotation)} is not a type that can be kept as JSON: {_first_sentence(error)}; "
            "annotate one that can, or pass it as returns="
        ) from None


def _adapted(annotation: Any) -> TypedCodec[Any]:
    try:
        return TypedCodec(TypeAdapter(annotation, config=_STRING_SAFE), _STRING_SAFE_CORE)
    except PydanticUserError as error:
        if error.code != "type-adapter-config-unused":
            raise
        return TypedCodec(TypeAdapter(annotation))  # a model's own configuration holds


@functools.lru_cache(maxsize=4096)
def _typed(annotation: Any, order: str) -> Codec[Any]:
    """The codec of a type. ``A | B == B | A`` to Python, not to pydantic: ``order`` tells them apart."""
    return _make_typed(annotation)


def codec_of_returns(fn: Callable[..., Any]) -> Codec[Any]:
    """The codec of what ``fn`` returns, by its annotation; an awaitable counts as its result.

    Raises ``TypeError`` for an annotation that cannot be found or kept.
    """
    fn = annotated(fn)
    if not isinstance(fn, FunctionType):
        annotation = annotations_of(fn).get("return", Any)
        return PLAIN if annotation is Any else codec_for(evaluate(annotation, fn))
    # By the function, not by its code: what wraps another, and closures over a type, share theirs.
    if (codec := _by_function.get(fn)) is None:
        codec = codec_for(evaluate(annotations_of(fn).get("return", Any), fn))
        _by_function[fn] = codec
    return codec


_by_function: WeakKeyDictionary[FunctionType, Codec[Any]] = WeakKeyDictionary()


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
                        return Unstorable(path, f"a dict with the {a_type(key)} key {key!r}")
                below.extend((member(path, key), child) for key, child in pairs.items())
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
    return a_type(item, article=True)


_MISFIT = re.compile(
    r"Expected `(.+?)` - .*\[(?:field_name='(\w+)', )?.*input_type=(\S+)\]", re.DOTALL
)
_BYTES = (
    "bytes that are no UTF-8, in a class whose configuration keeps bytes as text: give it "
    "ConfigDict(ser_json_bytes='base64', val_json_bytes='base64')"
)
_NOT_FINITE = (
    " (a float that is not finite is kept in a class with ConfigDict(ser_json_inf_nan='strings'))"
)


def _unwritable(value: Any, error: Exception) -> Unstorable:
    text = str(error)
    if "invalid utf-8" in text:
        return Unstorable("$", _BYTES)
    if (misfit := _MISFIT.search(text)) is None:
        return Unstorable("$", _one_line(text))
    expected, field, kind = misfit.groups()
    problem = f"{'an' if kind[:1].lower() in 'aeiou' else 'a'} {kind} where {expected} is annotated"
    if field is None and type(value).__name__ != kind:
        problem = f"{a_type(value, article=True)} with {problem}"
    return Unstorable(member("$", field) if field else "$", _one_line(problem))


def _refusal(error: ValidationError) -> Unstorable:
    details = error.errors(include_url=False, include_context=False, include_input=False)
    path = "$"
    for part in details[0]["loc"]:
        if isinstance(part, str):  # in a union: the type as it was written
            part = _GUARDED.sub(r"\1", part)
        path = f"{path}[{part}]" if isinstance(part, int) else member(path, part)
    more = f" (and {len(details) - 1} more)" if len(details) > 1 else ""
    return Unstorable(path, _one_line(details[0]["msg"]) + more)


_GUARDED = re.compile(r"function-before\[[\w.]+\(\), ((?:[^\[\]]|\[[^\]]*\])*)\]")


def _first_sentence(error: Exception) -> str:
    """Of what pydantic says: the rest is about its options, and where to read more."""
    return _one_line(str(error)).partition(". ")[0].rstrip(".")


def _shown(annotation: Any) -> str:
    plain = isinstance(annotation, type) and not isinstance(annotation, GenericAlias)
    return annotation.__qualname__ if plain else repr(annotation)


def _one_line(text: str) -> str:
    return " ".join(clean_text(text, 500).split())
