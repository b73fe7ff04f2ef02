"""A worker: ``durably worker worker:durably``. On another machine it would be the same, with the same URL."""

import os

from jobs import render

from durably import Durably, with_log_persistence

durably = Durably(
    os.environ["DATABASE_URL"],
    schema="films",
    jobs=[render],
    max_concurrent_runs=2,
    heartbeat_interval=0.5,
    stale_threshold=3,  # who was not heard of for so long is taken for dead; 30 s by default
)
durably.use(with_log_persistence())
