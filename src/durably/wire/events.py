"""Events on the wire, in both directions: those of one run, and reduced for lists."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ..events import EVENT_TYPES, AnyEvent
from ..models import LogLevel, Progress
from ..store.records import RunRow
from ..values.text import load_json
from .published import CURRENT, Dialect
from .runs import (
    ErrorPolicy,
    error_details,
    error_from_wire,
    error_to_wire,
    from_iso,
    level_from_wire,
    ms_to_iso,
    payload,
    progress_from_wire,
    progress_to_wire,
    to_iso,
)

_Details = Callable[[Any, RunRow | None, ErrorPolicy], dict[str, Any]]


def _start(event: Any, row: RunRow | None, policy: ErrorPolicy) -> dict[str, Any]:
    input = None if row is None else load_json(row.input)
    return {**payload(row, input), "input": input, "attempt": event.attempt}


def _triggered(event: Any, row: RunRow | None, policy: ErrorPolicy) -> dict[str, Any]:
    return {"input": None if row is None else load_json(row.input)}


def _lease(event: Any, row: RunRow | None, policy: ErrorPolicy) -> dict[str, Any]:
    return {
        "input": None if row is None else load_json(row.input),
        "leaseOwner": "worker",  # the client only needs a string; which worker it is, is internal
        "leaseExpiresAt": ms_to_iso(row.due_at) if row and row.due_at else to_iso(event.timestamp),
    }


def _step(event: Any, row: RunRow | None, policy: ErrorPolicy) -> dict[str, Any]:
    return {"stepName": event.step_name, "stepIndex": event.step_index, "attempt": event.attempt}


def _step_end(event: Any, row: RunRow | None, policy: ErrorPolicy) -> dict[str, Any]:
    duration = round(event.duration * 1000)
    return {**_step(event, row, policy), "output": event.output, "duration": duration}


def _failure(event: Any, row: RunRow | None, policy: ErrorPolicy) -> dict[str, Any]:
    error = error_to_wire(event.error, policy)
    return {"error": error["message"], **error_details(error)}


def _step_failure(event: Any, row: RunRow | None, policy: ErrorPolicy) -> dict[str, Any]:
    return {**_step(event, row, policy), **_failure(event, row, policy)}


def _progressed(event: Any, row: RunRow | None, policy: ErrorPolicy) -> dict[str, Any]:
    return {"progress": progress_to_wire(event.progress)}


def _completed(event: Any, row: RunRow | None, policy: ErrorPolicy) -> dict[str, Any]:
    return {"output": event.output, "duration": round(event.duration * 1000)}


def _log(event: Any, row: RunRow | None, policy: ErrorPolicy) -> dict[str, Any]:
    return {
        "stepName": event.step_name,
        "level": event.level,
        "message": event.message,
        "data": event.data,
    }


def _coalesced(event: Any, row: RunRow | None, policy: ErrorPolicy) -> dict[str, Any]:
    return {"skippedInput": event.skipped_input, "skippedLabels": dict(event.skipped_labels)}


_DETAILS: Mapping[str, _Details] = {
    "run:trigger": _triggered,
    "run:coalesced": _coalesced,
    "run:start": _start,
    "run:leased": _lease,
    "run:progress": _progressed,
    "run:complete": _completed,
    "run:fail": _failure,
    "step:start": _step,
    "step:complete": _step_end,
    "step:fail": _step_failure,
    "step:cancel": _step,
    "log:write": _log,
}


def _coalesced_in_list(event: Any, row: RunRow | None, policy: ErrorPolicy) -> dict[str, Any]:
    return {"skippedLabels": dict(event.skipped_labels)}


_REDUCED: Mapping[str, _Details] = {
    "run:coalesced": _coalesced_in_list,
    "run:progress": _progressed,
    "step:start": _step,
    "step:complete": _step,
    "step:fail": _step,
    "step:cancel": _step,
    "log:write": _log,
}
"""The fields of lists' events beside type, runId, jobName, labels: no inputs, outputs or errors."""


def event_to_wire(
    event: AnyEvent,
    row: RunRow | None = None,
    dialect: Dialect = CURRENT,
    errors: ErrorPolicy = "message",
) -> dict[str, Any]:
    """Encode an event of one run. ``row`` is that run, for the events that include the input."""
    type = dialect.events.get(event.type, event.type)
    details = _DETAILS.get(type)
    return _build(event, type, {} if details is None else details(event, row, errors), dialect)


def event_to_list(event: AnyEvent, dialect: Dialect = CURRENT) -> dict[str, Any]:
    """Encode an event for lists of runs: reduced."""
    type = dialect.events.get(event.type, event.type)
    if type == dialect.resync:  # this client reads the list again at it
        return {"type": type}
    details = _REDUCED.get(type)
    return _build(event, type, {} if details is None else details(event, None, "none"), dialect)


def _build(event: AnyEvent, type: str, details: dict[str, Any], dialect: Dialect) -> dict[str, Any]:
    if "level" in details:
        details["level"] = dialect.levels.get(details["level"], details["level"])
    return {
        "type": type,
        "runId": event.run_id,
        "jobName": event.job,
        "labels": dict(event.labels),
        **details,
        "timestamp": to_iso(event.timestamp),
        "sequence": event.sequence,
    }


_EVENT_FIELDS: Mapping[str, tuple[str, Callable[[Any], Any]]] = {
    "attempt": ("attempt", int),
    "progress": ("progress", progress_from_wire),
    "output": ("output", lambda value: value),
    "duration": ("duration", lambda value: value / 1000),
    "stepName": ("step_name", lambda value: value),
    "stepIndex": ("step_index", int),
    "level": ("level", level_from_wire),
    "message": ("message", str),
    "data": ("data", lambda value: value),
    "input": ("input", lambda value: value),
    "skippedInput": ("skipped_input", lambda value: value),
    "skippedLabels": ("skipped_labels", dict),
}


def event_from_wire(data: Mapping[str, Any]) -> AnyEvent | None:
    """Decode an event of one run; None for a type that this version does not know."""
    kind = EVENT_TYPES.get(data["type"])
    if kind is None:
        return None
    fields = _event_fields(data, kind)
    if "error" in kind.__dataclass_fields__:
        fields["error"] = error_from_wire(data)
    return kind(**fields)


@dataclass(frozen=True, slots=True, kw_only=True)
class ListEvent:
    """An event of one run in a list of runs: without inputs, outputs and errors."""

    type: str
    run_id: str
    job: str
    labels: Mapping[str, str]
    timestamp: datetime
    sequence: int | None = None
    progress: Progress | None = None
    step_name: str | None = None
    step_index: int | None = None
    level: LogLevel | None = None
    message: str | None = None
    data: Any = None


def event_from_list(data: Mapping[str, Any]) -> ListEvent:
    """Decode an event of a list."""
    return ListEvent(type=data["type"], **_event_fields(data, ListEvent))


def _event_fields(data: Mapping[str, Any], kind: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "run_id": data["runId"],
        "job": data["jobName"],
        "labels": data["labels"],
        "timestamp": from_iso(data["timestamp"]),
        "sequence": data["sequence"],
    }
    for name, (field, read) in _EVENT_FIELDS.items():
        if field in kind.__dataclass_fields__ and name in data:
            fields[field] = read(data[name])
    return fields
