"""Runs, steps, log lines, errors, progress, jobs and health on the wire, encoded and decoded.

Only the modules of this package know the names of the wire. Times are ISO 8601 with milliseconds and
``Z``; durations are milliseconds. Integers that a JavaScript number cannot hold (beyond ±(2**53 - 1))
are written as strings of their digits: visibly as text, rather than as another number.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal, NamedTuple, cast

from ..models import (
    Health,
    I,
    LogEntry,
    LogLevel,
    O,
    Progress,
    Run,
    RunError,
    StepRecord,
)
from ..runtime import to_datetime
from ..state import Status
from ..store.records import RunRow
from ..store.snapshots import is_stopping, run_class
from ..values.codec import PLAIN, Codec
from ..values.text import dump_json, load_json
from .published import CURRENT, Dialect
from .requests import status_from_wire

ErrorPolicy = Literal["full", "message", "none"]
"""How much is sent of why a run failed: its traceback too, its message, or only that it did."""

MAX_PAYLOAD = 65_536  # bytes of an input that is written twice


# -- times


def to_iso(at: datetime | None) -> str | None:
    """Format a time as the wire does."""
    if at is None:
        return None
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def ms_to_iso(at: int | None) -> str | None:
    """Format milliseconds since 1970 as the wire does."""
    return None if at is None else to_iso(to_datetime(at))


def from_iso(text: str | None) -> Any:
    """Parse a time of the wire."""
    return None if text is None else datetime.fromisoformat(text)


# -- runs, steps, log lines, jobs


def run_to_wire(
    row: RunRow,
    steps_done: int,
    dialect: Dialect = CURRENT,
    errors: ErrorPolicy = "message",
    now: int | None = None,
) -> dict[str, Any]:
    """Encode a run as it is at ``now``, in milliseconds. Leases and keys are not sent."""
    status = Status(row.status)
    input = load_json(row.input)
    error = _stored_error(row.error, errors)
    data: dict[str, Any] = {
        "id": row.id,
        "jobName": row.job,
        "status": dialect.statuses.get(row.status, row.status),
        "input": input,
        "output": load_json(row.output),
        "error": None if error is None else error["message"],
        "progress": _progress(load_json(row.progress)),
        "labels": load_json(row.labels),
        "completedStepCount": steps_done,
        "currentStepIndex": steps_done,
        "startedAt": ms_to_iso(row.started_at),
        "completedAt": ms_to_iso(row.ended_at),
        "createdAt": ms_to_iso(row.created_at),
        "isTerminal": status.is_final,
        "isActive": not status.is_final,
    }
    if not dialect.exact:
        data |= payload(row, input)
        data |= {"updatedAt": ms_to_iso(row.updated_at), "attempt": row.generation}
        data |= error_details(error)
        if is_stopping(row, now):
            data["stopping"] = True
    return data


def payload(row: RunRow | None, input: Any) -> dict[str, Any]:
    """Return the input under its older name too, unless it is too large to be sent twice."""
    return {} if row is not None and len(row.input) > MAX_PAYLOAD else {"payload": input}


def run_from_wire(
    data: Mapping[str, Any],
    input_codec: Codec[I] | None = None,
    output_codec: Codec[O] | None = None,
) -> Run[I, O]:
    """Decode a run; its values are plain JSON where no codec is given."""
    output = data["output"]
    status = status_from_wire(data["status"])
    has_output = status == Status.COMPLETED
    return run_class(status)(
        id=data["id"],
        job=data["jobName"],
        status=status,
        input=(input_codec or PLAIN).decode(dump_json(data["input"])),
        output=(output_codec or PLAIN).decode(dump_json(output)) if has_output else None,
        error=error_from_wire(data),
        progress=progress_from_wire(data["progress"]),
        labels=data["labels"],
        idempotency_key=None,
        concurrency_key=None,
        attempt=data.get("attempt", 0),
        created_at=from_iso(data["createdAt"]),
        started_at=from_iso(data["startedAt"]),
        ended_at=from_iso(data["completedAt"]),
        updated_at=from_iso(data["updatedAt"]),
        stopping=data.get("stopping", False),
        steps_done=data.get("completedStepCount", 0),
    )


def step_to_wire(
    step: StepRecord,
    run_id: str,
    dialect: Dialect = CURRENT,
    errors: ErrorPolicy = "message",
) -> dict[str, Any]:
    """Encode a step that completed or failed."""
    error = None if step.error is None else error_to_wire(step.error, errors)
    data: dict[str, Any] = {
        "id": f"{run_id}:{step.index}",
        "runId": run_id,
        "name": step.name,
        "index": step.index,
        "status": step.status,
        "output": step.output,
        "error": None if error is None else error["message"],
        "startedAt": to_iso(step.started_at),
        "completedAt": to_iso(step.completed_at),
    }
    if not dialect.exact:
        data["attempt"] = step.attempt
        data |= error_details(error)
    return data


def step_from_wire(data: Mapping[str, Any]) -> StepRecord:
    """Decode a step."""
    return StepRecord(
        name=data["name"],
        index=data["index"],
        status=data["status"],
        output=data["output"],
        error=error_from_wire(data),
        attempt=data.get("attempt", 0),
        started_at=from_iso(data["startedAt"]),
        completed_at=from_iso(data["completedAt"]),
    )


def log_to_wire(entry: LogEntry, dialect: Dialect = CURRENT) -> dict[str, Any]:
    """Encode a stored log line."""
    return {
        "id": entry.id,
        "runId": entry.run_id,
        "stepName": entry.step_name,
        "level": dialect.levels.get(entry.level, entry.level),
        "message": entry.message,
        "data": entry.data,
        "timestamp": to_iso(entry.timestamp),
    }


def log_from_wire(data: Mapping[str, Any]) -> LogEntry:
    """Decode a stored log line."""
    return LogEntry(
        id=data["id"],
        run_id=data["runId"],
        step_name=data["stepName"],
        level=level_from_wire(data["level"]),
        message=data["message"],
        data=data["data"],
        timestamp=from_iso(data["timestamp"]),
    )


def level_from_wire(level: str) -> LogLevel:
    """Decode a log level."""
    return cast("LogLevel", "warning" if level == "warn" else level)


def _stored_error(text: str | None, policy: ErrorPolicy) -> dict[str, Any] | None:
    return None if text is None else error_to_wire(RunError(**load_json(text)), policy)


def error_to_wire(error: RunError, policy: ErrorPolicy) -> dict[str, Any]:
    """Encode an error as far as the policy allows."""
    if policy == "none":
        return {"message": "failed", "type": None, "step": error.step, "traceback": None}
    traceback = error.traceback if policy == "full" else None
    message = error.message or error.type
    return {"message": message, "type": error.type, "step": error.step, "traceback": traceback}


def error_details(error: dict[str, Any] | None) -> dict[str, Any]:
    """Return the fields that stand beside ``error``."""
    of: dict[str, Any] = error or {}
    data = {"errorType": of.get("type"), "failedStepName": of.get("step")}
    return {**data, "errorTraceback": of["traceback"]} if of.get("traceback") else data


def error_from_wire(data: Mapping[str, Any]) -> RunError | None:
    """Decode the error of a run, a step or an event, if it has one."""
    if data.get("error") is None:
        return None
    return RunError(
        type=data.get("errorType") or "Error",
        message=data["error"],
        step=data.get("failedStepName"),
        traceback=data.get("errorTraceback"),
    )


def _progress(stored: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return stored progress without the parts that were not given, as the original protocol does."""
    if stored is None:
        return None
    return {name: value for name, value in stored.items() if value is not None}


def progress_to_wire(progress: Progress) -> dict[str, Any]:
    """Encode the progress of an event."""
    data: dict[str, Any] = {"current": progress.current}
    if progress.total is not None:
        data["total"] = progress.total
    if progress.message is not None:
        data["message"] = progress.message
    return data


def progress_from_wire(data: Mapping[str, Any] | None) -> Progress | None:
    """Decode progress."""
    if data is None:
        return None
    return Progress(data["current"], data.get("total"), data.get("message"))


class JobInfo(NamedTuple):
    """A job that a server runs, with the JSON Schemas of its values."""

    name: str
    input_schema: dict[str, Any]
    output_schema: dict[str, Any]


def job_to_wire(job: JobInfo) -> dict[str, Any]:
    """Encode a job."""
    return {
        "name": job.name,
        "inputSchema": job.input_schema,
        "outputSchema": job.output_schema,
    }


def job_from_wire(data: Mapping[str, Any]) -> JobInfo:
    """Decode a job."""
    return JobInfo(data["name"], data["inputSchema"], data["outputSchema"])


def health_to_wire(health: Health) -> dict[str, Any]:
    """Encode the health of a process."""
    return {"status": health.status, "database": health.database, "worker": health.worker}


# -- events
