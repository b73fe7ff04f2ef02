"""What is on the wire, both directions. The only file that knows camelCase, and every word of the wire.

Times are ISO 8601 with milliseconds and ``Z``; durations are milliseconds. Integers that a JavaScript
number cannot hold (beyond ±(2**53 - 1)) are written as strings of their digits: visibly as text,
rather than as another number.

``Vocabulary`` is what the published client 0.15 says differently; nothing else knows of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, NamedTuple, cast

from ..events import EVENT_TYPES, AnyEvent
from ..models import (
    Disposition,
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
from .strict_json import WireError, load

ErrorPolicy = Literal["full", "message", "none"]
"""What is told of why a run failed: with its traceback, its message, or only that it did."""

RESYNC = "runs:resync"
"""What a list is told first after it was away: fetch it again."""
JOB_NAME = "jobName"
"""The name of a job, in queries and bodies."""
MAX_PAYLOAD = 65_536  # bytes of an input that is written twice
RUN_ID = "runId"
"""The query parameter of everything about one run."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """How the wire names things; the defaults are PROTOCOL's."""

    statuses: Mapping[str, str]
    """Our status to the wire's, where they differ."""
    events: Mapping[str, str]
    """Our event to the wire's, where they differ."""
    levels: Mapping[str, str]
    """Our log level to the wire's, where they differ."""
    resync: str = RESYNC
    """What a list is told that was away for a while: fetch it again."""
    reads_first: bool = False
    """Its lists are read while their streams are being opened, and must be read again after."""
    settles: float = float("inf")
    """Seconds of quiet after which its lists read again: an answer that was requested before an event
    and comes after it takes the event back there."""
    exact: bool = False
    """Only the fields that the published client has; and what it leaves out is left out."""


CURRENT = Vocabulary({}, {}, {"warning": "warn"})
PUBLISHED = Vocabulary(
    {"running": "leased", "waiting": "leased"},
    # It knows neither of the two words that are replaced, and does the right thing at their stand-ins:
    # it reads its list again.
    {"run:start": "run:leased", "run:retry": "run:trigger"},
    {"warning": "warn", "debug": "info"},
    resync="step:cancel",
    reads_first=True,
    settles=1.0,
    exact=True,
)
VOCABULARIES: Mapping[str | None, Vocabulary] = {None: CURRENT, "0.15": PUBLISHED}


# -- times


def _time(at: datetime | None) -> str | None:
    if at is None:
        return None
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _ms(at: int | None) -> str | None:
    return None if at is None else _time(to_datetime(at))


def _parsed_time(text: str | None) -> Any:
    return None if text is None else datetime.fromisoformat(text)


# -- what a client asks


class TriggerRequest(NamedTuple):
    """The body of POST /trigger."""

    job: str
    input: Any
    idempotency_key: str | None = None
    concurrency_key: str | None = None
    labels: Mapping[str, str] = {}
    coalesce: Literal["skip"] | None = None
    """``skip``: not if a run that has not begun waits with the concurrency key."""
    has_input: bool = True
    """False when no input was given: the job's default holds, if it has one."""


def trigger_of(row: RunRow) -> TriggerRequest:
    """What triggers a run like this one again: all but its idempotency key."""
    return TriggerRequest(
        row.job, load_json(row.input), None, row.concurrency_key, load_json(row.labels)
    )


_TRIGGER_FIELDS: Mapping[str, tuple[str, type[Any], str]] = {
    "jobName": ("job", str, "a string"),
    "idempotencyKey": ("idempotency_key", str, "a string"),
    "concurrencyKey": ("concurrency_key", str, "a string"),
    "labels": ("labels", dict, "an object of strings"),
    "coalesce": ("coalesce", str, 'the string "skip"'),
}


