"""Who may do what: peers, principals, tenants, hooks, and pages of other origins."""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

import pytest

from durably.errors import ConfigurationError, RunNotFoundError
from durably.http import Auth, Handler, Limits, Refusal, Request
from durably.http.routes import ROUTES, Route
from durably.models import Run

from .asking import JSON, Asker

# -- without auth: who is of this machine

LOCAL = {"host": "localhost:8000"}
PEERS = [
    ("127.0.0.1", LOCAL, True),
    ("127.9.9.9", LOCAL, True),
    ("::1", {"host": "[::1]:8000"}, True),
    ("::ffff:127.0.0.1", LOCAL, True),
    ("127.0.0.1", {"host": "127.0.0.1"}, True),
    ("127.0.0.1", {"host": "app.localhost:80"}, True),
    ("127.0.0.1", {"host": "LOCALHOST"}, True),
    ("192.168.1.5", LOCAL, False),
    ("10.0.0.1", {"host": "10.0.0.1"}, False),
    ("8.8.8.8", LOCAL, False),
    ("::ffff:8.8.8.8", LOCAL, False),
    ("fe80::1%eth0", LOCAL, False),
    (None, LOCAL, False),
    ("", LOCAL, False),
    ("testclient", LOCAL, False),
    ("localhost", LOCAL, False),
    # another site's name that resolves to this machine
    ("127.0.0.1", {"host": "evil.example"}, False),
    ("127.0.0.1", {"host": "localhost.evil.example"}, False),
    ("127.0.0.1", {"host": "127.0.0.1.evil.example"}, False),
    ("127.0.0.1", {"host": "127.0.0.1@evil.example"}, False),
    ("127.0.0.1", {"host": "localhost, evil.example"}, False),
    ("127.0.0.1", {"host": "[evil"}, False),
    ("127.0.0.1", {"host": ""}, False),
    ("127.0.0.1", {}, False),
    # a proxy on this machine
    ("127.0.0.1", {**LOCAL, "x-forwarded-for": "8.8.8.8"}, False),
    ("127.0.0.1", {**LOCAL, "x-forwarded-for": "127.0.0.1"}, False),
    ("127.0.0.1", {**LOCAL, "x-forwarded-proto": "https"}, False),
    ("127.0.0.1", {**LOCAL, "forwarded": "for=8.8.8.8"}, False),
    ("127.0.0.1", {**LOCAL, "x-real-ip": "8.8.8.8"}, False),
    ("127.0.0.1", {**LOCAL, "via": "1.1 proxy"}, False),
    ("127.0.0.1", {**LOCAL, "cf-connecting-ip": "8.8.8.8"}, False),
]


@pytest.mark.parametrize(("client", "headers", "local"), PEERS, ids=lambda value: str(value)[:50])
async def test_without_auth_only_this_machine_is_answered(durably, client, headers, local):
    class Anybody:
        def authenticate(self, request: Request) -> str:
            return "u1"

        def scope(self, principal: str) -> str:
            return "t1"

    async def status(handler: Handler, route: Route) -> int:
        request = Request(route.method, route.path, (), {**headers, **JSON}, b"", client)
        response = await handler.handle(request)
        if not isinstance(response.body, bytes):
            await response.body.aclose()
        return response.status

    for route in ROUTES:
        assert (await status(durably.handler(), route) != 403) == local, route
        assert await status(durably.handler(public=True), route) != 403
    for route in (route for route in ROUTES if route.operation not in ("jobs", "metrics")):
        assert await status(durably.handler(auth=Anybody()), route) != 403


async def test_to_be_public_is_logged(durably, caplog):
    durably.handler()
    assert not caplog.records
    durably.handler(public=True)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


# -- with auth: tenants


@dataclass(frozen=True)
class User:
    name: str
    tenant: str | None


class Tenants(Auth[User]):
    """``Authorization: Bearer NAME@TENANT``; nobody without it."""

    async def authenticate(self, request: Request) -> User | None:
        name, _, tenant = request.headers.get("authorization", "")[7:].partition("@")
        return User(name, tenant or None) if name else None

    def scope(self, principal: User) -> str | None:
        return principal.tenant


def of(tenant: str, handler: Handler) -> Asker:
    """A user of a tenant."""
    return Asker(handler, {"authorization": f"Bearer u@{tenant}"}, "8.8.8.8")


