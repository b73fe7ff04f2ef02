"""JSON that browsers and untrusted clients read and write: bytes to values and back, strictly."""

from __future__ import annotations

import json
import math
import re
from typing import Any, cast

from ..values.text import dump_json

MAX_SAFE = 2**53 - 1  # the largest integer that a JavaScript number holds exactly
MAX_DEPTH = 100
MAX_KEYS = 10_000

# Not \d{16}: five times as slow, and every frame is searched.
_UNSAFE_DIGITS = re.compile("[0-9][0-9]{15}")


class WireError(ValueError):
    """Invalid data came over the wire; ``code`` is a stable identifier of what is wrong."""

    def __init__(
        self, message: str, code: str = "invalid_request", path: str | None = None
    ) -> None:
        super().__init__(message)
        self.code, self.path = code, path


def dump(value: Any) -> bytes:
    """Encode JSON for the wire: compact, ASCII, on one line, no number that JavaScript would change."""
    text = dump_json(value)
    if _UNSAFE_DIGITS.search(text):
        text = dump_json(_safe(value))
    return text.encode()


def _safe(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _safe(item) for key, item in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [_safe(item) for item in cast("list[Any]", value)]
    if type(value) is int and abs(value) > MAX_SAFE:
        return str(value)
    return value


def load(body: bytes) -> Any:
    """Parse JSON from the wire: UTF-8, at most 100 levels and 10,000 keys.

    Raises ``WireError``, also for what Python's parser would change or drop: NaN, numbers beyond a
    float, duplicate keys.
    """
    try:
        value = json.loads(
            body.decode(),
            parse_constant=_refuse_constant,
            parse_float=_finite,
            object_pairs_hook=_members,
        )
    except WireError:
        raise
    except (ValueError, RecursionError) as error:
        raise _malformed(_reason(error)) from None
    _check_shape(value)
    return value


def _malformed(reason: str) -> WireError:
    return WireError(f"invalid JSON in the body: {reason}", "malformed_json")


def _reason(error: ValueError | RecursionError) -> str:
    match error:
        case json.JSONDecodeError():
            return str(error)
        case UnicodeDecodeError():
            return "not UTF-8"
        case RecursionError():
            return "nested too deeply"
        case _:
            return "a number has too many digits"


def _refuse_constant(name: str) -> Any:
    raise _malformed(f"{name} is not valid JSON")


def _finite(text: str) -> float:
    if math.isinf(value := float(text)):
        raise _malformed(f"{text[:40]} is too large for a float")
    return value


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _malformed("duplicate key in an object")
    return members


def _check_shape(value: Any) -> None:
    level, keys = [value], 0
    for _ in range(MAX_DEPTH + 1):
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                keys += len(cast("dict[str, Any]", item))
                below.extend(cast("dict[str, Any]", item).values())
            elif isinstance(item, list):
                below.extend(cast("list[Any]", item))
        if keys > MAX_KEYS:
            raise WireError(f"body must have at most {MAX_KEYS:,} keys", "too_complex")
        if not below:
            return
        level = below
    raise WireError(f"body must be nested at most {MAX_DEPTH} levels deep", "too_complex")