def trigger_from_wire(body: bytes, vocabulary: Vocabulary = CURRENT) -> TriggerRequest:
    """The body of POST /trigger, checked for its shape; a missing input is ``{}``."""
    data = load(body)
    if not isinstance(data, dict):
        raise WireError("the body must be a JSON object with jobName and input")
    given = cast("dict[str, Any]", data)
    unknown = sorted(given.keys() - _TRIGGER_FIELDS.keys() - {"input"})
    if unknown and not vocabulary.exact:
        known = ", ".join(["jobName", "input", *list(_TRIGGER_FIELDS)[1:]])
        raise WireError(f"{unknown[0][:100]!r} is no field of a trigger; there are: {known}")
    fields: dict[str, Any] = {"input": given.get("input", {}), "has_input": "input" in given}
    for name, (field, kind, description) in _TRIGGER_FIELDS.items():
        value = given.get(name)
        if value is not None and not isinstance(value, kind):
            raise WireError(f"{name} must be {description}", path=f"$.{name}")
        if value is not None:
            fields[field] = value
    if "job" not in fields:
        raise WireError("jobName is missing", path="$.jobName")
    return TriggerRequest(**fields)


def trigger_to_wire(request: TriggerRequest) -> dict[str, Any]:
    """The body of POST /trigger, by a client."""
    body: dict[str, Any] = {"input": request.input} if request.has_input else {}
    for name, (field, _, _) in _TRIGGER_FIELDS.items():
        if value := getattr(request, field):
            body[name] = dict(value) if field == "labels" else value
    return body


class Triggered(NamedTuple):
    """The answer of POST /trigger and /retrigger."""

    run_id: str
    disposition: Disposition
    run: Mapping[str, Any] | None = None
    """The run itself, where ``Prefer: return=representation`` asked for it."""


def triggered_to_wire(triggered: Triggered) -> dict[str, Any]:
    """What became of a trigger."""
    told: dict[str, Any] = {"runId": triggered.run_id, "disposition": triggered.disposition}
    return told if triggered.run is None else {**told, "run": triggered.run}


def triggered_from_wire(data: Mapping[str, Any]) -> Triggered:
    """What a server says became of a trigger."""
    return Triggered(data["runId"], data.get("disposition", "created"), data.get("run"))


def runs_to_query(
    jobs: Iterable[str] = (),
    statuses: Iterable[str] = (),
    labels: Mapping[str, str] | None = None,
    limit: int | None = None,
    offset: int = 0,
    cursor: str | None = None,
) -> list[tuple[str, str]]:
    """The query of GET /runs and GET /runs/subscribe, by a client."""
    query = [("jobName", job) for job in jobs] + [("status", str(status)) for status in statuses]
    query += [(f"{LABEL}{name}", value) for name, value in (labels or {}).items()]
    numbers = (("limit", limit), ("offset", offset or None), ("cursor", cursor))
    return query + [(name, str(value)) for name, value in numbers if value is not None]


LABEL = "label."
"""What the query parameters of labels begin with."""


def statuses_from_wire(words: Iterable[str], vocabulary: Vocabulary = CURRENT) -> list[Status]:
    """The statuses that a client asks for: all that it would be told by these words."""
    found: list[Status] = []
    for word in words:
        found.append(status_from_wire(word))
        found += [Status(ours) for ours, told in vocabulary.statuses.items() if told == word]
    return found


def status_from_wire(word: str) -> Status:
    """A status as a client may say it: ``leased`` is another word for ``running``."""
    try:
        return Status(_ALIASES.get(word, word))
    except ValueError:
        known = ", ".join(Status)
        raise WireError(f"status must be one of {known}; not {word[:100]!r}") from None


_ALIASES = {"leased": "running"}


# -- runs, steps, log lines, jobs