@dataclass
class World:
    """Two tenants on one instance, and runs of the first in every status."""

    handler: Handler
    a: Asker
    b: Asker
    runs: dict[str, str]


@pytest.fixture
async def world(durably, jobs) -> World:
    handler = durably.handler(auth=Tenants())
    a, b = of("a", handler), of("b", handler)
    runs = {}
    for job, final in (("pack", "completed"), ("break", "failed"), ("hold", "running")):
        run_id = (await a.trigger(job, {"name": "Ada"})).json["runId"]
        runs[final] = run_id
        async for event in durably.subscribe(run_id):
            if event.type == "run:start" and job == "hold":
                break
    return World(handler, a, b, runs)


ABSENT = "0199aaaa-0000-7000-8000-000000000000"
OF_A_RUN = [route for route in ROUTES if any(p.required for p in route.parameters)]
RIGHT = {  # what each route says to the right tenant, by the status of the run
    "run": (200, 200, 200), "steps": (200, 200, 200), "logs": (200, 200, 200),
    "subscribe": (200, 200, 200), "retry": (409, 200, 409), "retrigger": (200, 200, 409),
    "cancel": (409, 409, 200), "delete": (200, 200, 409),
}  # fmt: skip


def name_of(route: Route) -> str:
    return route.operation


@pytest.mark.parametrize("route", OF_A_RUN, ids=name_of)
async def test_a_run_is_its_tenants_alone(durably, world, route):
    async def ask(asker: Asker, run_id: str):
        return await asker.peek(route.method, route.path, [("runId", run_id)], JSON)

    nobody = Asker(world.handler)
    for status, run_id in world.runs.items():
        before = await durably.row(run_id)
        absent = await ask(world.b, ABSENT)
        foreign = await ask(world.b, run_id)
        assert absent.refusal == foreign.refusal == (404, "run_not_found")
        assert foreign.body == absent.body.replace(ABSENT.encode(), run_id.encode())
        assert foreign.headers == absent.headers
        assert (await ask(nobody, run_id)).refusal == (401, "unauthenticated")
        assert await durably.row(run_id) == before, status
    for run_id, right in zip(world.runs.values(), RIGHT[route.operation], strict=True):
        assert (await ask(world.a, run_id)).status == right
    unguarded = Asker(durably.handler())
    assert (await ask(unguarded, ABSENT)).status == 404
    assert (await ask(unguarded, world.runs["running"])).status in (200, 409)


REST = {
    "trigger": (400, 400), "runs": (200, 200), "runs_subscribe": (200, 200), "jobs": (403, 200),
    "metrics": (403, 200), "openapi": (200, 200), "healthz": (200, 200), "readyz": (200, 200),
}  # fmt: skip
"""With auth that has no more than a scope, and without auth."""


@pytest.mark.parametrize("route", [r for r in ROUTES if r not in OF_A_RUN], ids=name_of)
async def test_what_is_of_no_run(durably, world, route):
    tenants, unguarded = REST[route.operation]
    assert (await world.a.peek(route.method, route.path, (), JSON)).status == tenants
    nobody = Asker(world.handler)
    expected = 200 if route.open else 401
    assert (await nobody.peek(route.method, route.path, (), JSON)).status == expected
    assert (
        await Asker(durably.handler()).peek(route.method, route.path, (), JSON)
    ).status == unguarded


def test_the_tables_are_complete():
    assert RIGHT.keys() | REST.keys() == {route.operation for route in ROUTES}


async def test_lists_are_of_ones_own_tenant(world):
    await world.b.trigger("tick", labels={"org": "a"})
    assert {run["id"] for run in (await world.a.get("/runs")).json} == {*world.runs.values()}
    (own,) = (await world.b.get("/runs")).json
    for query in ({"label.org": "a"}, {"jobName": "tick"}, {"limit": "1"}):
        assert (await world.b.get("/runs", *query.items())).json == [own]
    for cursor in world.runs.values():
        found = (await world.b.get("/runs", cursor=cursor)).json
        assert {run["id"] for run in found} <= {own["id"]}


