"""The demo's application: what its workers run, as ``durably worker durably.demo.app:durably``."""

import os
from pathlib import Path

from durably import Durably, with_log_persistence

from .index_stdlib import index_stdlib

PLACE = "DURABLY_DEMO_PLACE"
"""The environment variable in which the driver names the directory of the demo's databases."""


def open_app(place: Path, *, worker: bool = True) -> Durably:
    """The instance on the databases in ``place``. Its leases lapse early, for demonstration."""
    durably = Durably(
        place / "jobs.db",
        jobs=[index_stdlib],
        heartbeat_interval=0.5,
        stale_threshold=2.0,
        worker=worker,
    )
    durably.use(with_log_persistence())
    return durably


durably = open_app(Path(os.environ.get(PLACE, ".")))