def run_to_wire(
    row: RunRow,
    steps_done: int,
    vocabulary: Vocabulary = CURRENT,
    errors: ErrorPolicy = "message",
    now: int | None = None,
) -> dict[str, Any]:
    """A run as a client sees it at ``now``. Leases and keys stay inside."""
    status = Status(row.status)
    input = load_json(row.input)
    error = _stored_error(row.error, errors)
    told: dict[str, Any] = {
        "id": row.id,
        "jobName": row.job,
        "status": vocabulary.statuses.get(row.status, row.status),
        "input": input,
        "output": load_json(row.output),
        "error": None if error is None else error["message"],
        "progress": _progress(load_json(row.progress)),
        "labels": load_json(row.labels),
        "completedStepCount": steps_done,
        "currentStepIndex": steps_done,
        "startedAt": _ms(row.started_at),
        "completedAt": _ms(row.ended_at),
        "createdAt": _ms(row.created_at),
        "isTerminal": status.is_final,
        "isActive": not status.is_final,
    }
    if not vocabulary.exact:
        told |= _payload(row, input)
        told |= {"updatedAt": _ms(row.updated_at), "attempt": row.generation}
        told |= _error_details(error)
        if is_stopping(row, now):
            told["stopping"] = True
    return told


def _payload(row: RunRow | None, input: Any) -> dict[str, Any]:
    """The older name of the input, where that is not so large that it should not be sent twice."""
    return {} if row is not None and len(row.input) > MAX_PAYLOAD else {"payload": input}


def run_from_wire(
    data: Mapping[str, Any],
    input_codec: Codec[I] | None = None,
    output_codec: Codec[O] | None = None,
) -> Run[I, O]:
    """The snapshot of a run that a server told; plain JSON values where no codec is given."""
    output = data["output"]
    status = status_from_wire(data["status"])
    has_output = status == Status.COMPLETED
    return run_class(status)(
        id=data["id"],
        job=data["jobName"],
        status=status,
        input=(input_codec or PLAIN).decode(dump_json(data["input"])),
        output=(output_codec or PLAIN).decode(dump_json(output)) if has_output else None,
        error=_error_from_wire(data),
        progress=_progress_from_wire(data["progress"]),
        labels=data["labels"],
        idempotency_key=None,
        concurrency_key=None,
        attempt=data.get("attempt", 0),
        created_at=_parsed_time(data["createdAt"]),
        started_at=_parsed_time(data["startedAt"]),
        ended_at=_parsed_time(data["completedAt"]),
        updated_at=_parsed_time(data["updatedAt"]),
        stopping=data.get("stopping", False),
        steps_done=data.get("completedStepCount", 0),
    )


def step_to_wire(
    step: StepRecord,
    run_id: str,
    vocabulary: Vocabulary = CURRENT,
    errors: ErrorPolicy = "message",
) -> dict[str, Any]:
    """A step that completed or failed."""
    error = None if step.error is None else _error_to_wire(step.error, errors)
    told: dict[str, Any] = {
        "id": f"{run_id}:{step.index}",
        "runId": run_id,
        "name": step.name,
        "index": step.index,
        "status": step.status,
        "output": step.output,
        "error": None if error is None else error["message"],
        "startedAt": _time(step.started_at),
        "completedAt": _time(step.completed_at),
    }
    if not vocabulary.exact:
        told["attempt"] = step.attempt
        told |= _error_details(error)
    return told


def step_from_wire(data: Mapping[str, Any]) -> StepRecord:
    """A step that a server told of."""
    return StepRecord(
        name=data["name"],
        index=data["index"],
        status=data["status"],
        output=data["output"],
        error=_error_from_wire(data),
        attempt=data.get("attempt", 0),
        started_at=_parsed_time(data["startedAt"]),
        completed_at=_parsed_time(data["completedAt"]),
    )


def log_to_wire(entry: LogEntry, vocabulary: Vocabulary = CURRENT) -> dict[str, Any]:
    """A kept log line."""
    return {
        "id": entry.id,
        "runId": entry.run_id,
        "stepName": entry.step_name,
        "level": vocabulary.levels.get(entry.level, entry.level),
        "message": entry.message,
        "data": entry.data,
        "timestamp": _time(entry.timestamp),
    }


