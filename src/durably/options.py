"""Every option, limit and duration that a user gives, checked in one place.

What cannot work is refused at once, with its name, its value and what is allowed.
"""

from __future__ import annotations

import operator
from typing import Any

from .errors import ConfigurationError
from .runtime import seconds

MAX_DURATION = 3_155_760_000.0
"""The longest duration, in seconds: a hundred years. Longer ones overflow clocks and columns."""
MAX_NUMBER = 2**53 - 1
"""The largest whole number: exact in every language, and in every column."""


def one_of(name: str, value: Any, allowed: tuple[str, ...]) -> Any:
    """An option that has few values."""
    if value not in allowed:
        raise ConfigurationError(f"{name} must be one of {', '.join(allowed)}, not {value!r}")
    return value


def flag(name: str, value: Any) -> bool:
    """An option that is on or off. ``"false"`` is neither."""
    if not isinstance(value, bool):
        raise ConfigurationError(f"{name} must be True or False, not {value!r}")
    return value


def whole(name: str, value: Any, least: int = 0, most: int = MAX_NUMBER) -> int:
    """A whole number from ``least`` to ``most``."""
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or not least <= number <= most:
        kind = "a whole number, " if number is None else ""
        allowed = f"{least} or more" if most == MAX_NUMBER else f"{least} to {most}"
        raise ConfigurationError(f"{name} must be {kind}{allowed}, not {value!r}")
    return number


def duration(name: str, value: Any) -> float:
    """A duration of 0 or more, in seconds."""
    number = _seconds(name, value)
    if not 0 <= number <= MAX_DURATION:
        raise ConfigurationError(f"{name} must be 0 s to 100 years, not {value!r}")
    return number


def positive(name: str, value: Any, least: float = 0.0) -> float:
    """A duration of more than nothing, and of at least ``least``, in seconds."""
    number = _seconds(name, value)
    if not max(least, 5e-324) <= number <= MAX_DURATION:
        allowed = f"at least {least:g} s" if least else "more than 0 s"
        raise ConfigurationError(f"{name} must be {allowed} and at most 100 years, not {value!r}")
    return number


def optional(name: str, value: Any) -> float | None:
    """A duration of 0 or more, in seconds; None for no limit."""
    return None if value is None else duration(name, value)


def factor(name: str, value: Any) -> float:
    """A number of 1 or more."""
    try:
        number = float("nan") if isinstance(value, bool | str) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = float("nan")
    if not 1 <= number < float("inf"):
        raise ConfigurationError(f"{name} must be a number of 1 or more, not {value!r}")
    return number


def text(name: str, value: Any) -> str:
    """A text, as an id is."""
    if not isinstance(value, str):
        raise ConfigurationError(f"{name} must be a str, not {value!r}")
    return value


def _seconds(name: str, value: Any) -> float:
    if not isinstance(value, bool | str | bytes):
        try:
            return seconds(value)
        except (TypeError, ValueError, OverflowError):
            pass
    raise ConfigurationError(f"{name} must be seconds or a timedelta, not {value!r}")


def check_leases(heartbeat_interval: float, stale_threshold: float) -> None:
    """A lease must outlast a heartbeat that is late."""
    if heartbeat_interval * 2 > stale_threshold:
        raise ConfigurationError(
            f"stale_threshold ({stale_threshold:g} s) must be at least twice the "
            f"heartbeat_interval ({heartbeat_interval:g} s), or runs are taken from live workers"
        )
