"""The OpenAPI document is valid, complete, and true of what the handler does."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from pydantic import BaseModel

from durably import Step
from durably.http.openapi import REFUSALS, describe
from durably.http.routes import ROUTES
from durably.wire.published import DIALECTS
from durably.wire.runs import JobInfo

from .asking import Asker

HTTP = Path(__file__).parents[2] / "src/durably/http"


class Tree(BaseModel):
    name: str
    children: list[Tree] = []


@pytest.mark.parametrize("compat", DIALECTS)
@pytest.mark.parametrize("with_jobs", [False, True])
async def test_it_is_valid(durably, jobs, compat, with_jobs):
    @durably.job("tree/größe: all")
    async def tree(step: Step, input: Tree) -> Tree:
        return input

    @durably.job("tree/größe; all")
    async def other(step: Step, input: Tree) -> Tree:
        return input

    if with_jobs:
        document = (await Asker(durably.handler(compat=compat)).get("/openapi.json")).json
        assert "Trigger.tree_gr__e__all.Tree" in document["components"]["schemas"]
    else:
        document = describe(dialect=DIALECTS[compat])
    OpenAPIV31SpecValidator(document).validate()
    assert json.dumps(document).count("$defs") == 0


async def test_it_has_every_route_and_nothing_else(asker):
    document = (await asker.get("/openapi.json")).json
    described = {
        (method.upper(), path): operation
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    }
    assert described.keys() == {(route.method, route.path) for route in ROUTES}
    for route in ROUTES:
        operation = described[route.method, route.path]
        told = {parameter["name"] for parameter in operation["parameters"]}
        assert told >= {parameter.name for parameter in route.parameters}
        assert {int(status) for status in operation["responses"]} >= {200, *route.refusals}
        assert ("requestBody" in operation) == route.body


async def test_limits_and_headers_are_told(asker):
    paths = (await asker.get("/openapi.json")).json["paths"]
    runs = paths["/runs"]["get"]
    limit = next(p for p in runs["parameters"] if p["name"] == "limit")
    assert limit["schema"] == {"type": "integer", "minimum": 1, "maximum": 200, "default": 50}
    assert "Durably-Next-Cursor" in runs["responses"]["200"]["headers"]
    for path in ("/subscribe", "/runs/subscribe"):
        stream = paths[path]["get"]
        assert "Last-Event-ID" in {p["name"] for p in stream["parameters"]}
        assert [*stream["responses"]["200"]["content"]] == ["text/event-stream"]
    assert "X-Durably" in {p["name"] for p in paths["/run"]["delete"]["parameters"]}


async def test_each_job_is_described(asker):
    schemas = (await asker.get("/openapi.json")).json["components"]["schemas"]
    mapping = schemas["TriggerRequest"]["discriminator"]["mapping"]
    assert [*mapping] == ["pack", "break", "hold", "echo", "tick"]
    pack, echo = schemas["Trigger.pack"], schemas["Trigger.echo"]
    assert pack["properties"]["input"]["properties"]["count"]["type"] == "integer"
    assert pack["required"] == ["jobName", "input"]
    assert echo["required"] == ["jobName"]
    assert pack["additionalProperties"] is False


async def test_jobs_are_not_told_to_those_who_may_not_read_them(durably, jobs):
    class Tenants:
        def authenticate(self, request):
            return "u1"

        def scope(self, principal):
            return "t1"

    schemas = (await Asker(durably.handler(auth=Tenants())).get("/openapi.json")).json
    assert "pack" not in json.dumps(schemas)


def test_every_code_that_the_handler_says_is_described():
    source = "".join(path.read_text() for path in HTTP.glob("*.py"))
    said = re.findall(r'Refusal\(\s*(\d+),\s*"(\w+)"', source)
    said += re.findall(r'\((\d+), "(\w+)"\)', source)
    said += [
        ("400", code) for code in re.findall(r'WireError\([^()]*\([^()]*\)?[^()]*"(\w+)"\)', source)
    ]
    assert len(said) > 15
    for status, code in said:
        assert code in REFUSALS[int(status)][1], (status, code)


def test_two_jobs_never_share_a_schema():
    jobs = [JobInfo("a.b", {}, {}), JobInfo("a", {"$ref": "#/$defs/b", "$defs": {"b": {}}}, {})]
    schemas = describe(jobs)["components"]["schemas"]
    assert schemas["Trigger.a"]["properties"]["input"]["$ref"].endswith("/Trigger.a.b")
    assert schemas["Trigger.a_b"]["properties"]["jobName"] == {"const": "a.b"}
