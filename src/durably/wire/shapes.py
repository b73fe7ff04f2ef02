"""The shapes of the wire, as types whose JSON Schemas OpenAPI shows. Tests check ``wire`` against them.

A field that is ``NotRequired`` may be left out; the names of the wire are the camel case of theirs.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field, TypeAdapter
from pydantic.alias_generators import to_camel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode
from typing_extensions import TypeAliasType, TypedDict

from ..events import EVENT_TYPES
from ..jobs.checks import MAX_LABELS
from ..state import Status
from .published import Dialect
from .requests import MAX_TEXT

Schema = dict[str, Any]

REFERENCE = "#/components/schemas/"
_CONTROL = r"\x00-\x1f\x7f-\x9f"
NAME = f"^[^{_CONTROL}]*$"
"""The pattern of names: no control characters."""
_Name = Annotated[str, Field(min_length=1, max_length=MAX_TEXT, pattern=NAME)]
LABEL_NAME = rf'[^"\\{_CONTROL}]{{1,{MAX_TEXT}}}'
"""The pattern of labels' names, which may also hold neither quotes nor backslashes."""
Labels = TypeAliasType(
    "Labels",
    Annotated[
        dict[str, _Name],
        Field(
            max_length=MAX_LABELS,
            json_schema_extra={"propertyNames": {"pattern": f"^{LABEL_NAME}$"}},
        ),
    ],
)
_Level = Literal["debug", "info", "warn", "error"]


class Refusal(TypedDict):
    error: Annotated[str, Field(description="What is wrong, for a person.")]
    code: Annotated[str, Field(description="What is wrong, as a stable identifier.")]
    path: NotRequired[Annotated[str, Field(description="Where in the input: `$.rows[3]`.")]]
    status: NotRequired[
        Annotated[str, Field(description="The run's status, which does not allow it.")]
    ]
    request_id: NotRequired[
        Annotated[str, Field(description="The id of a failure in the server's log.")]
    ]


class Progress(TypedDict):
    current: float
    total: NotRequired[float]
    message: NotRequired[str]


class PublishedRun(TypedDict):
    id: str
    job_name: str
    status: str
    input: Any
    output: Any
    error: str | None
    progress: Progress | None
    labels: Labels
    completed_step_count: int
    current_step_index: Annotated[int, Field(description="The same as completedStepCount.")]
    started_at: datetime | None
    completed_at: datetime | None
    created_at: datetime
    is_terminal: Annotated[bool, Field(description="Completed, failed or cancelled.")]
    is_active: Annotated[bool, Field(description="Not terminal.")]


class _Failure(TypedDict):
    error_type: Annotated[str | None, Field(description="The exception's class.")]
    failed_step_name: str | None
    error_traceback: NotRequired[
        Annotated[str, Field(description="Only where the server is configured to send it.")]
    ]


class Run(PublishedRun, _Failure):
    payload: NotRequired[
        Annotated[Any, Field(description="The same as input, unless that is large.")]
    ]
    updated_at: datetime
    stopping: NotRequired[
        Annotated[bool, Field(description="True while a worker still stops a finished run.")]
    ]
    attempt: Annotated[int, Field(description="How many times a worker has started it.")]


class PublishedStep(TypedDict):
    id: str
    run_id: str
    name: str
    index: int
    status: Literal["completed", "failed"]
    output: Any
    error: str | None
    started_at: datetime
    completed_at: datetime


class Step(PublishedStep, _Failure):
    attempt: int


class LogEntry(TypedDict):
    id: str
    run_id: str
    step_name: str | None
    level: _Level
    message: str
    data: Any
    timestamp: datetime


class Job(TypedDict):
    name: str
    input_schema: dict[str, Any]
    output_schema: dict[str, Any]


class Health(TypedDict):
    status: Literal["ok", "degraded", "down"]
    database: Literal["ok", "unavailable", "closed"]
    worker: Literal["working", "stopped", "none"]


class Done(TypedDict):
    success: Literal[True]


class Retriggered(Done):
    run_id: Annotated[str, Field(description="The new run's.")]


class TriggerRequest(TypedDict):
    job_name: str
    input: NotRequired[
        Annotated[Any, Field(description="A value of the job's input type; `{}` if omitted.")]
    ]
    idempotency_key: NotRequired[
        Annotated[
            _Name | None,
            Field(
                description="A run of this job with the same key is answered instead of a new one."
            ),
        ]
    ]
    concurrency_key: NotRequired[
        Annotated[
            _Name | None,
            Field(description="Of all runs with the same key, one runs at a time."),
        ]
    ]
    labels: NotRequired[Labels | None]
    coalesce: NotRequired[
        Annotated[
            Literal["skip"] | None,
            Field(
                description="A run of this job that waits with the same concurrency key, and has not "
                "begun, is answered instead of a new one."
            ),
        ]
    ]


class Triggered(TypedDict):
    run_id: str
    disposition: Literal["created", "idempotent", "coalesced"]


class _Event(TypedDict):
    run_id: str
    job_name: str
    labels: Labels
    timestamp: datetime
    sequence: Annotated[
        int | None,
        Field(
            description="Its number in the journal of the run; null for events that are not stored."
        ),
    ]


