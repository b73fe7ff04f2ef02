"""Counters and histograms of this process's own work: cheap enough to be always on."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Sequence

from .instruments import Instruments

LATENCIES: Sequence[float] = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
STEPS: Sequence[float] = (0.001, 0.005, 0.025, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)


class Histogram:
    """Counts durations by upper bounds in seconds."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """By bound, not cumulative; the last one counts all longer durations."""
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one duration."""
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.sum += seconds


class Metrics(Instruments):
    """Counts what one instance does, by job."""

    def __init__(self) -> None:
        self.claims: defaultdict[str, Histogram] = defaultdict(lambda: Histogram(LATENCIES))
        """Seconds between a run's trigger and its first start here."""
        self.steps: defaultdict[str, Histogram] = defaultdict(lambda: Histogram(STEPS))
        """Seconds that committed steps took here."""
        self.ended: Counter[tuple[str, str]] = Counter()
        """Runs that ended here, by job and status."""
        self.lost: Counter[str] = Counter()
        """Runs whose lease this worker lost while it executed them."""

    def run_claimed(self, job: str, waited: float, *, resumed: bool) -> None:
        """Count the wait of a run that starts for the first time."""
        if not resumed:
            self.claims[job].observe(waited)

    def step_completed(self, job: str, seconds: float) -> None:
        """Count a step's duration."""
        self.steps[job].observe(seconds)

    def run_ended(self, job: str, status: str) -> None:
        """Count a run's final status."""
        self.ended[job, status] += 1

    def lease_lost(self, job: str) -> None:
        """Count a lost lease."""
        self.lost[job] += 1
