"""The golden files: every shape of the wire, as it was. ``python -m tests.wire.test_golden`` writes them anew.

The clients' tests read the same files: a change here is a change of the protocol.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from durably.events import EVENT_TYPES
from durably.http.openapi import REFUSALS, describe
from durably.http.sse import LONG_RETRY, PING, frame, retry_hint
from durably.values.codec import PLAIN
from durably.wire import events, requests, runs, strict_json
from durably.wire.published import CURRENT, DIALECTS, Dialect
from durably.wire.runs import ErrorPolicy

from . import samples

HERE = Path(__file__).parent
POLICIES: tuple[ErrorPolicy, ...] = ("full", "message", "none")
ROW = samples.RUNS["completed"][0]


def told(dialect: Dialect) -> dict[str, dict[str, Any]]:
    """What each file of a dialect holds, by the sample's name."""
    wires = {name: (row, count) for name, (row, count) in samples.RUNS.items()}
    files: dict[str, dict[str, Any]] = {
        "runs": {name: runs.run_to_wire(*run, dialect) for name, run in wires.items()},
        "steps": {
            name: runs.step_to_wire(step, samples.ID, dialect)
            for name, step in samples.STEPS.items()
        },
        "logs": {name: runs.log_to_wire(log, dialect) for name, log in samples.LOGS.items()},
        "events": {
            name: events.event_to_wire(event, ROW, dialect)
            for name, event in samples.EVENTS.items()
        },
        "list_events": {
            name: events.event_to_list(event, dialect) for name, event in samples.EVENTS.items()
        }
        | {"resync": {"type": dialect.resync}},
    }
    for policy in POLICIES:
        row, count = samples.RUNS["failed"]
        failed = samples.STEPS["failed"]
        files["runs"][f"failed, errors={policy}"] = runs.run_to_wire(row, count, dialect, policy)
        files["steps"][f"failed, errors={policy}"] = runs.step_to_wire(
            failed, samples.ID, dialect, policy
        )
        for name in ("run:fail", "step:fail"):
            event = events.event_to_wire(samples.EVENTS[name], ROW, dialect, policy)
            files["events"][f"{name}, errors={policy}"] = event
    return files


def told_by_all() -> dict[str, dict[str, Any]]:
    """What both dialects say alike."""
    run = runs.run_to_wire(*samples.RUNS["pending"])
    triggered = {name: requests.triggered_to_wire(t) for name, t in samples.TRIGGERED.items()}
    with_run = samples.TRIGGERED["created"]._replace(run=run)
    event = events.event_to_wire(samples.EVENTS["step:complete"], ROW)
    live = events.event_to_wire(samples.EVENTS["run:progress"], ROW)
    return {
        "jobs": {name: runs.job_to_wire(job) for name, job in samples.JOBS.items()},
        "health": {name: runs.health_to_wire(health) for name, health in samples.HEALTH.items()},
        "triggered": {**triggered, "with the run": requests.triggered_to_wire(with_run)},
        "trigger_requests": {
            name: requests.trigger_to_wire(request) for name, request in samples.REQUESTS.items()
        },
        "queries": {
            "none": requests.runs_to_query(),
            "all": requests.runs_to_query(
                ["a", "b"], ["pending", "running"], {"org": "o 1", "größe": "&="}, 20, 40, "c"
            ),
        },
        "frames": {
            "come back": retry_hint(1_000).decode(),
            "stay away": retry_hint(LONG_RETRY).decode(),
            "ping": PING.decode(),
            "kept": frame(event, 17).decode(),
            "live": frame(live).decode(),
        },
        "codes": {str(status): [*codes] for status, (_, codes) in REFUSALS.items()},
    }


FILES: dict[str, Callable[[], Mapping[str, Any]]] = {
    f"{folder}{name}.json": lambda v=dialect, n=name: told(v)[n]
    for folder, dialect in (("", CURRENT), ("0.15/", DIALECTS["0.15"]))
    for name in told(dialect)
} | {f"{name}.json": lambda n=name: told_by_all()[n] for name in told_by_all()}


def text_of(content: Mapping[str, Any]) -> str:
    """A file: the JSON of the wire, a line for each sample."""
    lines = [
        f"{json.dumps(name)}: {strict_json.dump(sample).decode()}"
        for name, sample in content.items()
    ]
    return "{\n" + ",\n".join(lines) + "\n}\n"


@pytest.mark.parametrize("name", FILES)
def test_the_wire_is_as_it_was(name):
    written = (HERE / name).read_text("ascii")
    assert written == text_of(FILES[name]()), "if this is meant: python -m tests.wire.test_golden"


def test_there_are_no_other_files():
    assert {str(path.relative_to(HERE)) for path in HERE.rglob("*.json")} == {*FILES}


