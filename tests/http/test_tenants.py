"""Two tenants on one server: however one asks, not one byte of the other's runs is told."""

from __future__ import annotations

import asyncio
import json
import random
from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from durably import Durably, Run, Step
from durably.http import Auth, Refusal, Request
from durably.http.auth import Caller
from durably.http.routes import ROUTES
from tests.tier import by_tier

from .asking import JSON, Answer, Asker
from .corpus import STRINGS

MARK = b"a7f3e9"
"""In everything of A's that has text: inputs, outputs, labels, log lines, errors, steps, progress."""
SEED = 20_261_121
KEYS = ("k1", "k2", "k3", "shared key", "invoice-7")
"""Keys that anybody may guess: they hold no mark."""


class Scopes(Auth[str]):
    """A tenant is a scope."""

    async def authenticate(self, request: Request) -> str | None:
        return request.headers.get("authorization")

    def scope(self, principal: str) -> str:
        return principal


class Labels(Auth[str]):
    """A tenant is a label, and hooks compare it."""

    async def authenticate(self, request: Request) -> str | None:
        return request.headers.get("authorization")

    def on_trigger(self, principal: str, trigger: Any) -> Any:
        return trigger._replace(
            labels={**trigger.labels, "tenant": principal},
            idempotency_key=self._own(principal, trigger.idempotency_key),
            concurrency_key=self._own(principal, trigger.concurrency_key),
        )

    def _own(self, principal: str, key: str | None) -> str | None:
        """Without a scope, keys are everybody's."""
        return key and f"{principal}/{key}"

    def on_run_access(self, principal: str, run: Run, operation: str) -> bool:
        return run.labels.get("tenant") == principal

    def scope_runs(self, principal: str, filter: Any) -> Any:
        return replace(filter, labels={**filter.labels, "tenant": principal})

    scope_runs_subscribe = scope_runs


def make(tmp_path: Any) -> Durably:
    durably = Durably(tmp_path / "app.db", durability="process", polling_interval=0.05)
    mark = MARK.decode()

    @durably.job("work")
    async def work(step: Step, input: Any) -> Any:
        secret = "x" if input == "b" else mark
        step.log.info(secret, {"data": secret})
        step.progress(1, 2, f"progress {secret}")
        await step.run(f"step {secret}", lambda: {"output": secret})
        if input == {"fail": mark}:
            raise ValueError(f"error {secret}")
        return {"result": secret}

    @durably.job("hold")
    async def hold(step: Step, input: Any) -> None:
        step.progress(1, 2, "progress" if input == "b" else mark)
        await asyncio.Event().wait()

    return durably


@dataclass
class World:
    """A has runs in every status, under keys that can be guessed, and makes more; B asks."""

    durably: Durably
    auth: Any
    a: Asker
    b: Asker
    rng: random.Random = field(default_factory=lambda: random.Random(SEED))
    theirs: list[str] = field(default_factory=list)
    own: list[str] = field(default_factory=list)

    async def make_theirs(self, key: str | None = None) -> None:
        mark = MARK.decode()
        job = self.rng.choice(("work", "work", "work", "hold"))
        given = self.rng.choice(({"secret": mark}, {"fail": mark}, mark))
        more = {} if key is None else {"idempotencyKey": key, "concurrencyKey": key}
        answer = await self.a.trigger(job, given, labels={"secret": mark, "env": "prod"}, **more)
        self.theirs.append(answer.json["runId"])


@pytest.fixture(params=[Scopes, Labels], ids=["scopes", "labels"])
async def world(request, tmp_path):
    durably = make(tmp_path)
    durably._engine.persist_logs()
    await durably.init()
    auth = request.param()
    handler = durably.handler(auth=auth, errors="full")
    a, b = (
        Asker(handler, {"authorization": name}, "10.0.0.1") for name in ("tenant-a", "tenant-b")
    )
    world = World(durably, auth, a, b)
    for key in (*KEYS, None, None, None):
        await world.make_theirs(key)
    yield world
    await durably.stop(0)


def absent(run_id: str) -> str:
    """An id of the same form that nobody has."""
    return f"{run_id[:-1]}{int(run_id[-1], 16) ^ 8:x}"


def words(world: World) -> list[str]:
    """What B may know or guess."""
    return [*world.theirs[-30:], *world.own[-30:], *KEYS, "work", "hold", "tenant-a", "env", "prod", "secret",
            "running", "completed", "0", "1", "17", *STRINGS[::9]]  # fmt: skip


CHANGING = ("/trigger", "/metrics", "/runs")
"""What B is told there changes by itself: B's own runs go on."""
NAMES = ("runId", "jobName", "status", "limit", "offset", "cursor", "after", "label.env", "label.tenant",
         "label.secret", "scope", "principal")  # fmt: skip


def random_request(world: World) -> tuple[str, str, list[tuple[str, str]], bytes, dict[str, str]]:
    """Half of them make sense."""
    rng, known = world.rng, words(world)
    route = rng.choice(ROUTES)
    query = [(p.name, rng.choice(world.theirs[-30:])) for p in route.parameters if p.required]
    if rng.random() < 0.5:
        query += [(rng.choice(NAMES), rng.choice(known)) for _ in range(rng.randrange(1, 3))]
    body = b""
    if route.body:
        asked: dict[str, Any] = {"jobName": rng.choice(("work", "hold")), "input": "b"}
        for name in ("idempotencyKey", "concurrencyKey"):
            if rng.random() < 0.5:
                asked[name] = rng.choice((*KEYS, *world.theirs[-5:]))
        if rng.random() < 0.3:
            asked["labels"] = {"tenant": "tenant-a", "env": "prod"}
        if rng.random() < 0.1:
            asked[rng.choice(("scope", "runId", "tenant"))] = "tenant-a"
        body = json.dumps(asked).encode()
    headers = {**JSON, "prefer": "return=representation"}
    if rng.random() < 0.2:
        headers["last-event-id"] = rng.choice(("0", "1", "5", "x"))
    if rng.random() < 0.1:
        headers[rng.choice(("x-forwarded-user", "x-tenant", "x-scope", "cookie"))] = "tenant-a"
    method = "HEAD" if route.method == "GET" and rng.random() < 0.05 else route.method
    return method, route.path, query, body, headers


