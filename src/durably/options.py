"""The options of an instance, checked: what cannot work is refused at once, with what to do."""

from __future__ import annotations

from typing import Any

from .errors import ConfigurationError
from .runtime import Seconds, seconds
from .worker import WorkerOptions


def one_of(name: str, value: Any, allowed: tuple[str, ...]) -> Any:
    """An option that has few values."""
    if value not in allowed:
        raise ConfigurationError(f"{name} must be one of {', '.join(allowed)}, not {value!r}")
    return value


def positive(name: str, value: Seconds) -> float:
    """A duration of more than nothing, in seconds."""
    try:
        number = seconds(value)
    except (TypeError, ValueError):
        raise ConfigurationError(f"{name} must be seconds or a timedelta, not {value!r}") from None
    if not 0 < number < float("inf"):
        raise ConfigurationError(f"{name} must be more than 0, not {value!r}")
    return number


def check_options(options: WorkerOptions, max_recoveries: int) -> None:
    """What the options of a worker must be to each other."""
    if options.heartbeat_interval * 2 > options.stale_threshold:
        raise ConfigurationError(
            f"stale_threshold ({options.stale_threshold:g} s) must be at least twice the "
            f"heartbeat_interval ({options.heartbeat_interval:g} s), or runs are taken from live workers"
        )
    if options.max_concurrent_runs < 1 or max_recoveries < 0:
        raise ConfigurationError(
            "max_concurrent_runs must be at least 1, max_recoveries at least 0"
        )
