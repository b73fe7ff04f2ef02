"""What clients send, encoded and decoded: triggers, queries, statuses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple, cast

from ..models import Disposition
from ..state import Status
from ..store.records import RunRow
from ..values.text import load_json
from .published import CURRENT, Dialect
from .strict_json import WireError, load

JOB_NAME = "jobName"
"""The name of a job, in queries and bodies."""
RUN_ID = "runId"
"""The query parameter of every operation on one run."""
LABEL = "label."
"""The prefix of the query parameters of labels."""
MAX_TEXT = 255  # characters of a name, a key or a label


class TriggerRequest(NamedTuple):
    """The body of POST /trigger."""

    job: str
    input: Any
    idempotency_key: str | None = None
    concurrency_key: str | None = None
    labels: Mapping[str, str] = {}
    coalesce: Literal["skip"] | None = None
    """``skip``: create no run while one with the same concurrency key waits to start."""
    has_input: bool = True
    """False when no input was given: then the job's default applies, if it has one."""


def trigger_of(row: RunRow) -> TriggerRequest:
    """Build the request that triggers a run like this one again: all but its idempotency key."""
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


def trigger_from_wire(body: bytes, dialect: Dialect = CURRENT) -> TriggerRequest:
    """Parse the body of POST /trigger and check its shape; a missing input is ``{}``."""
    data = load(body)
    if not isinstance(data, dict):
        raise WireError("the body must be a JSON object with jobName and input")
    given = cast("dict[str, Any]", data)
    unknown = sorted(given.keys() - _TRIGGER_FIELDS.keys() - {"input"})
    if unknown and not dialect.exact:
        known = ", ".join(["jobName", "input", *list(_TRIGGER_FIELDS)[1:]])
        raise WireError(
            f"unknown field {unknown[0][:100]!r} in trigger request; known fields: {known}"
        )
    fields: dict[str, Any] = {"input": given.get("input", {}), "has_input": "input" in given}
    for name, (field, kind, description) in _TRIGGER_FIELDS.items():
        value = given.get(name)
        if value is not None and not isinstance(value, kind):
            raise WireError(f"{name} must be {description}", path=f"$.{name}")
        if value is not None:
            fields[field] = value
    if "job" not in fields:
        raise WireError("missing field 'jobName' in trigger request", path="$.jobName")
    return TriggerRequest(**fields)


def trigger_to_wire(request: TriggerRequest) -> dict[str, Any]:
    """Build the body of POST /trigger."""
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
    """The run itself, where ``Prefer: return=representation`` requested it."""


def triggered_to_wire(triggered: Triggered) -> dict[str, Any]:
    """Build the answer to a trigger."""
    data: dict[str, Any] = {"runId": triggered.run_id, "disposition": triggered.disposition}
    return data if triggered.run is None else {**data, "run": triggered.run}


def triggered_from_wire(data: Mapping[str, Any]) -> Triggered:
    """Parse the answer to a trigger."""
    return Triggered(data["runId"], data.get("disposition", "created"), data.get("run"))


def runs_to_query(
    jobs: Iterable[str] = (),
    statuses: Iterable[str] = (),
    labels: Mapping[str, str] | None = None,
    limit: int | None = None,
    offset: int = 0,
    cursor: str | None = None,
) -> list[tuple[str, str]]:
    """Build the query of GET /runs and GET /runs/subscribe."""
    query = [("jobName", job) for job in jobs] + [("status", str(status)) for status in statuses]
    query += [(f"{LABEL}{name}", value) for name, value in (labels or {}).items()]
    numbers = (("limit", limit), ("offset", offset or None), ("cursor", cursor))
    return query + [(name, str(value)) for name, value in numbers if value is not None]


def statuses_from_wire(names: Iterable[str], dialect: Dialect = CURRENT) -> list[Status]:
    """Return every status that the dialect sends under one of these names."""
    found: list[Status] = []
    for name in names:
        found.append(status_from_wire(name))
        found += [Status(status) for status, sent in dialect.statuses.items() if sent == name]
    return found


def status_from_wire(name: str) -> Status:
    """Parse a status; ``leased`` is another name for ``running``."""
    try:
        return Status(_ALIASES.get(name, name))
    except ValueError:
        known = ", ".join(Status)
        raise WireError(f"status must be one of {known}; got {name[:100]!r}") from None


_ALIASES = {"leased": "running"}