async def ask(
    world: World, asked: tuple[str, str, list[tuple[str, str]], bytes, dict[str, str]]
) -> Answer:
    method, path, query, body, headers = asked
    if path.endswith("subscribe"):
        return await world.b.peek(method, path, query, headers)
    return await world.b.ask(method, path, query, body, headers)


def with_absent_ids(world: World, asked: Any) -> Any:
    """The same request about runs that there are not."""
    method, path, query, body, headers = asked
    theirs = set(world.theirs)
    return method, path, [(n, absent(v) if v in theirs else v) for n, v in query], body, headers


async def fuzz(world: World, count: int) -> None:
    """So many requests of B; ``AssertionError`` at the first that is told something of A's."""
    heard: list[Any] = []

    async def listen() -> None:
        async with aclosing(world.b.stream("/runs/subscribe")) as events:
            async for event in events:
                heard.append(event)

    listening = asyncio.create_task(listen())
    try:
        statuses = await ask_all(world, count)
        await asyncio.sleep(0.2)
    finally:
        listening.cancel()
        with suppress(asyncio.CancelledError):
            await listening
    assert {200, 400, 404} <= statuses
    assert heard, "B's own runs are told"
    assert MARK.decode() not in json.dumps(heard)
    assert {event["runId"] for event in heard} <= set(world.own)


async def ask_all(world: World, count: int) -> set[int]:
    statuses: set[int] = set()
    for number in range(count):
        if number % 20 == 0:
            await world.make_theirs()
        asked = random_request(world)
        answer = await ask(world, asked)
        statuses.add(answer.status)
        where = f"request {number} of seed {SEED}: {asked} -> {answer}"
        assert answer.status < 500, where
        assert MARK not in answer.body + str(answer.headers).encode(), where
        if answer.status == 200 and asked[1] == "/trigger":
            world.own.append(answer.json["runId"])
            assert answer.json["runId"] not in world.theirs, where
        if dict(asked[2]).get("runId") in world.theirs:
            assert answer.status in (400, 404), where
        elif asked[1] in CHANGING:
            continue
        again = await ask(world, with_absent_ids(world, asked))
        told = again.body
        for run_id in world.theirs[-30:]:
            told = told.replace(absent(run_id).encode(), run_id.encode())
        assert (again.status, again.headers, told) == (
            answer.status,
            answer.headers,
            answer.body,
        ), where
    return statuses


async def test_nothing_of_the_other_tenant_is_told(world):
    before = [await world.durably._engine.runs.get_row(run_id) for run_id in world.theirs]
    await fuzz(world, by_tier(quick=1_000, ci=10_000, soak=200_000))
    for row in before:  # and none of it was moved, either
        assert row is not None
        now = await world.durably._engine.runs.get_row(row.id)
        assert now is not None
        assert now.generation <= row.generation + 1
        assert now.status != "cancelled"


async def everything(self: Caller, *_: Any) -> bool:
    return True


async def unconfined(self: Caller, filter: Any, *, live: bool) -> Any:
    return filter


async def known_by_its_status(self: Caller, run: Run, operation: str) -> bool:
    if self.principal not in (run.scope, run.labels.get("tenant")):
        raise Refusal(403, "not_allowed", "this is another tenant's")
    return True


@pytest.mark.parametrize(
    ("method", "bug"),
    [("may_access", everything), ("may_access", known_by_its_status), ("scoped", unconfined)],
)
async def test_the_fuzz_finds_a_planted_bug(world, monkeypatch, method, bug):
    monkeypatch.setattr(Caller, method, bug)
    with pytest.raises(AssertionError, match="request"):
        await fuzz(world, 1_000)


async def test_what_b_can_do_is_what_b_could_do_alone(world, tmp_path):
    """B's answers about keys are those of a server that A does not use: so they tell nothing of A's."""
    (tmp_path / "alone").mkdir()
    alone = make(tmp_path / "alone")
    async with alone:
        handler = alone.handler(auth=world.auth)
        lonely = Asker(handler, {"authorization": "tenant-b"}, "10.0.0.1")
        for key in (*KEYS, "a key of nobody"):
            for more in ({"idempotencyKey": key}, {"concurrencyKey": key}, {"idempotencyKey": key}):
                ours, others = [
                    await asker.trigger("work", "b", **more) for asker in (world.b, lonely)
                ]
                assert (ours.status, ours.json["disposition"]) == (
                    others.status,
                    others.json["disposition"],
                )
                ended = [
                    await durably.wait(answer.json["runId"], timeout=30)
                    for durably, answer in ((world.durably, ours), (alone, others))
                ]
                assert ended[0].output == ended[1].output


async def test_a_mark_is_in_all_that_is_as(world):
    for run_id in world.theirs[: len(KEYS)]:
        told = await world.a.get("/run", runId=run_id)
        assert MARK in told.body
    runs = await world.a.get("/runs")
    assert runs.body.count(MARK) >= 3 * len(KEYS)