def log_from_wire(data: Mapping[str, Any]) -> LogEntry:
    """A log line that a server told of."""
    return LogEntry(
        id=data["id"],
        run_id=data["runId"],
        step_name=data["stepName"],
        level=_level_from_wire(data["level"]),
        message=data["message"],
        data=data["data"],
        timestamp=_parsed_time(data["timestamp"]),
    )


def _level_from_wire(level: str) -> LogLevel:
    return cast("LogLevel", "warning" if level == "warn" else level)


def _stored_error(text: str | None, policy: ErrorPolicy) -> dict[str, Any] | None:
    return None if text is None else _error_to_wire(RunError(**load_json(text)), policy)


def _error_to_wire(error: RunError, policy: ErrorPolicy) -> dict[str, Any]:
    if policy == "none":
        return {"message": "failed", "type": None, "step": error.step, "traceback": None}
    traceback = error.traceback if policy == "full" else None
    message = error.message or error.type
    return {"message": message, "type": error.type, "step": error.step, "traceback": traceback}


def _error_details(error: dict[str, Any] | None) -> dict[str, Any]:
    of: dict[str, Any] = error or {}
    told = {"errorType": of.get("type"), "failedStepName": of.get("step")}
    return {**told, "errorTraceback": of["traceback"]} if of.get("traceback") else told


def _error_from_wire(data: Mapping[str, Any]) -> RunError | None:
    if data.get("error") is None:
        return None
    return RunError(
        type=data.get("errorType") or "Error",
        message=data["error"],
        step=data.get("failedStepName"),
        traceback=data.get("errorTraceback"),
    )


def _progress(stored: dict[str, Any] | None) -> dict[str, Any] | None:
    """As the original: what was not said is left out."""
    if stored is None:
        return None
    return {name: value for name, value in stored.items() if value is not None}


def _progress_to_wire(progress: Progress) -> dict[str, Any]:
    told: dict[str, Any] = {"current": progress.current}
    if progress.total is not None:
        told["total"] = progress.total
    if progress.message is not None:
        told["message"] = progress.message
    return told


def _progress_from_wire(data: Mapping[str, Any] | None) -> Progress | None:
    if data is None:
        return None
    return Progress(data["current"], data.get("total"), data.get("message"))


class JobInfo(NamedTuple):
    """A job that a server runs, with the JSON Schemas of its values."""

    name: str
    input_schema: dict[str, Any]
    output_schema: dict[str, Any]


def job_to_wire(job: JobInfo) -> dict[str, Any]:
    """A job."""
    return {
        "name": job.name,
        "inputSchema": job.input_schema,
        "outputSchema": job.output_schema,
    }


def job_from_wire(data: Mapping[str, Any]) -> JobInfo:
    """A job that a server told of."""
    return JobInfo(data["name"], data["inputSchema"], data["outputSchema"])


def health_to_wire(health: Health) -> dict[str, Any]:
    """How a process is."""
    return {"status": health.status, "database": health.database, "worker": health.worker}


# -- events

_Details = Callable[[Any, RunRow | None, ErrorPolicy], dict[str, Any]]


def _start(event: Any, row: RunRow | None, policy: ErrorPolicy) -> dict[str, Any]:
    input = None if row is None else load_json(row.input)
    return {**_payload(row, input), "input": input, "attempt": event.attempt}


def _triggered(event: Any, row: RunRow | None, policy: ErrorPolicy) -> dict[str, Any]:
    return {"input": None if row is None else load_json(row.input)}


def _lease(event: Any, row: RunRow | None, policy: ErrorPolicy) -> dict[str, Any]:
    return {
        "input": None if row is None else load_json(row.input),
        "leaseOwner": "worker",  # whose it is, is nobody's business; the client only wants a string
        "leaseExpiresAt": _ms(row.due_at) if row and row.due_at else _time(event.timestamp),
    }


def _step(event: Any, row: RunRow | None, policy: ErrorPolicy) -> dict[str, Any]:
    return {"stepName": event.step_name, "stepIndex": event.step_index, "attempt": event.attempt}


