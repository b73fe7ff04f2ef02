"""Durably: long jobs in durable, resumable steps.

``ARCHITECTURE.md`` is the map of this package.
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
