"""What this process counts of its own work: cheap enough to be always on."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Sequence

LATENCIES: Sequence[float] = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
STEPS: Sequence[float] = (0.001, 0.005, 0.025, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)


class Histogram:
    """How often a duration was at most so many seconds."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """By bound, not cumulated; the last one is for all that is longer."""
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one."""
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.sum += seconds


class Metrics:
    """The counts of one instance, by job."""

    def __init__(self) -> None:
        self.claims: defaultdict[str, Histogram] = defaultdict(lambda: Histogram(LATENCIES))
        """Seconds between a run's trigger and its first start here."""
        self.steps: defaultdict[str, Histogram] = defaultdict(lambda: Histogram(STEPS))
        """Seconds that committed steps took here."""
        self.ended: Counter[tuple[str, str]] = Counter()
        """Runs that ended here, by job and status."""
        self.lost: Counter[str] = Counter()
        """Runs whose lease this worker lost while it executed them."""
