"""What schemathesis makes of the OpenAPI document: valid requests are answered, invalid ones refused, all
as described, and none of them is a failure of the server."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import schemathesis

# Imported only where they are needed first, deep in a generated case, they do not compile on Python 3.11.
import schemathesis.core.error_feedback.collector
import schemathesis.specs.openapi.object_authorization
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.internal import lambda_sources
from pydantic import BaseModel, ConfigDict
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import negative_data_rejection

from durably import Durably, Step, with_log_persistence
from durably.http.routes import ROUTES, Route
from tests.tier import by_tier

from .serving import serve_in_thread

CASES = by_tier(quick=20, ci=600, soak=20_000)  # of each mode


class Order(BaseModel):
    """Strict, as its JSON Schema is: what pydantic would make fit, schemathesis calls invalid."""

    model_config = ConfigDict(strict=True, extra="forbid")

    name: str
    count: int = 1


def make(path: Path) -> Durably:
    durably = Durably(path, durability="process", polling_interval=0.05)
    durably.use(with_log_persistence())

    @durably.job("pack")
    async def pack(step: Step, input: Order) -> Order:
        step.log.info("packing", {"name": input.name})
        return await step.run("pack", lambda: input)

    @durably.job("break")
    async def broken(step: Step, input: Any) -> None:
        raise ValueError(input)

    @durably.job("hold")
    async def hold(step: Step) -> None:
        await asyncio.Event().wait()

    return durably


def hanging_up(app: Any) -> Any:
    """The application, of whose streams a client hears the first part and leaves."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        streams, left = False, asyncio.Event()

        async def hear() -> Any:
            if not streams:
                return await receive()
            await left.wait()
            return {"type": "http.disconnect"}

        async def say(message: Any) -> None:
            nonlocal streams
            if left.is_set():
                return
            if message["type"] == "http.response.start":
                streams = (b"content-type", b"text/event-stream") in message["headers"]
            elif streams and message.get("body"):
                message = {**message, "more_body": False}
                left.set()
            await send(message)

        await app(scope, hear, say)

    return application


class Runs:
    """Ids of runs in every status, made as they are used up."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._made = self._make()

    def __iter__(self) -> Iterator[str]:
        return self._made

    def _make(self) -> Iterator[str]:
        jobs = itertools.cycle(
            [
                {"jobName": "pack", "input": {"name": "Ada"}},
                {"jobName": "break"},
                {"jobName": "hold"},
            ]
        )
        with httpx2.Client(base_url=self._address) as client:
            while True:
                yield client.post("/trigger", json=next(jobs)).json()["runId"]


@pytest.fixture(scope="module", autouse=True)
def no_sources_of_lambdas():
    """To show a strategy, hypothesis parses the source of its lambdas; deep in a generated case the parser
    of Python 3.11 fails now and then (SystemError: AST constructor recursion depth mismatch)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lambda_sources, "lambda_description", lambda _: "lambda: ...")
        yield


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    durably = make(tmp_path_factory.mktemp("fuzz") / "app.db")
    engine = durably._engine
    stop = engine.stop_within
    engine.stop_within = lambda *_: stop(0)  # its jobs would hold the server for the whole grace
    with serve_in_thread(hanging_up(durably.asgi())) as address:
        yield address


@pytest.fixture(scope="module")
def schema(address):
    return schemathesis.openapi.from_url(f"{address}/openapi.json")


def fuzz(
    operation: Any, mode: GenerationMode, address: str, change: Any, excluded: list[Any]
) -> None:
    """So many requests; each answer is checked in every way that schemathesis knows."""

    @seed(20_261_121)
    @settings(
        max_examples=CASES,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def one(case: Any) -> None:
        change(case)
        response = case.call(base_url=address)
        case.validate_response(response, excluded_checks=excluded)

    one()


def name_of(route: Route) -> str:
    return route.operation


@pytest.mark.parametrize("route", ROUTES, ids=name_of)
def test_valid_requests_are_answered_as_described(schema, address, route):
    runs = iter(Runs(address))
    absent = itertools.count()

    def change(case: Any) -> None:
        if "runId" in (case.query or {}) and next(absent) % 4:
            case.query["runId"] = next(runs)

    fuzz(schema[route.path][route.method], GenerationMode.POSITIVE, address, change, [])


@pytest.mark.parametrize("route", [r for r in ROUTES if r.parameters or r.body], ids=name_of)
def test_invalid_requests_are_refused_as_described(schema, address, route):
    # Labels that are no object, schemathesis cannot write into a query: what it sends is valid.
    excluded = [negative_data_rejection] if route.labels else []
    fuzz(
        schema[route.path][route.method],
        GenerationMode.NEGATIVE,
        address,
        lambda case: None,
        excluded,
    )
