"""Whether a value came back as it was: in value and in type, with all that it holds."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta, tzinfo
from decimal import Decimal
from fractions import Fraction
from typing import Any, cast
from uuid import UUID

from pydantic import BaseModel

MAX_DEPTH = 200


def difference(before: Any, after: Any) -> tuple[str, str] | None:
    """Where two values differ in value or in type, as (path, problem).

    ``==`` is not enough: ``True == 1``, and a class decides itself what it compares. An ``int`` that
    comes back as the equal ``float`` is no difference, where a ``float`` is annotated.
    """
    found = _differ(before, after, 0, set())
    return None if found is None else (f"${found[0]}", found[1])


Found = tuple[str, str] | None
_Seen = set[tuple[int, int]]

_ATOMS = frozenset(
    {str, int, float, bool, bytes, type(None), date, timedelta, UUID, Fraction, complex}
)
"""Where equal values of one type are the same."""
_BESIDE: dict[type[Any], str] = {defaultdict: "default_factory", deque: "maxlen"}
"""What a container has beside its items."""


def _differ(before: Any, after: Any, depth: int, seen: _Seen) -> Found:
    if before is after:
        return None
    kind = cast("Any", type(before))
    is_of_its_kind = type(after) is kind
    if not is_of_its_kind:
        if kind is int and type(after) is float and before == after:
            return None
        return (
            "",
            f"{a_type(before, article=True)} that would come back as {a_type(after, article=True)}",
        )
    if kind in _ATOMS:
        is_nan = before != before and after != after
        return None if before == after or is_nan else _changed(before)
    if depth > MAX_DEPTH:
        return None if _equal(before, after) else _changed(before)
    beside = _BESIDE.get(kind)
    if beside is not None and getattr(before, beside) != getattr(after, beside):
        return _changed(before)
    return _comparison(kind)(before, after, depth, seen)


@functools.lru_cache(maxsize=4096)
def _comparison(kind: Any) -> Callable[[Any, Any, int, _Seen], Found]:
    if issubclass(kind, Mapping):
        return _differ_in_items
    if issubclass(kind, list | tuple | deque):
        return _differ_in_order
    if issubclass(kind, set | frozenset):
        return _differ_in_members
    if issubclass(kind, BaseModel) or dataclasses.is_dataclass(kind) or _is_opaque(kind):
        return _differ_in_attributes
    return _differ_as_a_whole


def _differ_as_a_whole(before: Any, after: Any, depth: int, seen: _Seen) -> Found:
    return None if _is_same(before, after) else _changed(before)


def _changed(value: Any) -> Found:
    return "", f"{a_type(value, article=True)} that would come back changed"


def _equal(before: Any, after: Any) -> bool:
    try:
        return bool(before == after)
    except Exception:  # noqa: BLE001 - a class's own comparison may do anything
        return False


def _is_same(before: Any, after: Any) -> bool:
    """Two values of one type, neither of which has parts."""
    if isinstance(before, Decimal):
        return bool(before.as_tuple() == after.as_tuple())
    if isinstance(before, datetime | time):
        if before.tzinfo is None and before.fold != after.fold:  # in a fixed zone it means nothing
            return False
        return _equal(before, after) and _is_same_zone(before.tzinfo, after.tzinfo)
    return _equal(before, after)


def _is_same_zone(before: tzinfo | None, after: tzinfo | None) -> bool:
    """Whether two zones mean the same, at any time: JSON keeps the offset of one moment alone."""
    if before is None or after is None:
        return before is after
    if (key := getattr(before, "key", None)) is not None and key == getattr(after, "key", None):
        return True
    try:
        offset = before.utcoffset(None)
        return offset is not None and offset == after.utcoffset(None)
    except Exception:  # noqa: BLE001 - a zone of somebody else's
        return False


def _differ_in_order(before: Any, after: Any, depth: int, seen: _Seen) -> Found:
    if len(before) != len(after):
        return "", f"{a_type(before, article=True)} that would come back with {len(after)} items"
    # Most of what there is, at the speed of C.
    kinds = list(map(type, before))
    if _ATOMS.issuperset(kinds) and kinds == list(map(type, after)) and before == after:
        return None
    for i, (left, right) in enumerate(zip(before, after, strict=True)):
        if found := _differ(left, right, depth + 1, seen):
            return f"[{i}]{found[0]}", found[1]
    return None


def _differ_in_items(before: Any, after: Any, depth: int, seen: _Seen) -> Found:
    items = cast("Mapping[Any, Any]", before).items(), cast("Mapping[Any, Any]", after).items()
    if len(items[0]) != len(items[1]):
        return "", f"{a_type(before, article=True)} whose keys would come back changed"
    for (key, left), (other, right) in zip(*items, strict=True):
        if _differ(key, other, depth + 1, seen):
            return "", f"{a_type(before, article=True)} whose keys would come back changed"
        if found := _differ(left, right, depth + 1, seen):
            return f"{member('', key)}{found[0]}", found[1]
    return None


def _differ_in_members(before: Any, after: Any, depth: int, seen: _Seen) -> Found:
    others = {item: item for item in after}
    if len(before) != len(others):
        return _changed(before)
    for item in before:
        if item not in others or _differ(item, others[item], depth + 1, seen):
            return _changed(before)
    return None


def _differ_in_attributes(before: Any, after: Any, depth: int, seen: _Seen) -> Found:
    if (id(before), id(after)) in seen:
        return None
    seen.add((id(before), id(after)))
    left, right = _attributes(before), _attributes(after)
    for name, value in left.items():
        if name not in right:
            return f".{name}", f"{a_type(value, article=True)} that would be lost"
        other = right[name]
        if type(value) in _ATOMS and type(value) is type(other) and value == other:
            continue
        if found := _differ(value, other, depth + 1, seen):
            return f"{member('', name)}{found[0]}", found[1]
    for name in right.keys() - left.keys():
        return f".{name}", f"{a_type(right[name], article=True)} that would be added"
    return None


def _attributes(value: Any) -> Mapping[str, Any]:
    """All that an object holds: fields that do not compare, too, extra ones, private ones."""
    kind = cast("Any", type(value))
    is_model, fields = _fields(kind)
    held: Mapping[str, Any] = getattr(value, "__dict__", {})
    extra = (value.__pydantic_extra__, value.__pydantic_private__) if is_model else ()
    if held.keys() == fields and not any(extra):
        return held
    found = {name: getattr(value, name) for name in fields if hasattr(value, name)}
    for more in (*extra, held):
        found |= {name: item for name, item in (more or {}).items() if not _is_cached(kind, name)}
    return found


def _is_cached(kind: type[Any], name: str) -> bool:
    """Whether an attribute was computed from the others when it was first read."""
    return isinstance(getattr(kind, name, None), functools.cached_property)


@functools.lru_cache(maxsize=4096)
def _fields(kind: type[Any]) -> tuple[bool, frozenset[str]]:
    """Whether a class is pydantic's model, and what fields and slots it has."""
    if issubclass(kind, BaseModel):
        return True, frozenset(kind.__pydantic_fields__)
    if dataclasses.is_dataclass(kind):
        return False, frozenset(field.name for field in dataclasses.fields(kind)) | _slots(kind)
    return False, _slots(kind)