async def test_live_lists_are_of_ones_own_tenant(world):
    async with aclosing(world.b.stream("/runs/subscribe")) as heard:
        first = asyncio.create_task(anext(heard))
        await asyncio.sleep(0.1)
        await world.a.trigger("tick")
        await asyncio.sleep(0.2)
        own = (await world.b.trigger("tick")).json["runId"]
        async with asyncio.timeout(30):
            told = [await first]
            while told[-1]["type"] != "run:complete":
                told.append(await anext(heard))
    assert {event["runId"] for event in told} == {own}


async def test_a_key_is_its_tenants_own(world):
    a = await world.a.trigger("hold", {"name": "x"}, idempotencyKey="k", concurrencyKey="c")
    b = await world.b.trigger("tick", idempotencyKey="k", concurrencyKey="c")
    b2 = await world.b.trigger("hold", {"name": "x"}, idempotencyKey="k")
    assert b.json["disposition"] == b2.json["disposition"] == "created"
    assert len({a.json["runId"], b.json["runId"], b2.json["runId"]}) == 3


async def test_no_client_chooses_its_tenant(durably, world):
    for body in (b'{"jobName":"tick","scope":"a"}', b'{"jobName":"tick","labels":{"scope":"a"}}'):
        await world.b.send(body)
    assert {run.scope for run in await durably.get_runs(job="tick")} == {"b"}
    assert (await world.b.get("/runs", scope="a")).status == 400


async def test_a_retriggered_run_stays_with_its_tenant(durably, world):
    new = (await world.a.post("/retrigger", runId=world.runs["completed"])).json["runId"]
    assert (await durably.get_run(new)).scope == "a"
    assert (await world.b.get("/run", runId=new)).status == 404


@pytest.mark.parametrize("scope", ["", 5, b"a", "a\0b", "x" * 256, ["a"]])
async def test_a_scope_that_is_none_is_the_servers_failure(durably, jobs, scope, caplog):
    class Strange(Tenants):
        def scope(self, principal: User) -> Any:
            return scope

    asker = of("a", durably.handler(auth=Strange()))
    for answer in (await asker.get("/runs"), await asker.trigger("tick")):
        assert answer.refusal == (500, "internal")
    assert "auth.scope()" in caplog.text
    assert await durably.get_runs() == []


# -- with auth: hooks


class Plain:
    """Hooks without a scope: runs belong to whom their label says."""

    def authenticate(self, request: Request) -> str | None:
        return request.headers.get("authorization")

    def on_trigger(self, principal: str, trigger: Any) -> Any:
        return trigger._replace(labels={**trigger.labels, "owner": principal})

    def on_run_access(self, principal: str, run: Run, operation: str) -> bool:
        return run.labels.get("owner") == principal

    def scope_runs(self, principal: str, filter: Any) -> Any:
        return replace(filter, labels={**filter.labels, "owner": principal})

    scope_runs_subscribe = scope_runs

    def on_jobs(self, principal: str) -> bool:
        return True

    on_metrics = on_jobs


class Async(Plain):
    """The same, each of them async."""

    async def authenticate(self, request: Request) -> str | None:  # type: ignore[override]
        return super().authenticate(request)

    async def on_trigger(self, principal: str, trigger: Any) -> Any:
        return super().on_trigger(principal, trigger)

    async def on_run_access(self, principal: str, run: Run, operation: str) -> bool:  # type: ignore[override]
        return super().on_run_access(principal, run, operation)

    async def scope_runs(self, principal: str, filter: Any) -> Any:
        return super().scope_runs(principal, filter)

    scope_runs_subscribe = scope_runs

    async def on_jobs(self, principal: str) -> bool:  # type: ignore[override]
        return True

    on_metrics = on_jobs


def someone(name: str, handler: Handler) -> Asker:
    return Asker(handler, {"authorization": name}, "8.8.8.8")


