"""The OpenAPI 3.1 description, made from the table that routes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

from ..jobs.checks import MAX_LABELS
from ..wire.published import CURRENT, Dialect
from ..wire.requests import JOB_NAME, LABEL, MAX_TEXT, RUN_ID
from ..wire.runs import JobInfo
from ..wire.shapes import LABEL_NAME, NAME, REFERENCE, Schema, schemas
from .query import MAX_NUMBER, Parameter
from .routes import ROUTES, Answer, Route

_ABOUT = """\
Runs of durable jobs: trigger them, list them, watch them.

Times are ISO 8601 in UTC with milliseconds, durations are milliseconds. Integers that a JavaScript number \
cannot hold, beyond ±(2^53 - 1), are sent as strings of their digits.

A refusal is a JSON object with `error`, a message for a person, and `code`, a stable identifier. Requests that \
change something need `content-type: application/json` or the header `X-Durably`, which no form of another \
site can send.

A stream is `text/event-stream` without `event:` lines. Each `data:` is one line of JSON: an `Event` on \
`/subscribe`, a `ListEvent` on `/runs/subscribe`. The `id:` of an event is its number in the journal of its run."""

REFUSALS: Mapping[int, tuple[str, Sequence[str]]] = {
    400: (
        "The request is invalid.",
        ("invalid_request", "invalid_input", "malformed_json", "too_complex", "incomplete"),
    ),
    401: ("Authentication is required.", ("unauthenticated",)),
    403: ("The caller is not allowed to do this.", ("not_allowed", "not_local", "cross_origin")),
    404: (
        "The run, the job or the path was not found.",
        ("run_not_found", "job_not_found", "not_found"),
    ),
    405: ("The path does not have this method.", ("wrong_method",)),
    409: ("The run's status does not allow it.", ("conflict",)),
    413: ("The body is too large.", ("too_large",)),
    414: ("The query is too long.", ("query_too_long",)),
    415: ("The body is not declared as JSON.", ("not_json",)),
    500: ("Internal error; the server's log has the details.", ("internal",)),
    503: (
        "Not available now.",
        ("unavailable", "not_started", "stopping", "too_many_streams"),
    ),
}
"""The meaning of each status, and its codes. ``authenticate`` may add its own."""


_ANSWERS: Mapping[Answer, Schema] = {
    "triggered": {"$ref": REFERENCE + "Triggered"},
    "run": {"$ref": REFERENCE + "Run"},
    "runs": {"type": "array", "items": {"$ref": REFERENCE + "Run"}},
    "steps": {"type": "array", "items": {"$ref": REFERENCE + "Step"}},
    "logs": {"type": "array", "items": {"$ref": REFERENCE + "LogEntry"}},
    "done": {"$ref": REFERENCE + "Done"},
    "retriggered": {"$ref": REFERENCE + "Retriggered"},
    "jobs": {"type": "array", "items": {"$ref": REFERENCE + "Job"}},
    "health": {"$ref": REFERENCE + "Health"},
    "text": {"type": "string"},
    "any": {"type": "object"},
}
_STREAMS: Mapping[str, str] = {"subscribe": "Event", "runs_subscribe": "ListEvent"}
"""The schema of each stream's events, by operation."""
_MEDIA: Mapping[Answer, str] = {"stream": "text/event-stream", "text": "text/plain"}
_NAME: Schema = {"type": "string", "minLength": 1, "maxLength": MAX_TEXT, "pattern": NAME}
_NEXT_CURSOR = {
    "description": "The cursor of the next page; absent on the last one.",
    "schema": {"type": "string"},
}
_PARTIAL = {
    "description": "`partial` where the page has fewer runs than its limit, because they are large.",
    "schema": {"type": "string"},
}
_RETRY_AFTER = {"description": "Seconds after which to try again.", "schema": {"type": "integer"}}
_SECURITY: Schema = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "cookie": {"type": "apiKey", "in": "cookie", "name": "session"},
}


