"""When a failed step is tried again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from ..errors import ConfigurationError
from ..options import duration, factor, whole
from ..runtime import Seconds, seconds


@dataclass(frozen=True, slots=True)
class Retry:
    """How often a failing step is tried again, and how long it waits in between.

    ``times``: further tries after the first. ``delay``: seconds before the first of them, multiplied by
    ``backoff`` for each next one, up to ``max_delay``; each is varied by 20 % so that many do not act
    as one. ``on``: only these exceptions are tried again, one class or several.
    """

    times: int
    delay: Seconds = 1.0
    backoff: float = 2.0
    max_delay: Seconds = 60.0
    on: tuple[type[BaseException], ...] = (Exception,)

    def __post_init__(self) -> None:
        whole("Retry.times", self.times)
        duration("Retry.delay", self.delay)
        factor("Retry.backoff", self.backoff)
        duration("Retry.max_delay", self.max_delay)
        given: Any = self.on  # a class, or a list of them, does as well: other libraries take them
        on: tuple[Any, ...] = (given,)
        if isinstance(given, list | tuple | set | frozenset):
            on = tuple(cast("list[Any]", given))
        if not all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in on):
            raise ConfigurationError(f"Retry.on must be exception classes, not {self.on!r}")
        object.__setattr__(self, "on", on)

    def pause(self, failures: int) -> float:
        """Seconds to wait after that many failures."""
        delay, longest = seconds(self.delay), seconds(self.max_delay)
        if delay == 0:
            return 0.0
        try:
            return min(delay * self.backoff ** (failures - 1), longest)
        except OverflowError:  # by then it has long been longer
            return longest
