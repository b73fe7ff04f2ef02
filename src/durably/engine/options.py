"""What an instance was made with, checked."""

from __future__ import annotations

from dataclasses import dataclass

from ..jobs.checks import LabelSchema
from ..store.url import DatabaseOptions


@dataclass(slots=True)
class Options:
    """The options of ``Durably``; durations in seconds unless they say otherwise."""

    database: DatabaseOptions
    polling_interval: float
    heartbeat_interval: float
    stale_threshold: float
    max_concurrent_runs: int
    max_recoveries: int
    max_input_bytes: int
    max_output_bytes: int
    retain_runs: int | None
    """Milliseconds; None keeps all runs."""
    preserve_steps: bool
    worker: bool
    labels: LabelSchema | None