@pytest.mark.parametrize("hooks", [Plain, Async])
async def test_hooks_decide(durably, jobs, hooks):
    handler = durably.handler(auth=hooks())
    ada, bob = someone("ada", handler), someone("bob", handler)
    run_id = (await ada.trigger("hold", {"name": "x"}, labels={"owner": "bob"})).json["runId"]
    assert (await ada.get("/run", runId=run_id)).json["labels"] == {"owner": "ada"}
    assert [run["id"] for run in (await ada.get("/runs")).json] == [run_id]
    assert (await bob.get("/runs")).json == []
    assert (await bob.get("/runs", ("label.owner", "ada"))).json == []
    for route in OF_A_RUN:
        answer = await bob.peek(route.method, route.path, [("runId", run_id)], JSON)
        assert answer.refusal == (404, "run_not_found")
    for path in ("/jobs", "/metrics"):
        assert (await ada.get(path)).status == 200
    async with aclosing(bob.stream("/runs/subscribe")) as heard:
        first = asyncio.create_task(anext(heard))
        await asyncio.sleep(0.1)
        await ada.post("/cancel", runId=run_id)
        own = (await bob.trigger("tick")).json["runId"]
        async with asyncio.timeout(30):
            assert (await first)["runId"] == own


NEEDS = {
    "trigger": "on_trigger", "runs": "scope_runs", "runs_subscribe": "scope_runs_subscribe",
    "jobs": "on_jobs", "metrics": "on_metrics",
} | {route.operation: "on_run_access" for route in OF_A_RUN}  # fmt: skip


def without(hook: str) -> Any:
    class Without(Plain):
        pass

    setattr(Without, hook, None)
    return Without()


@pytest.mark.parametrize("operation", NEEDS)
async def test_a_missing_hook_refuses(durably, jobs, operation):
    route = next(route for route in ROUTES if route.operation == operation)
    run_id = (await Asker(durably.handler()).trigger("tick", labels={"owner": "ada"})).json["runId"]
    bare = type("Bare", (), {"authenticate": Plain.authenticate})()
    for auth in (without(NEEDS[operation]), bare):
        ada = someone("ada", durably.handler(auth=auth))
        for known in (run_id, ABSENT):  # which there is, is not told either
            query = [("runId", known)] if route in OF_A_RUN else []
            body = b'{"jobName":"tick"}' if route.body else b""
            answer = await ada.ask(route.method, route.path, query, body, JSON)
            assert answer.refusal == (403, "not_allowed")


