"""docs/reference/http.md agrees with what routes, refuses and is told."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from durably.http import message, routes, sse
from durably.http.query import MAX_NUMBER
from durably.http.streams import Limits
from durably.jobs.checks import MAX_LABELS
from durably.telemetry import prometheus
from durably.telemetry.metrics import Metrics
from durably.wire import requests, shapes, strict_json

from .blocks import ROOT

PAGE = (ROOT / "docs/reference/http.md").read_text()
WIRE = ROOT / "tests/wire"


def table(heading: str) -> list[list[str]]:
    """The cells of the first table below a heading, without its head."""
    section = re.search(
        rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", PAGE, re.MULTILINE | re.DOTALL
    )
    assert section, heading
    rows = re.findall(r"^\|(.*)\|$", section[1], re.MULTILINE)
    assert rows, heading
    return [[cell.strip() for cell in row.split("|")] for row in rows[2:]]


def names(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def columns(heading: str, at: int) -> list[str]:
    return [name for row in table(heading) for name in names(row[at])]


def golden(name: str) -> Any:
    return json.loads((WIRE / f"{name}.json").read_text())


def test_the_routes() -> None:
    told = [(row[0], *names(row[1])) for row in table("Routes")]
    assert told == [(route.method, route.path) for route in routes.ROUTES]


@pytest.mark.parametrize(
    ("row", "route"),
    list(zip(table("Routes"), routes.ROUTES, strict=True)),
    ids=lambda value: getattr(value, "operation", ""),
)
def test_a_route(row: list[str], route: routes.Route) -> None:
    _, _, query, body, _, refuses = row
    labels = ["label.<name>"] if route.labels else []
    assert sorted(names(query)) == sorted([*(p.name for p in route.parameters), *labels])
    for parameter in route.parameters:
        name = f"`{parameter.name}`"
        assert (f"**{name}**" in query) == parameter.required, name
        assert (f"{name} …" in query) == parameter.repeats, name
        if parameter.default is not None and parameter.maximum < MAX_NUMBER:
            limits = f"({parameter.default}, {parameter.minimum} to {parameter.maximum})"
            assert f"{name} {limits}" in query
        elif parameter.default is not None:
            assert f"{name} ({parameter.default})" in query
    assert bool(body) == route.body
    assert [int(status) for status in refuses.split(", ") if status] == sorted(route.refuses)


def test_what_every_route_may_refuse_with() -> None:
    common = set.intersection(*(set(route.refusals) for route in routes.ROUTES))
    told = re.search(r"Every route may also refuse with ([\d, and]+);", PAGE)
    assert told
    assert {int(number) for number in re.findall(r"\d+", told[1])} == common | {401}
    assert {route.path for route in routes.ROUTES if 401 not in route.refusals} == {
        "/healthz",
        "/readyz",
    }


def test_the_statuses() -> None:
    status = next(
        parameter
        for parameter in routes.OPERATIONS["runs"].parameters
        if parameter.name == "status"
    )
    (line,) = re.findall(r"^`status` is (.*?); `leased`", PAGE, re.MULTILINE)
    assert names(line) == [word for word in status.choices if word != "leased"]


def test_the_refusals() -> None:
    told: dict[str, list[str]] = {}
    for status, code, _ in table("Refusals"):
        told.setdefault(status, []).extend(names(code))
    assert told == golden("codes")


@pytest.mark.parametrize(
    ("heading", "shape"),
    [
        ("Trigger", shapes.TriggerRequest),
        ("Run", shapes.Run),
        ("Step", shapes.Step),
        ("LogEntry", shapes.LogEntry),
        ("Health", shapes.Health),
    ],
)
def test_the_fields(heading: str, shape: Any) -> None:
    fields = {shapes.to_camel(name) for name in shape.__annotations__}
    assert sorted(columns(heading, 0)) == sorted(fields)


COMMON = ("type", "runId", "jobName", "labels", "timestamp", "sequence")


def test_the_events() -> None:
    told = {name: {*names(row[2])} for row in table("What events tell") for name in names(row[0])}
    events: dict[str, set[str]] = {}
    for event in golden("events").values():
        events.setdefault(event["type"], set()).update(event.keys() - {*COMMON, "errorTraceback"})
    assert told == events
    common = re.search(r"^Every event has (.*), and$", PAGE, re.MULTILINE)
    assert common
    assert names(common[1]) == list(COMMON)


def test_the_figures() -> None:
    text = prometheus.expose(Metrics(), [], {}, 0)
    assert columns("Figures", 0) == re.findall(r"^# TYPE (\w+)", text, re.MULTILINE)


def test_the_limits() -> None:
    limits = Limits()
    told = "\n".join("|".join(row) for row in table("Limits"))
    for number, what in (
        (requests.MAX_TEXT, f"1 to {requests.MAX_TEXT} characters"),
        (MAX_LABELS, f"labels of a run|{MAX_LABELS}|"),
        (
            message.MAX_QUERY,
            f"{message.MAX_QUERY // 1024} KiB, {message.MAX_PARAMETERS} parameters",
        ),
        (strict_json.MAX_DEPTH, f"{strict_json.MAX_DEPTH}, {strict_json.MAX_KEYS:,}"),
        (routes.MAX_LIMIT, f"runs of a page|{routes.MAX_LIMIT}|"),
        (limits.streams, f"{limits.streams}, {limits.streams_per_principal}|"),
        (sse.MAX_FRAMES, f"{sse.MAX_FRAMES} frames, {sse.MAX_BYTES // 2**10} KiB"),
        (limits.throttle, f"{limits.throttle * 1000:g} ms"),
        (limits.ping, f"{limits.ping:g} s"),
    ):
        assert what in told, number
