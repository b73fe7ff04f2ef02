"""What a worker measures, and who keeps the measurements.

A worker calls an ``Instruments`` at each point that is worth measuring, and does not know what becomes of
it. ``metrics.Metrics`` implements it. A call must return at once, and raise nothing: it is made between
two writes of a run, on the event loop.
"""

from __future__ import annotations

from typing import Protocol


class Instruments(Protocol):
    """Receives the measurements of the workers of one instance."""

    def run_claimed(self, job: str, waited: float, *, resumed: bool) -> None:
        """A run was claimed ``waited`` seconds after it was triggered; ``resumed``: it ran before."""
        ...

    def step_completed(self, job: str, seconds: float) -> None:
        """A step was committed, ``seconds`` after it began."""
        ...

    def run_ended(self, job: str, status: str) -> None:
        """A run completed or failed here, and its outcome is written."""
        ...

    def lease_lost(self, job: str) -> None:
        """The lease of a run was lost while it executed here."""
        ...