def describe(jobs: Sequence[JobInfo] = (), dialect: Dialect = CURRENT) -> Schema:
    """Build the whole document. With ``jobs``, ``/trigger`` is described for each of them."""
    found = schemas(dialect)
    if jobs:
        found |= _triggers(jobs, found["TriggerRequest"])
    paths: dict[str, Schema] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Durably", "version": "1", "description": _ABOUT},
        "servers": [{"url": ".", "description": "Where this document was found."}],
        "security": [{}, {"bearer": []}, {"cookie": []}],
        "paths": paths,
        "components": {
            "schemas": found,
            "responses": {str(status): _refusal(status) for status in REFUSALS},
            "securitySchemes": _SECURITY,
        },
    }


# -- routes


def _operation(route: Route) -> Schema:
    described: Schema = {
        "operationId": route.operation,
        "summary": route.summary,
        "parameters": [*_query(route), *_headers(route)],
        "responses": {"200": _answer(route)}
        | {str(status): {"$ref": f"#/components/responses/{status}"} for status in route.refusals},
    }
    if route.answer == "health":
        described["responses"]["503"] = _answer(route)
    if route.open:
        described["security"] = []
    if route.body:
        content = {"application/json": {"schema": {"$ref": REFERENCE + "TriggerRequest"}}}
        described["requestBody"] = {"required": True, "content": content}
    return described


def _answer(route: Route) -> Schema:
    media = _MEDIA.get(route.answer, "application/json")
    if route.answer == "stream":
        schema = _event(_STREAMS[route.operation])
    else:
        schema = _ANSWERS[route.answer]
    described: Schema = {"description": route.summary, "content": {media: {"schema": schema}}}
    if route.answer in ("runs", "steps", "logs"):
        described["headers"] = {"Durably-Next-Cursor": _NEXT_CURSOR}
    if route.answer == "runs":
        described["headers"]["Durably-Page"] = _PARTIAL
    if route.answer in ("triggered", "retriggered"):
        described["links"] = {
            other.operation: {
                "operationId": other.operation,
                "parameters": {RUN_ID: f"$response.body#/{RUN_ID}"},
            }
            for other in ROUTES
            if any(parameter.name == RUN_ID for parameter in other.parameters)
        }
    return described


def _event(name: str) -> Schema:
    """Describe an event of a stream, as OpenAPI 3.2 does."""
    data = {
        "type": "string",
        "contentMediaType": "application/json",
        "contentSchema": {"$ref": REFERENCE + name},
    }
    fields = {"data": data, "id": {"type": "string"}, "retry": {"type": "integer"}}
    return {"type": "object", "properties": fields}


def _refusal(status: int) -> Schema:
    description, codes = REFUSALS[status]
    described: Schema = {
        "description": f"{description} `code` is one of {', '.join(codes)}.",
        "content": {"application/json": {"schema": {"$ref": REFERENCE + "Refusal"}}},
    }
    if status == 503:
        described["headers"] = {"Retry-After": _RETRY_AFTER}
    return described


def _query(route: Route) -> list[Schema]:
    described = [_parameter(parameter) for parameter in route.parameters]
    if route.labels:
        described.append(
            {
                "name": "labels",
                "in": "query",
                "description": f"Runs that have all these labels: `{LABEL}<name>=<value>`.",
                "style": "form",
                "explode": True,
                "schema": {
                    "type": "object",
                    "maxProperties": MAX_LABELS,
                    "propertyNames": {"pattern": f"^{re.escape(LABEL)}{LABEL_NAME}$"},
                    "additionalProperties": _NAME,
                },
            }
        )
    return described


def _parameter(parameter: Parameter) -> Schema:
    schema: Schema = {**_NAME}
    if parameter.kind == "number":
        schema = {"type": "integer", "minimum": parameter.minimum, "maximum": parameter.maximum}
    if parameter.choices:
        schema = {"enum": [*parameter.choices]}
    if parameter.pattern:
        schema = {"type": "string", "pattern": f"^{parameter.pattern}$"}
    if parameter.default is not None:
        schema["default"] = parameter.default
    if parameter.repeats:
        schema = {"type": "array", "items": schema}
    described: Schema = {
        "name": parameter.name,
        "in": "query",
        "description": parameter.description,
    }
    return {**described, "required": parameter.required, "schema": schema}