def _slots(kind: type[Any]) -> frozenset[str]:
    return frozenset(
        name
        for base in kind.__mro__
        for name, value in vars(base).items()
        if inspect.ismemberdescriptor(value)
    )


def _is_opaque(kind: type[Any]) -> bool:
    """Whether a class compares by identity, so that only what its objects hold can be compared."""
    compare: Any = kind.__eq__
    return compare is object.__eq__


_SCALARS = frozenset({bool, int, float, str})


def retyped(before: Any, after: Any, path: str = "$") -> tuple[str, str] | None:
    """Where JSON that was kept would be written as another type today. Of what is there on both sides:
    fields come and go, and null is nothing."""
    if type(before) in _SCALARS and type(after) in _SCALARS:
        if type(before) is type(after):
            return None
        return (
            path,
            f"{a_type(before, article=True)} that would now be {a_type(after, article=True)}",
        )
    if isinstance(before, dict) and isinstance(after, dict):
        one, other = cast("dict[str, Any]", before), cast("dict[str, Any]", after)
        pairs = [(member(path, key), one[key], other[key]) for key in one if key in other]
    elif isinstance(before, list) and isinstance(after, list):
        items = zip(cast("list[Any]", before), cast("list[Any]", after), strict=False)
        pairs = [(f"{path}[{i}]", left, right) for i, (left, right) in enumerate(items)]
    else:
        return None
    for inner, left, right in pairs:
        if found := retyped(left, right, inner):
            return found
    return None


def in_one_order(value: Any) -> Any:
    """JSON with each list in one order: a set is written in any."""
    if isinstance(value, list):
        return sorted(map(in_one_order, cast("list[Any]", value)), key=json.dumps)
    if isinstance(value, dict):
        return {key: in_one_order(item) for key, item in cast("dict[str, Any]", value).items()}
    return value


def a_type(value: Any, *, article: bool = False) -> str:
    """What a value is, by its type: ``int``; with ``article``, ``an int``."""
    name = type(value).__name__
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}" if article else name


def member(path: str, key: Any) -> str:
    """The path of a part of what is at ``path``."""
    text = str(key)
    return f"{path}.{text}" if text.isidentifier() else f"{path}[{text[:50]!r}]"
