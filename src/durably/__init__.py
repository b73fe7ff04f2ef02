"""Durably: long jobs in durable, resumable steps. The map of the house, imports go down only.

    floor 4  doors    cli  demo  client  browser
    floor 3  engine   durably -> http -> sync -> handle -> worker -> execution -> report -> engine -> job -> step
                      feed  emitter  bell  heartbeat  threads  metrics  plugins
    floor 2  memory   store/sqlite -> store/writer, store/guards -> store/sql -> store/base
    floor 1  things   events, failure -> models -> state
    floor 0  words    codec, options, runtime, errors

Start at ``state`` (the life of a run), then ``execution`` (one attempt at it).
"""

from . import errors, events
from .durably import Durably, Plugin, with_log_persistence
from .errors import DurablyError
from .handle import JobHandle
from .jobs.job import Job, job
from .jobs.retry import Retry
from .jobs.step import Step, SyncStep
from .jobs.trigger import Trigger
from .models import CompletedRun, Health, LogEntry, Progress, Run, RunError, StepRecord
from .state import Status
from .sync import SyncDurably
from .sync_handle import SyncJobHandle
from .telemetry.logs import LogContext

__all__ = [
    "CompletedRun",
    "Durably",
    "DurablyError",
    "Health",
    "Job",
    "JobHandle",
    "LogContext",
    "LogEntry",
    "Plugin",
    "Progress",
    "Retry",
    "Run",
    "RunError",
    "Status",
    "Step",
    "StepRecord",
    "SyncDurably",
    "SyncJobHandle",
    "SyncStep",
    "Trigger",
    "errors",
    "events",
    "job",
    "with_log_persistence",
]