def _step_end(event: Any, row: RunRow | None, policy: ErrorPolicy) -> dict[str, Any]:
    duration = round(event.duration * 1000)
    return {**_step(event, row, policy), "output": event.output, "duration": duration}


def _failure(event: Any, row: RunRow | None, policy: ErrorPolicy) -> dict[str, Any]:
    error = _error_to_wire(event.error, policy)
    return {"error": error["message"], **_error_details(error)}


def _step_failure(event: Any, row: RunRow | None, policy: ErrorPolicy) -> dict[str, Any]:
    return {**_step(event, row, policy), **_failure(event, row, policy)}


def _progressed(event: Any, row: RunRow | None, policy: ErrorPolicy) -> dict[str, Any]:
    return {"progress": _progress_to_wire(event.progress)}


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
"""What a list is told beside type, runId, jobName, labels: no inputs, no outputs, no errors."""


def event_to_wire(
    event: AnyEvent,
    row: RunRow | None = None,
    vocabulary: Vocabulary = CURRENT,
    errors: ErrorPolicy = "message",
) -> dict[str, Any]:
    """An event of one run. ``row`` is its run, for ``run:trigger`` and ``run:start``, which tell the input."""
    type = vocabulary.events.get(event.type, event.type)
    details = _DETAILS.get(type)
    return _told(event, type, {} if details is None else details(event, row, errors), vocabulary)


def event_to_list(event: AnyEvent, vocabulary: Vocabulary = CURRENT) -> dict[str, Any]:
    """An event as lists of runs hear it: reduced."""
    type = vocabulary.events.get(event.type, event.type)
    if type == vocabulary.resync:  # to that client it means: read the list again
        return {"type": type}
    details = _REDUCED.get(type)
    return _told(event, type, {} if details is None else details(event, None, "none"), vocabulary)


def _told(
    event: AnyEvent, type: str, details: dict[str, Any], vocabulary: Vocabulary
) -> dict[str, Any]:
    if "level" in details:
        details["level"] = vocabulary.levels.get(details["level"], details["level"])
    return {
        "type": type,
        "runId": event.run_id,
        "jobName": event.job,
        "labels": dict(event.labels),
        **details,
        "timestamp": _time(event.timestamp),
        "sequence": event.sequence,
    }


_EVENT_FIELDS: Mapping[str, tuple[str, Callable[[Any], Any]]] = {
    "attempt": ("attempt", int),
    "progress": ("progress", _progress_from_wire),
    "output": ("output", lambda value: value),
    "duration": ("duration", lambda value: value / 1000),
    "stepName": ("step_name", lambda value: value),
    "stepIndex": ("step_index", int),
    "level": ("level", _level_from_wire),
    "message": ("message", str),
    "data": ("data", lambda value: value),
    "input": ("input", lambda value: value),
    "skippedInput": ("skipped_input", lambda value: value),
    "skippedLabels": ("skipped_labels", dict),
}


def event_from_wire(data: Mapping[str, Any]) -> AnyEvent | None:
    """An event of one run that a server told; None for a type that this version does not know."""
    kind = EVENT_TYPES.get(data["type"])
    if kind is None:
        return None
    fields = _event_fields(data, kind)
    if "error" in kind.__dataclass_fields__:
        fields["error"] = _error_from_wire(data)
    return kind(**fields)


@dataclass(frozen=True, slots=True, kw_only=True)
class ListEvent:
    """What a list of runs hears of one of them: no inputs, outputs or errors."""

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
    """An event that a list was told."""
    return ListEvent(type=data["type"], **_event_fields(data, ListEvent))


def _event_fields(data: Mapping[str, Any], kind: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "run_id": data["runId"],
        "job": data["jobName"],
        "labels": data["labels"],
        "timestamp": _parsed_time(data["timestamp"]),
        "sequence": data["sequence"],
    }
    for name, (field, read) in _EVENT_FIELDS.items():
        if field in kind.__dataclass_fields__ and name in data:
            fields[field] = read(data[name])
    return fields
