"""What every Python driver shares. Standard library only: the peers' interpreters import it too."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Result = dict[str, float]


class Meter:
    """Wall time and CPU time of this process, from ``start`` to ``stop``."""

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0
        self._wall, self._cpu = time.perf_counter(), _cpu_seconds()

    def stop(self) -> Meter:
        self.wall, self.cpu = time.perf_counter() - self._wall, _cpu_seconds() - self._cpu
        return self

    def per_step(self, steps: int) -> Result:
        """Throughput and CPU of that many steps."""
        return {"steps_s": steps / self.wall, "cpu_us": self.cpu / steps * 1e6}


class Window:
    """The rate between two counts: neither the start nor the tail of a drain is in it."""

    def __init__(self, first: int, last: int) -> None:
        self.first, self.last, self.count = first, last, 0
        self._began = self.seconds = 0.0

    def tick(self) -> bool:
        """Count one; True when it was the last of the window."""
        self.count += 1
        if self.count == self.first:
            self._began = time.perf_counter()
        elif self.count == self.last:
            self.seconds = time.perf_counter() - self._began
        return self.count >= self.last


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def percentile(values: Sequence[float], percent: float) -> float:
    """The value that so many percent of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(percent / 100 * (len(ordered) - 1)))]


def latencies(seconds: Sequence[float]) -> Result:
    """p50, p95 and p99 in ms."""
    return {f"p{p}_ms": percentile(seconds, p) * 1e3 for p in (50, 95, 99)}


def pause(i: int) -> float:
    """Seconds between two triggers: uneven, so that no poll falls into step with us."""
    return 0.011 + i % 7 * 0.0017


def rss_mb() -> float:
    """Resident memory now; 0 where the system does not tell."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return 0.0
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def drive(measures: Sequence[Callable[..., Any]], *, linger: bool = True) -> None:
    """A driver's command line: the measure's name and its options as JSON. One line of JSON comes out.

    Without ``linger`` the process ends at once: what is left of a backlog is of no interest.
    """
    name, options = sys.argv[1], json.loads(sys.argv[2])
    measure = next(m for m in measures if m.__name__ == name)
    result = measure(**options)
    if inspect.iscoroutine(result):
        result = asyncio.run(result)
    print(json.dumps(result or {}), flush=True)
    if not linger:
        os._exit(0)
