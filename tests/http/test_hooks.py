"""The hooks of ``auth=``: what they decide, and that nothing is allowed that none of them allows."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest

from durably.errors import ConfigurationError, RunNotFoundError
from durably.http import Auth, Handler, Refusal, Request, TriggerRequest
from durably.http.routes import ROUTES
from durably.models import Run

from .asking import ABSENT, JSON, OF_ONE_RUN, Asker, ended, packed
from .tenants import Tenants, User, of


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
    for route in OF_ONE_RUN:
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
} | {route.operation: "on_run_access" for route in OF_ONE_RUN}  # fmt: skip


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
            query = [("runId", known)] if route in OF_ONE_RUN else []
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
        query = [("runId", run_id)] if route in OF_ONE_RUN else []
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
        query = [("runId", run_id)] if route in OF_ONE_RUN else []
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


class OnlyAnnTriggers(Tenants):
    """A tenant in which one user alone makes runs; all of them read and move them."""

    def __init__(self) -> None:
        self.answer: Any = True
        self.triggers: list[TriggerRequest] = []

    async def on_trigger(self, principal: User, trigger: TriggerRequest) -> Any:
        self.triggers.append(trigger)
        if principal.name != "ann":
            raise Refusal(403, "closed", "only Ann makes runs")
        return self.answer


def user(name: str, handler: Handler) -> Asker:
    return Asker(handler, {"authorization": f"Bearer {name}@a"})


@pytest.mark.parametrize("compat", [None, "0.15"])
async def test_whoever_may_not_trigger_may_not_retrigger(durably, jobs, compat):
    handler = durably.handler(auth=OnlyAnnTriggers(), compat=compat)
    ann, amy = user("ann", handler), user("amy", handler)
    old = await packed(durably, ann)
    assert (await amy.trigger("pack", {"name": "Amy"})).refusal == (403, "closed")
    assert (await amy.post("/retrigger", runId=old)).refusal == (403, "closed")
    assert [run["id"] for run in (await amy.get("/runs")).json] == [old]
    assert (await ann.post("/retrigger", runId=old)).status == 200


async def test_on_trigger_is_called_with_what_a_retrigger_would_make(durably, jobs):
    auth = OnlyAnnTriggers()
    ann = user("ann", durably.handler(auth=auth))
    keys = {"idempotencyKey": "i", "concurrencyKey": "c", "labels": {"team": "x"}}
    old = await packed(durably, ann, **keys)
    auth.triggers.clear()
    assert (await ann.post("/retrigger", runId=ABSENT)).status == 404
    active = (await ann.trigger("hold", {"name": "Ada"})).json["runId"]
    auth.triggers.clear()
    assert (await ann.post("/retrigger", runId=active)).refusal == (409, "conflict")
    assert auth.triggers == []  # a hook that counts counts only what would be made
    await ann.post("/retrigger", runId=old)
    request = TriggerRequest("pack", {"name": "Ada", "count": 1}, None, "c", {"team": "x"})
    assert auth.triggers == [request]
    auth.answer = request._replace(labels={"team": "y"}, concurrency_key=None)
    changed = await ended(durably, await ann.post("/retrigger", runId=old))
    run = await durably.get_run(changed)
    assert (run.labels, run.concurrency_key, run.scope) == ({"team": "y"}, None, "a")
    for answer in (False, None, "yes"):
        auth.answer = answer
        assert (await ann.post("/retrigger", runId=old)).refusal == (403, "not_allowed")


async def test_a_retrigger_without_a_scope_needs_on_trigger(durably, jobs):
    class Reads(Auth[str]):
        async def authenticate(self, request: Request) -> str:
            return "x"

        def on_run_access(self, principal: str, run: Run, operation: str) -> bool:
            return True

    old = await packed(durably, Asker(durably.handler()))
    answer = await Asker(durably.handler(auth=Reads())).post("/retrigger", runId=old)
    assert answer.refusal == (403, "not_allowed")
