"""Checks of names, labels, keys and scopes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import (
    Any,
    Literal,
)

from pydantic import PydanticUserError, TypeAdapter, ValidationError

from ..errors import ConfigurationError, InvalidInputError
from ..values.difference import a_type

MAX_NAME = 255


def check_name(what: str, name: Any, limit: int = MAX_NAME) -> str:
    """``name`` if it can be a name (job, step, key, label); else ``ValueError`` that says why."""
    if not isinstance(name, str):
        raise TypeError(f"{what} must be a str, not {a_type(name, article=True)}")
    if not name or len(name) > limit:
        raise ValueError(f"{what} must have 1 to {limit} characters, not {len(name)}")
    if name.isascii() and name.isprintable():
        return name
    for char in name:
        if ord(char) < 32 or 0x7F <= ord(char) < 0xA0 or 0xD800 <= ord(char) < 0xE000:
            raise ValueError(f"{what} has the character {char!a}, which no name may hold")
    return name


MAX_LABELS = 64


def check_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """Labels, checked: at most 64, names and values of 1 to 255 characters."""
    given: Any = labels
    if not isinstance(given, Mapping):
        raise InvalidInputError(f"labels must be a mapping of str to str, not {labels!r}")
    if len(labels) > MAX_LABELS:
        raise InvalidInputError(f"a run has at most {MAX_LABELS} labels, not {len(labels)}")
    for name, value in labels.items():
        check_given_name(f"label name {name!r}", name)
        check_given_name(f"label {name!r}", value)
        if '"' in name or "\\" in name:
            raise InvalidInputError(f"label name {name!r} may not hold a quote or a backslash")
    return dict(labels)


class LabelSchema:
    """Which labels there are: the fields of a pydantic model or a TypedDict."""

    def __init__(self, labels: Any) -> None:
        try:
            self._adapter: TypeAdapter[Any] = TypeAdapter(labels)
            schema = self._adapter.json_schema()
        except PydanticUserError as error:
            raise ConfigurationError(f"labels={labels!r} cannot be used: {error.message}") from None
        if "properties" not in schema:
            raise ConfigurationError(
                f"labels must be a pydantic model or a TypedDict with fields, not {labels!r}"
            )
        self._names: set[str] = set(schema["properties"])
        self._is_open = bool(schema.get("additionalProperties"))

    def check(self, labels: Mapping[str, str]) -> None:
        """Raise ``InvalidInputError`` for the first label that does not fit."""
        if not self._is_open and (unknown := [name for name in labels if name not in self._names]):
            known = ", ".join(sorted(self._names))
            raise InvalidInputError(f"there is no label {unknown[0]!r}; there are: {known}")
        try:
            self._adapter.validate_python(labels)
        except ValidationError as error:
            problem = error.errors(include_url=False, include_context=False)[0]
            name = problem["loc"][0] if problem["loc"] else None
            which = "the labels do" if name is None else f"label {name!r} does"
            raise InvalidInputError(
                f"{which} not fit the labels schema: {problem['msg']}"
            ) from None


def check_key(what: Literal["idempotency_key", "concurrency_key"], key: str | None) -> str | None:
    """A key, checked: 1 to 255 characters."""
    return None if key is None else check_given_name(what, key)


def check_coalesce(coalesce: Literal["skip"] | None, concurrency_key: str | None) -> bool:
    """Whether to coalesce, checked: only with a concurrency key."""
    if coalesce is None:
        return False
    if coalesce != "skip":
        raise InvalidInputError(f'coalesce must be "skip" or None, not {coalesce!r:.100}')
    if concurrency_key is None:
        raise InvalidInputError(
            'coalesce="skip" looks for a run that waits with the same concurrency key; pass a '
            "concurrency_key, or leave coalesce out"
        )
    return True


def check_scope(scope: str) -> str:
    """A scope, checked: 1 to 255 characters, or '' for none."""
    return scope if scope == "" else check_given_name("scope", scope)


def check_given_name(what: str, name: Any) -> str:
    try:
        return check_name(what, name)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(str(error)) from None
