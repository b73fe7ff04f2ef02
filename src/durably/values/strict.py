"""Strict inputs: pydantic's schema of a type, with what would change or drop a value refused.

Pydantic's own strict mode also refuses a ``dict`` for a model and ISO text for a ``datetime`` in Python,
and cannot be loosened by a model's configuration. So strictness is put where a value could be changed: at
scalars, and at unknown keys. What a type says for itself (``strict=False``, ``extra=...``) holds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date, datetime, time
from decimal import Decimal
from enum import Enum
from functools import partial
from typing import Any, NamedTuple, cast

from pydantic_core import PydanticCustomError, PydanticKnownError, SchemaValidator, core_schema

MAX_SAFE = 2**53 - 1
"""The largest integer of JavaScript. Larger ones are written as text over HTTP, so text may be given."""

_SCALARS = frozenset({"int", "float", "bool", "str", "bytes"})
_TIMES = frozenset({"datetime", "date", "time"})
_FIELDS = frozenset({"model-fields", "dataclass-args", "typed-dict"})
_CONFIGURED = frozenset({"model", "dataclass", "typed-dict"})
_OPAQUE = frozenset({"metadata", "serialization", "config", "default", "expected", "members"})
"""Of a schema, what is no schema."""
_NOT_FINITE = frozenset({"NaN", "Infinity", "-Infinity"})


class _Scope(NamedTuple):
    """What the configuration of the model around a schema says."""

    lax: bool = False
    """It says ``strict=False``, or has a serializer of its own, whose text may be given."""
    open: bool = False
    """It says what becomes of unknown keys."""
    numeric_times: bool = False
    """It says what a number means as a time."""
    key: bool = False
    """It is a key: in JSON that is text, which pydantic alone can tell from other text."""


def strict_validator(schema: Any, config: core_schema.CoreConfig | None) -> SchemaValidator:
    """A validator of inputs by the schema of a type."""
    # Without the validators that its models have already: those are lax.
    make: Any = SchemaValidator
    return cast("SchemaValidator", make(_strict(schema, _Scope()), config, _use_prebuilt=False))


def is_closed(schema: Mapping[str, Any]) -> bool:
    """Whether a model, dataclass or TypedDict leaves it open what becomes of unknown keys."""
    extra = schema.get("extra_behavior", "ignore")
    is_said = "extra_fields_behavior" in schema.get("config", {})
    return extra == "ignore" and not is_said and not schema.get("root_model")


def _strict(schema: Any, scope: _Scope) -> Any:
    if isinstance(schema, list | tuple):
        items = [_strict(item, scope) for item in cast("list[Any]", schema)]
        return items if isinstance(schema, list) else tuple(items)
    if not isinstance(schema, dict):
        return schema
    node = cast("dict[str, Any]", schema)
    kind = node.get("type")
    if not isinstance(kind, str):  # fields by name
        return {name: _strict(inner, scope) for name, inner in node.items()}
    if kind in _CONFIGURED:
        scope = _scope_of(node, scope)
    elif _writes_itself(node):
        scope = scope._replace(lax=True)
    made = {
        name: inner
        if name in _OPAQUE
        else _strict(inner, scope._replace(key=scope.key or name == "keys_schema"))
        for name, inner in node.items()
    }
    if kind in _FIELDS and not scope.open and node.get("extra_behavior", "ignore") == "ignore":
        made["extra_behavior"] = "forbid"
    if scope.lax or node.get("strict") is False:
        return made
    if kind in _SCALARS:
        made["strict"] = True
    guard = None if scope.key else _guard(kind, node, scope)
    return made if guard is None else _guarded(guard, made)


def _scope_of(node: dict[str, Any], around: _Scope) -> _Scope:
    config: dict[str, Any] | None = node.get("config")
    if config is None:  # of a TypedDict that has none, that around it holds
        return around if node["type"] == "typed-dict" else _Scope()
    return _Scope(
        config.get("strict") is False,
        "extra_fields_behavior" in config,
        "val_temporal_unit" in config or "ser_json_temporal" in config,
    )


def _writes_itself(node: dict[str, Any]) -> bool:
    """Whether a user's function serializes it, as a ``datetime`` to a number."""
    function = node.get("serialization", {}).get("function")
    function = getattr(function, "func", function)  # of a partial
    return function is not None and not str(function.__module__).startswith("pydantic")


def _guarded(guard: Callable[[Any], Any], node: dict[str, Any]) -> dict[str, Any]:
    ref = node.pop("ref", None)
    made = dict(core_schema.no_info_before_validator_function(guard, cast("Any", node)))
    return made if ref is None else {**made, "ref": ref}


def _guard(kind: str, node: dict[str, Any], scope: _Scope) -> Callable[[Any], Any] | None:
    """What is looked at before pydantic sees it: where strict is not strict, or too strict."""
    if kind == "int":
        return whole
    if kind == "float":
        return real
    if kind in _TIMES and not scope.numeric_times:
        return partial(moment, kind)
    if kind == "timedelta":
        return seconds
    if kind == "enum":
        return partial(member, "enum", node["members"])
    if kind == "literal":
        return partial(member, "literal_error", node["expected"])
    return None


def whole(value: Any) -> Any:
    """The digits of an integer that JavaScript cannot hold, as that integer."""
    if type(value) is str and value.removeprefix("-").isdecimal() and 16 <= len(value) <= 4_300:
        number = int(value)
        if abs(number) > MAX_SAFE and str(number) == value:
            return number
    return value


def real(value: Any) -> Any:
    """NaN and infinities as they are written, and no integer that a float cannot hold."""
    if isinstance(value, str) and value in _NOT_FINITE:
        return float(value)
    if isinstance(value, int) and abs(value) > MAX_SAFE:
        try:
            exact = float(value) == value
        except OverflowError:
            exact = False
        if not exact:
            raise PydanticCustomError(
                "float_exact", "Input should be a number that a float holds exactly"
            )
    return value


def moment(kind: str, value: Any) -> Any:
    """A time, or ISO text: a number, also as text, does not say whether it counts seconds."""
    is_number = isinstance(value, int | float | Decimal)
    if type(value) is str:
        try:
            float(value)
        except ValueError:
            pass
        else:
            is_number = True
    if is_number and not isinstance(value, datetime | date | time):
        raise PydanticCustomError(
            cast("Any", f"{kind}_type"),
            cast("Any", f"Input should be a valid {kind} as ISO 8601 text, not a number"),
        )
    return value


def seconds(value: Any) -> Any:
    """Not ``True`` for a second, which pydantic takes from Python alone."""
    if isinstance(value, bool):
        raise PydanticKnownError("time_delta_type")
    return value


def member(error: Any, members: list[Any], value: object) -> object:
    """Not ``True`` for 1: only values of a type that a member has."""
    if type(value) not in (bool, int, float, str):
        return value
    values = [item.value if isinstance(item, Enum) else item for item in members]
    if type(value) in map(type, [item for item in values if item == value] or values):
        return value
    expected = " or ".join(map(repr, values))
    raise PydanticKnownError(error, {"expected": expected})