def _headers(route: Route) -> list[Schema]:
    if route.answer == "stream":
        schema: Schema = {"type": "integer", "minimum": 0, "maximum": MAX_NUMBER}
        about = "The id of the last event that was received; events after it are sent."
        if route.operation == "runs_subscribe":
            schema = {"type": "string"}
            about = "Any id: a client that sends one was connected before, and first gets the event to read its list again."
        return [{"name": "Last-Event-ID", "in": "header", "description": about, "schema": schema}]
    if route.body:
        about = "`return=representation` adds the run itself to the answer."
        return [
            {"name": "Prefer", "in": "header", "description": about, "schema": {"type": "string"}}
        ]
    if route.is_unsafe:
        about = "Any value, such as 1; pages of the same origin may omit it."
        header = {"name": "X-Durably", "in": "header", "required": True, "description": about}
        return [{**header, "schema": {"type": "string"}}]
    return []


# -- /trigger, for each job


_NOTHING = {"type": "null"}
"""The input of a job that takes none."""
_COALESCING: Sequence[Schema] = [
    {"properties": {"coalesce": {"type": "null"}}},
    {"properties": {"concurrencyKey": {"type": "string"}}, "required": ["concurrencyKey"]},
]
"""Only a trigger with a concurrency key can be coalesced."""


def _triggers(jobs: Sequence[JobInfo], any_job: Schema) -> dict[str, Schema]:
    """Describe the body of ``/trigger`` as one of the jobs' bodies, and each of these."""
    found: dict[str, Schema] = {}
    mapping: dict[str, str] = {}
    for job in jobs:
        name = _component(job.name, found)
        mapping[job.name] = REFERENCE + name
        definitions, input = _hoisted(name, job.input_schema)
        if input == _NOTHING:
            input = {"anyOf": [_NOTHING, {"type": "object", "maxProperties": 0}]}
        properties = {**any_job["properties"], JOB_NAME: {"const": job.name}, "input": input}
        required = [JOB_NAME, "input"] if _must_be_given(job.input_schema) else [JOB_NAME]
        body = {**any_job, "properties": properties, "required": required, "anyOf": _COALESCING}
        found |= {name: body, **definitions}
    union = {
        "oneOf": [{"$ref": reference} for reference in mapping.values()],
        "discriminator": {"propertyName": JOB_NAME, "mapping": mapping},
    }
    return {**found, "TriggerRequest": union}


def _component(job: str, taken: Mapping[str, Schema]) -> str:
    name = base = "Trigger." + re.sub(r"[^A-Za-z0-9_-]", "_", job)
    number = 1
    while name in taken:
        number += 1
        name = f"{base}.{number}"
    return name


def _must_be_given(input: Schema) -> bool:
    """Whether the input is required: ``{}``, which stands for a missing one, does not fit."""
    if "default" in input:
        return False
    if input.get("type") == "object":
        return bool(input.get("required"))
    return input not in ({}, _NOTHING)


def _hoisted(prefix: str, schema: Schema) -> tuple[dict[str, Schema], Schema]:
    """Move the definitions of a job's schema to the document's components."""
    own = {key: value for key, value in schema.items() if key != "$defs"}
    definitions = {
        f"{prefix}.{name}": _moved(prefix, definition)
        for name, definition in schema.get("$defs", {}).items()
    }
    return definitions, _moved(prefix, own)


def _moved(prefix: str, value: Any) -> Any:
    if isinstance(value, list):
        return [_moved(prefix, item) for item in cast("list[Any]", value)]
    if not isinstance(value, dict):
        return value
    moved = {key: _moved(prefix, item) for key, item in cast("Schema", value).items()}
    reference = moved.get("$ref")
    if isinstance(reference, str):
        moved["$ref"] = reference.replace("#/$defs/", f"{REFERENCE}{prefix}.")
    return moved