def golden(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((HERE / f"{name}.json").read_text("ascii"))
    return content


# -- the other direction


def as_told(value: Any) -> Any:
    """A value as it comes out of the wire: integers that JavaScript cannot hold are text."""
    return json.loads(strict_json.dump(value))


@pytest.mark.parametrize("name", samples.RUNS)
def test_runs_come_back(name):
    run = runs.run_from_wire(golden("runs")[name], PLAIN, PLAIN)
    row, _ = samples.RUNS[name]
    assert (run.id, run.job, run.status, run.attempt) == (
        row.id,
        row.job,
        row.status,
        row.generation,
    )
    assert run.input == as_told(json.loads(row.input))
    assert run.output == (None if row.output is None else as_told(json.loads(row.output)))
    assert dict(run.labels) == json.loads(row.labels)
    assert (run.progress is None) == (row.progress is None)
    assert run.idempotency_key is run.concurrency_key is None
    for ours, theirs in (
        (run.created_at, row.created_at),
        (run.started_at, row.started_at),
        (run.ended_at, row.ended_at),
        (run.updated_at, row.updated_at),
    ):
        assert (None if ours is None else round(ours.timestamp() * 1000)) == theirs


@pytest.mark.parametrize("name", samples.STEPS)
def test_steps_come_back(name):
    step = samples.STEPS[name]
    error = step.error and replace(step.error, traceback=None)
    expected = replace(step, output=as_told(step.output), error=error)
    assert runs.step_from_wire(golden("steps")[name]) == expected


@pytest.mark.parametrize("name", samples.LOGS)
def test_log_lines_come_back(name):
    expected = replace(samples.LOGS[name], data=as_told(samples.LOGS[name].data))
    assert runs.log_from_wire(golden("logs")[name]) == expected


@pytest.mark.parametrize("name", samples.EVENTS)
def test_events_come_back(name):
    event = samples.EVENTS[name]
    back = events.event_from_wire(golden("events")[name])
    changes: dict[str, Any] = {
        "scope": "",
        "timestamp": event.timestamp.replace(microsecond=123_000),
    }
    for field in ("output", "data", "input", "skipped_input"):
        if hasattr(event, field):
            changes[field] = as_told(getattr(event, field))
    if hasattr(event, "duration"):
        changes["duration"] = round(event.duration * 1000) / 1000
    if hasattr(event, "error"):
        changes["error"] = replace(event.error, traceback=None)
    assert back == replace(event, **changes)
    listed = events.event_from_list(golden("list_events")[name])
    assert (listed.type, listed.run_id, listed.sequence) == (
        event.type,
        event.run_id,
        event.sequence,
    )


def test_every_event_has_a_sample():
    assert {event.type for event in samples.EVENTS.values()} == EVENT_TYPES.keys()


@pytest.mark.parametrize("name", samples.REQUESTS)
def test_triggers_come_back(name):
    body = json.dumps(golden("trigger_requests")[name]).encode()
    assert requests.trigger_from_wire(body) == samples.REQUESTS[name]


def test_the_rest_comes_back():
    for name, job in samples.JOBS.items():
        assert runs.job_from_wire(golden("jobs")[name]) == job
    for name, triggered in samples.TRIGGERED.items():
        assert requests.triggered_from_wire(golden("triggered")[name]) == triggered


# -- what is never told, and what OpenAPI says of it


@pytest.mark.parametrize("name", FILES)
def test_leases_keys_and_scopes_stay_inside(name):
    assert "never told" not in (HERE / name).read_text()


SHAPES = {"runs": "Run", "steps": "Step", "logs": "LogEntry", "events": "Event", "list_events": "ListEvent",
          "jobs": "Job", "health": "Health", "triggered": "Triggered",
          "trigger_requests": "TriggerRequest"}  # fmt: skip


def closed(schema: Any) -> Any:
    """A schema that allows nothing that it does not name."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {key: closed(value) for key, value in schema.items()}
    if "properties" in inner and isinstance(inner["properties"], dict):
        inner.setdefault("additionalProperties", False)
    return inner


@pytest.mark.parametrize("name", FILES)
def test_openapi_says_the_same(name):
    folder, _, file = name.removesuffix(".json").rpartition("/")
    if file not in SHAPES:
        return
    document = describe(dialect=DIALECTS[folder or None])
    schemas = {"components": {"schemas": closed(document["components"]["schemas"])}}
    validator = Draft202012Validator({**schemas, "$ref": f"#/components/schemas/{SHAPES[file]}"})
    for sample, content in golden(name.removesuffix(".json")).items():
        errors = [error.message for error in validator.iter_errors(content)]
        assert errors == [], (sample, content)


if __name__ == "__main__":
    for name, content in FILES.items():
        (HERE / name).parent.mkdir(exist_ok=True)
        (HERE / name).write_text(text_of(content()), "ascii")
