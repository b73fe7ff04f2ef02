"""Who may do what: peers, principals, tenants, and for how long they may have a stream."""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from typing import Any

import pytest

from durably.http import Handler, Limits, Refusal, Request
from durably.http.routes import ROUTES, Route

from .asking import ABSENT, JSON, OF_ONE_RUN, Asker, ended
from .tenants import Tenants, User, of

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


RIGHT = {  # what each route says to the right tenant, by the status of the run
    "run": (200, 200, 200), "steps": (200, 200, 200), "logs": (200, 200, 200),
    "subscribe": (200, 200, 200), "retry": (409, 200, 409), "retrigger": (200, 200, 409),
    "cancel": (409, 409, 200), "delete": (200, 200, 409),
}  # fmt: skip


def name_of(route: Route) -> str:
    return route.operation


@pytest.mark.parametrize("route", OF_ONE_RUN, ids=name_of)
async def test_a_run_is_its_tenants_alone(durably, tenants, route):
    async def ask(asker: Asker, run_id: str):
        return await asker.peek(route.method, route.path, [("runId", run_id)], JSON)

    nobody = Asker(tenants.handler)
    for status, run_id in tenants.runs.items():
        before = await durably._engine.runs.get_row(run_id)
        absent = await ask(tenants.b, ABSENT)
        foreign = await ask(tenants.b, run_id)
        assert absent.refusal == foreign.refusal == (404, "run_not_found")
        assert foreign.body == absent.body.replace(ABSENT.encode(), run_id.encode())
        assert foreign.headers == absent.headers
        assert (await ask(nobody, run_id)).refusal == (401, "unauthenticated")
        assert await durably._engine.runs.get_row(run_id) == before, status
    for run_id, right in zip(tenants.runs.values(), RIGHT[route.operation], strict=True):
        assert (await ask(tenants.a, run_id)).status == right
    unguarded = Asker(durably.handler())
    assert (await ask(unguarded, ABSENT)).status == 404
    assert (await ask(unguarded, tenants.runs["running"])).status in (200, 409)


REST = {
    "trigger": (400, 400), "runs": (200, 200), "runs_subscribe": (200, 200), "jobs": (403, 200),
    "metrics": (403, 200), "openapi": (200, 200), "healthz": (200, 200), "readyz": (200, 200),
}  # fmt: skip
"""With auth that has no more than a scope, and without auth."""


@pytest.mark.parametrize("route", [r for r in ROUTES if r not in OF_ONE_RUN], ids=name_of)
async def test_what_is_of_no_run(durably, tenants, route):
    with_scope, unguarded = REST[route.operation]
    assert (await tenants.a.peek(route.method, route.path, (), JSON)).status == with_scope
    nobody = Asker(tenants.handler)
    expected = 200 if route.open else 401
    assert (await nobody.peek(route.method, route.path, (), JSON)).status == expected
    assert (
        await Asker(durably.handler()).peek(route.method, route.path, (), JSON)
    ).status == unguarded


def test_the_tables_are_complete():
    assert RIGHT.keys() | REST.keys() == {route.operation for route in ROUTES}


async def test_lists_are_of_ones_own_tenant(durably, tenants):
    await ended(durably, await tenants.b.trigger("tick", labels={"org": "a"}))
    assert {run["id"] for run in (await tenants.a.get("/runs")).json} == {*tenants.runs.values()}
    (own,) = (await tenants.b.get("/runs")).json
    for query in ({"label.org": "a"}, {"jobName": "tick"}, {"limit": "1"}):
        assert (await tenants.b.get("/runs", *query.items())).json == [own]
    for cursor in tenants.runs.values():
        found = (await tenants.b.get("/runs", cursor=cursor)).json
        assert {run["id"] for run in found} <= {own["id"]}


async def test_live_lists_are_of_ones_own_tenant(tenants):
    async with aclosing(tenants.b.stream("/runs/subscribe")) as heard:
        first = asyncio.create_task(anext(heard))
        await asyncio.sleep(0.1)
        await tenants.a.trigger("tick")
        await asyncio.sleep(0.2)
        own = (await tenants.b.trigger("tick")).json["runId"]
        async with asyncio.timeout(30):
            told = [await first]
            while told[-1]["type"] != "run:complete":
                told.append(await anext(heard))
    assert {event["runId"] for event in told} == {own}


async def test_a_key_is_its_tenants_own(tenants):
    a = await tenants.a.trigger("hold", {"name": "x"}, idempotencyKey="k", concurrencyKey="c")
    b = await tenants.b.trigger("tick", idempotencyKey="k", concurrencyKey="c")
    b2 = await tenants.b.trigger("hold", {"name": "x"}, idempotencyKey="k")
    assert b.json["disposition"] == b2.json["disposition"] == "created"
    assert len({a.json["runId"], b.json["runId"], b2.json["runId"]}) == 3


async def test_no_client_chooses_its_tenant(durably, tenants):
    for body in (b'{"jobName":"tick","scope":"a"}', b'{"jobName":"tick","labels":{"scope":"a"}}'):
        await tenants.b.send(body)
    assert {run.scope for run in await durably.get_runs(job="tick")} == {"b"}
    assert (await tenants.b.get("/runs", scope="a")).status == 400


async def test_a_retriggered_run_stays_with_its_tenant(durably, tenants):
    new = (await tenants.a.post("/retrigger", runId=tenants.runs["completed"])).json["runId"]
    assert (await durably.get_run(new)).scope == "a"
    assert (await tenants.b.get("/run", runId=new)).status == 404


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
@pytest.mark.parametrize("ping", [0, 0.05, 600])
async def test_who_may_no_longer_have_a_stream_loses_it(durably, jobs, path, change, ping):
    auth = Leaving()
    limits = Limits(ping=ping, check_every=0.05)
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


async def test_a_stream_that_is_lost_ends_soon_though_it_is_silent_and_sends_nothing_more(
    durably, jobs
):
    auth = Leaving()
    limits = Limits(ping=3_600, check_every=0.05)
    asker = Asker(durably.handler(auth=auth, limits=limits))
    silent = asyncio.create_task(asker.ask("GET", "/runs/subscribe"))
    response = await asker.handler.runs_subscribe(Request("GET", "/runs/subscribe"))
    assert (await anext(response.body)).startswith(b"id: 0")
    run_id = (await asker.trigger("hold", {"name": "x"})).json["runId"]
    async for event in durably.subscribe(run_id):  # the lists were told, too, and this one keeps it
        if event.type == "run:start":
            break
    auth.tenant = None
    await asyncio.sleep(2 * limits.check_every)
    async with asyncio.timeout(30):
        assert (await silent).status == 200
        assert [chunk async for chunk in response.body] == []
    assert asker.handler.streams == 0