class _Failed(_Event, _Failure):
    error: str


class _Stepped(_Event):
    step_name: str
    step_index: int
    attempt: int


class _StepFailed(_Stepped, _Failure):
    error: str


class _Progressed(_Event):
    progress: Progress


class _Logged(_Event):
    step_name: str | None
    level: _Level
    message: str
    data: Any


class _Ended(TypedDict):
    output: Any
    duration: Annotated[int, Field(description="Milliseconds.")]


class _Completed(_Event, _Ended):
    pass


class _StepCompleted(_Stepped, _Ended):
    pass


class _Started(_Event):
    input: Any
    payload: NotRequired[
        Annotated[Any, Field(description="The same as input, unless that is large.")]
    ]
    attempt: int


class _Leased(_Event):
    input: Any
    lease_owner: str
    lease_expires_at: datetime


class _Triggered(_Event):
    input: Any


class _CoalescedInList(_Event):
    skipped_labels: Labels


class _Coalesced(_CoalescedInList):
    skipped_input: Any


_EVENTS: Mapping[str, type[Any]] = {
    "run:trigger": _Triggered,
    "run:coalesced": _Coalesced,
    "run:start": _Started,
    "run:leased": _Leased,
    "run:progress": _Progressed,
    "run:wait": _Event,
    "run:release": _Event,
    "run:retry": _Event,
    "run:complete": _Completed,
    "run:fail": _Failed,
    "run:cancel": _Event,
    "run:delete": _Event,
    "step:start": _Stepped,
    "step:complete": _StepCompleted,
    "step:fail": _StepFailed,
    "step:cancel": _Stepped,
    "log:write": _Logged,
}
_REDUCED: Mapping[str, type[Any]] = {
    "run:coalesced": _CoalescedInList,
    "run:progress": _Progressed,
    "step:start": _Stepped,
    "step:complete": _Stepped,
    "step:fail": _Stepped,
    "step:cancel": _Stepped,
    "log:write": _Logged,
}


# -- their JSON Schemas


class _Untitled(GenerateJsonSchema):
    """Without the titles of fields, which repeat their names."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def schemas(dialect: Dialect) -> dict[str, Schema]:
    """Build the schemas of all shapes in a dialect, by name."""
    plain = (Refusal, LogEntry, Job, Health, Done, Retriggered, TriggerRequest, Triggered)
    shapes: dict[str, Any] = {shape.__name__: shape for shape in plain}
    run, step = (PublishedRun, PublishedStep) if dialect.exact else (Run, Step)
    found, built = _build({**shapes, "Run": run, "Step": step}), _build(_EVENTS)
    found["Run"]["properties"]["status"] = {
        "enum": [*dict.fromkeys(dialect.statuses.get(status, status) for status in Status)]
    }
    found["Triggered"]["properties"]["run"] = {"$ref": REFERENCE + "Run"}
    if not dialect.exact:
        found["TriggerRequest"]["additionalProperties"] = False
    types = [*dict.fromkeys(dialect.events.get(type, type) for type in EVENT_TYPES)]
    reduced = _build(_REDUCED)
    listed = {type: reduced.get(type, built["run:wait"]) for type in types}
    listed[dialect.resync] = {"type": "object", "properties": {}, "required": []}
    return {
        **found,
        **_union("Event", {type: built[type] for type in types}),
        **_union("ListEvent", listed),
    }


def _build(shapes: Mapping[str, Any]) -> dict[str, Schema]:
    """Each shape's schema under its key, and under their own names what they share."""
    inputs: list[tuple[str, JsonSchemaMode, TypeAdapter[Any]]] = [
        (name, "serialization", TypeAdapter(shape)) for name, shape in shapes.items()
    ]
    built, rest = TypeAdapter.json_schemas(
        inputs, ref_template=REFERENCE + "{model}", schema_generator=_Untitled
    )
    shared: dict[str, Schema] = rest.get("$defs", {})
    found: dict[str, Schema] = {
        name: shared[name] for name in ("Progress", "Labels") if name in shared
    }
    for (name, _), schema in built.items():
        found[name] = shared.get(schema.get("$ref", "").removeprefix(REFERENCE), schema)
    return {name: _on_the_wire(schema) for name, schema in found.items()}


def _on_the_wire(schema: Schema) -> Schema:
    if "properties" not in schema:
        return schema
    return {
        "type": "object",
        "properties": {to_camel(name): field for name, field in schema["properties"].items()},
        "required": [to_camel(name) for name in schema.get("required", ())],
    }


def _union(name: str, events: Mapping[str, Schema]) -> dict[str, Schema]:
    """A schema for each type of event, and one for any of them."""
    found: dict[str, Schema] = {}
    mapping: dict[str, str] = {}
    for type, schema in events.items():
        own = "".join(word.capitalize() for word in type.split(":")) + name
        mapping[type] = REFERENCE + own
        found[own] = {
            **schema,
            "properties": {"type": {"const": type}, **schema["properties"]},
            "required": ["type", *schema["required"]],
        }
    union = {
        "oneOf": [{"$ref": reference} for reference in mapping.values()],
        "discriminator": {"propertyName": "type", "mapping": mapping},
    }
    return {**found, name: union}