class Says(Plain):
    """Hooks that give what they are told to."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def _say(self, *_: Any) -> Any:
        if isinstance(self._answer, Exception) and not isinstance(self._answer, Refusal):
            raise self._answer
        return self._answer

    on_trigger = on_run_access = scope_runs = scope_runs_subscribe = on_jobs = on_metrics = _say


@pytest.mark.parametrize("operation", NEEDS)
async def test_what_is_not_true_does_not_allow(durably, jobs, operation):
    route = next(route for route in ROUTES if route.operation == operation)
    run_id = (await Asker(durably.handler()).trigger("tick", labels={"owner": "ada"})).json["runId"]
    for answer in (None, False, 0, 1, "", "yes", {}, ("yes",), object()):
        ada = someone("ada", durably.handler(auth=Says(answer)))
        query = [("runId", run_id)] if route in OF_A_RUN else []
        body = b'{"jobName":"tick"}' if route.body else b""
        told = await ada.ask(route.method, route.path, query, body, JSON)
        assert told.refusal in ((403, "not_allowed"), (404, "run_not_found")), answer


@pytest.mark.parametrize("operation", NEEDS)
async def test_a_hook_that_fails_refuses_and_tells_nothing(durably, jobs, operation, caplog):
    route = next(route for route in ROUTES if route.operation == operation)
    run_id = (await Asker(durably.handler()).trigger("tick", labels={"owner": "ada"})).json["runId"]
    for failure in (
        KeyError("secret of /etc/app.db"),
        RunNotFoundError("secret"),
        ConfigurationError("secret"),
        PermissionError(13, "secret", "/srv/secret"),
    ):
        ada = someone("ada", durably.handler(auth=Says(failure)))
        query = [("runId", run_id)] if route in OF_A_RUN else []
        body = b'{"jobName":"tick"}' if route.body else b""
        told = await ada.ask(route.method, route.path, query, body, JSON)
        assert told.refusal == (500, "internal")
        assert b"secret" not in told.body
        assert "secret" in caplog.text


@pytest.mark.parametrize("way", ["raises", "returns"])
async def test_any_hook_may_refuse_in_its_own_words(durably, jobs, way):
    refusal = Refusal(402, "pay_first", "this needs a plan", more={"plan": "pro"})

    class Paid(Says):
        def _say(self, *_: Any) -> Any:
            if way == "raises":
                raise refusal
            return refusal

        on_run_access = on_jobs = on_trigger = _say

    ada = someone("ada", durably.handler(auth=Paid(None)))
    run_id = (await Asker(durably.handler()).trigger("tick")).json["runId"]
    for answer in (
        await ada.get("/jobs"),
        await ada.get("/run", runId=run_id),
        await ada.trigger("tick"),
    ):
        assert answer.refusal == (402, "pay_first")
        assert answer.json["plan"] == "pro"


@pytest.mark.parametrize(
    "nobody", [None, False, "", 0, {}, Refusal(401, "unauthenticated", "no")], ids=repr
)
async def test_nobody_is_not_let_in(durably, jobs, nobody):
    class Nobody(Plain):
        def authenticate(self, request: Request) -> Any:
            return nobody

        def scope(self, principal: Any) -> str:
            return "t1"

    asker = Asker(durably.handler(auth=Nobody()))
    for route in ROUTES:
        told = await asker.ask(route.method, route.path, headers=JSON)
        assert told.status == (200 if route.open else 401)
    if nobody is None:
        assert (await asker.get("/runs")).headers["www-authenticate"] == "Bearer"


async def test_a_hook_narrows_a_scope_and_cannot_widen_it(durably, jobs):
    class Narrow(Tenants):
        def on_run_access(self, principal: User, run: Run, operation: str) -> bool:
            return operation in ("run", "subscribe")

        def scope_runs(self, principal: User, filter: Any) -> Any:
            return replace(filter, scope=None)

    handler = durably.handler(auth=Narrow())
    a, b = of("a", handler), of("b", handler)
    run_id = (await a.trigger("hold", {"name": "x"})).json["runId"]
    assert (await a.get("/run", runId=run_id)).status == 200
    assert (await a.post("/cancel", runId=run_id)).refusal == (404, "run_not_found")
    assert (await b.get("/run", runId=run_id)).refusal == (404, "run_not_found")
    assert (await b.get("/runs")).json == []


async def test_a_hook_may_change_what_is_triggered(durably, jobs):
    class Redirect(Plain):
        def on_trigger(self, principal: str, trigger: Any) -> Any:
            changed = super().on_trigger(principal, trigger)
            return changed._replace(job="tick", input={}, idempotency_key="once")

    ada = someone("ada", durably.handler(auth=Redirect()))
    told = [(await ada.trigger("anything", {"x": 1})).json for _ in range(2)]
    assert [answer["disposition"] for answer in told] == ["created", "idempotent"]
    (run,) = await durably.get_runs()
    assert (run.job, run.idempotency_key) == ("tick", "once")


async def test_a_key_of_somebody_else_tells_nothing_of_his_run(durably, jobs):
    handler = durably.handler(auth=Plain())
    ada, bob = someone("ada", handler), someone("bob", handler)
    body = b'{"jobName":"echo","input":{"secret":1},"idempotencyKey":"k"}'
    run_id = (await ada.send(body)).json["runId"]
    theirs = await bob.send(body, prefer="return=representation")
    assert theirs.refusal == (409, "conflict")
    assert run_id.encode() not in theirs.body
    assert b"secret" not in theirs.body
    assert (await ada.send(body, prefer="return=representation")).json["run"]["id"] == run_id


async def test_who_may_trigger_but_not_read_is_told_an_id(durably, jobs):
    writer = someone("ada", durably.handler(auth=without("on_run_access")))
    body = b'{"jobName":"echo","input":{"secret":1},"idempotencyKey":"k"}'
    first = (await writer.send(body)).json
    again = (await writer.send(body, prefer="return=representation")).json
    assert again == {"runId": first["runId"], "disposition": "idempotent"}


@pytest.mark.parametrize("name", ["on_run_acces", "on_triggers", "scope_run"])
def test_a_misspelled_hook_is_an_error_at_once(durably, name):
    with pytest.raises(ConfigurationError, match=name):
        durably.handler(auth=type("Typo", (Tenants,), {name: lambda *_: None})())


@pytest.mark.parametrize("auth", [object(), "token", type("A", (), {"authenticate": 5})()])
def test_what_cannot_authenticate_is_no_auth(durably, auth):
    with pytest.raises(ConfigurationError, match="authenticate"):
        durably.handler(auth=auth)


# -- streams: who may have one, and for how long


class Leaving(Tenants):
    """Users may be moved to another tenant, and go."""

    def __init__(self) -> None:
        self.tenant: str | None = "a"
        self.gone: Exception | None = None

    async def authenticate(self, request: Request) -> User | None:
        if isinstance(self.gone, Exception):
            raise self.gone
        return User("u", self.tenant) if self.tenant else None


CHANGES = {
    "gone": {"tenant": None},
    "moved": {"tenant": "b"},
    "refused": {"gone": Refusal(403, "not_allowed", "no")},
    "failed": {"gone": OSError("the directory does not answer")},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("path", ["/subscribe", "/runs/subscribe"])
async def test_who_may_no_longer_have_a_stream_loses_it(durably, jobs, path, change):
    auth = Leaving()
    limits = Limits(ping=0.05, check_every=0.05)
    asker = Asker(durably.handler(auth=auth, limits=limits))
    run_id = (await asker.trigger("hold", {"name": "x"})).json["runId"]
    query = [("runId", run_id)] if path == "/subscribe" else []
    heard = asyncio.create_task(asker.ask("GET", path, query))
    await asyncio.sleep(0.3)
    assert not heard.done()
    for name, value in change.items():
        setattr(auth, name, value)
    async with asyncio.timeout(30):
        assert (await heard).status == 200
    assert asker.handler.streams == 0


async def test_a_principal_has_so_many_streams(durably, jobs):
    handler = durably.handler(auth=Tenants(), limits=Limits(streams=3, streams_per_principal=2))
    a, b = of("a", handler), of("b", handler)
    opened = [aclosing(asker.stream("/runs/subscribe")) for asker in (a, a, b)]
    waiting = [asyncio.create_task(anext(stream.thing)) for stream in opened]
    await asyncio.sleep(0.1)
    for asker in (a, b):  # a has two, and there are three
        answer = await asker.peek("GET", "/runs/subscribe")
        assert answer.refusal == (503, "too_many_streams")
        assert "retry-after" in answer.headers
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)
    assert handler.streams == 0


# -- pages of other origins (CSRF)

OWN = "http://localhost:8000"
LISTED = "https://app.example.com"
X = {"x-durably": "1"}
CSRF = [
    # what browsers say of a page of the same origin, with and without a body
    ({**JSON, "sec-fetch-site": "same-origin", "origin": OWN}, 200),
    ({"sec-fetch-site": "same-origin", "origin": OWN}, 200),
    ({"origin": OWN}, 200),
    # no browser
    (JSON, 200),
    (X, 200),
    ({}, 415),
    ({"sec-fetch-site": "none"}, 415),
    ({**JSON, "sec-fetch-site": "none"}, 200),
    # forms
    ({"content-type": "application/x-www-form-urlencoded"}, 415),
    ({"content-type": "multipart/form-data; boundary=x"}, 415),
    ({"content-type": "text/plain"}, 415),
    ({"content-type": "text/plain; application/json"}, 415),
    ({"content-type": "application/json, text/plain"}, 415),
    ({**X, "content-type": "text/plain"}, 415),
    ({"content-type": "text/plain", "sec-fetch-site": "same-origin", "origin": OWN}, 415),
    # pages of other sites, of another port, of a sandbox, of a neighbour
    ({**JSON, "sec-fetch-site": "cross-site", "origin": "https://evil.example"}, 403),
    ({**X, "sec-fetch-site": "cross-site", "origin": "https://evil.example"}, 403),
    ({**JSON, "sec-fetch-site": "cross-site"}, 403),
    ({**JSON, "sec-fetch-site": "same-site", "origin": "http://localhost:3000"}, 403),
    ({**JSON, "origin": "https://evil.example"}, 403),
    ({**JSON, "origin": "http://localhost:3000"}, 403),
    ({**JSON, "origin": "null"}, 403),
    ({**JSON, "origin": ""}, 403),
    ({**JSON, "origin": f"{OWN}, https://evil.example"}, 403),
    ({**JSON, "origin": "http://localhost:8000.evil.example"}, 403),
    ({**JSON, "origin": OWN, "sec-fetch-site": "cross-site"}, 403),
    ({**JSON, "sec-fetch-site": "same-origin, cross-site"}, 403),
    # listed origins
    ({**JSON, "sec-fetch-site": "cross-site", "origin": LISTED}, 200),
    ({"sec-fetch-site": "cross-site", "origin": LISTED}, 200),
    ({**JSON, "origin": LISTED.upper()}, 403),
    ({**JSON, "origin": LISTED + ":443"}, 403),
    ({**JSON, "origin": "https://app.example.com.evil.example"}, 403),
    ({**JSON, "origin": "http://app.example.com"}, 403),
]


@pytest.mark.parametrize(("headers", "status"), CSRF, ids=str)
async def test_no_page_of_another_site_changes_anything(durably, jobs, headers, status):
    asker = Asker(durably.handler(origins=[LISTED]))
    triggered = await asker.ask("POST", "/trigger", (), b'{"jobName":"tick"}', headers)
    assert triggered.status == status
    assert len(await durably.get_runs()) == (status == 200)
    for route in (route for route in OF_A_RUN if route.is_unsafe):
        answer = await asker.ask(route.method, route.path, [("runId", ABSENT)], b"", headers)
        assert answer.status == (404 if status == 200 else status), route
    if status == 403:
        unlisted = Asker(durably.handler())
        assert (await unlisted.ask("POST", "/trigger", (), b"{}", headers)).status == 403


async def test_nothing_changes_by_get(durably, jobs, world):
    before = [await durably.row(run_id) for run_id in world.runs.values()]
    for route in ROUTES:
        for run_id in world.runs.values():
            query = [("runId", run_id)] if any(p.required for p in route.parameters) else []
            for method in ("GET", "HEAD"):
                await world.a.peek(method, route.path, query)
    assert [await durably.row(run_id) for run_id in world.runs.values()] == before


# -- CORS

CORS = "access-control-allow-origin"


async def test_other_origins_pages_may_not_read_by_default(durably, jobs):
    asker = Asker(durably.handler())
    for origin in (LISTED, OWN, "null", "*"):
        answer = await asker.ask("GET", "/runs", headers={"origin": origin})
        assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    "origin", ["*", "https://*.example.com", "app.example.com", LISTED + "/", "null"]
)
def test_origins_are_listed_exactly(durably, origin):
    with pytest.raises(ConfigurationError, match="origin"):
        durably.handler(origins=[origin])


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        (LISTED, True), ("http://localhost:5173", True), (None, False), ("null", False),
        ("https://evil.example", False), (LISTED + ".evil.example", False), ("*", False),
        (LISTED + "/", False), ("https://APP.example.com", False), (f"{LISTED}, {LISTED}", False),
    ],
)  # fmt: skip
async def test_listed_origins_pages_may_read(durably, jobs, origin, allowed):
    asker = Asker(durably.handler(origins=[LISTED, "http://localhost:5173"]))
    headers = {} if origin is None else {"origin": origin}
    for path in ("/runs", "/run", "/nothing", "/metrics", "/runs/subscribe"):
        answer = await asker.peek("GET", path, headers=headers)
        assert answer.headers["vary"] == "Origin"
        assert answer.headers.get(CORS) == (origin if allowed else None)
        assert ("access-control-allow-credentials" in answer.headers) == allowed
    ask = {**headers, "access-control-request-method": "POST"}
    preflight = await asker.ask("OPTIONS", "/trigger", headers=ask)
    assert (preflight.status, preflight.body) == (204, b"")
    assert preflight.headers.get(CORS) == (origin if allowed else None)
    if allowed:
        assert preflight.headers["access-control-allow-methods"] == "POST"
        assert "x-durably" in preflight.headers["access-control-allow-headers"]
        assert "Durably-Next-Cursor" in answer.headers["access-control-expose-headers"]
    missing = await asker.ask("OPTIONS", "/nothing", headers=ask)
    assert missing.refusal == (404, "not_found")


async def test_a_preflight_asks_for_no_credentials(world):
    nobody = Asker(world.handler)
    ask = {"origin": LISTED, "access-control-request-method": "GET"}
    assert (await nobody.ask("OPTIONS", "/runs", headers=ask)).status == 204
