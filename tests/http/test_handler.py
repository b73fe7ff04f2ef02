"""The routes of one run and of none: what they answer, and each refusal by its status and code."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from durably import Durably
from durably.http import Request
from durably.http.routes import ROUTES
from durably.runtime import Runtime

from .asking import ABSENT, JSON, OF_ONE_RUN, RUN_FIELDS, Asker, broken, ended, held, packed

# -- what is asked of one run


@pytest.mark.parametrize("route", OF_ONE_RUN, ids=lambda route: f"{route.method}{route.path}")
async def test_a_run_that_there_is_not(asker, route):
    async def ask(*query: tuple[str, str]) -> tuple[int, str]:
        return (await asker.ask(route.method, route.path, query, headers=JSON)).refusal

    assert await ask(("runId", ABSENT)) == (404, "run_not_found")
    assert await ask() == (400, "invalid_request")
    assert await ask(("runId", "")) == (400, "invalid_request")
    assert await ask(("runId", ABSENT), ("runId", ABSENT)) == (400, "invalid_request")
    assert await ask(("runid", ABSENT)) == (400, "invalid_request")
    assert await ask(("runId", ABSENT), ("x", "1")) == (400, "invalid_request")


async def test_a_run(durably, asker):
    run = (await asker.get("/run", runId=await packed(durably, asker))).json
    assert run.keys() == RUN_FIELDS
    assert (run["status"], run["isTerminal"], run["isActive"]) == ("completed", True, False)
    assert run["output"] == run["input"] == run["payload"] == {"name": "Ada", "count": 1}
    assert run["progress"] == {"current": 1, "total": 2, "message": "half"}
    assert run["completedStepCount"] == run["currentStepIndex"] == 2
    assert run["attempt"] == 1
    for name in ("createdAt", "startedAt", "completedAt", "updatedAt"):
        at = datetime.strptime(run[name], "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)
        assert at.isoformat(timespec="milliseconds").replace("+00:00", "Z") == run[name]


async def test_a_failed_run_says_why_as_far_as_it_may(durably, asker):
    run_id = await broken(durably, asker)
    run = (await asker.get("/run", runId=run_id)).json
    assert (run["error"], run["errorType"], run["failedStepName"]) == (
        "Ada is no number",
        "ValueError",
        "parse",
    )
    assert "errorTraceback" not in run
    full = (await Asker(durably.handler(errors="full")).get("/run", runId=run_id)).json
    assert "Traceback" in full["errorTraceback"]
    none = (await Asker(durably.handler(errors="none")).get("/run", runId=run_id)).json
    assert (none["error"], none["errorType"]) == ("failed", None)
    for asked in ("/steps", "/subscribe"):
        told = (await Asker(durably.handler(errors="none")).get(asked, runId=run_id)).body
        assert b"no number" not in told
        assert b"ValueError" not in told


async def test_steps_in_order(durably, asker):
    run_id = await packed(durably, asker)
    steps = (await asker.get("/steps", runId=run_id)).json
    assert [(step["name"], step["index"], step["status"]) for step in steps] == [
        ("fetch", 0, "completed"),
        ("save", 1, "completed"),
    ]
    assert [step["output"] for step in steps] == [{"name": "Ada"}, 3]
    assert {step["runId"] for step in steps} == {run_id}
    assert len({step["id"] for step in steps}) == 2


async def test_log_lines_in_order(durably, asker):
    run_id = await packed(durably, asker)
    (line,) = (await asker.get("/logs", runId=run_id)).json
    assert (line["level"], line["message"], line["data"]) == ("info", "fetched", {"name": "Ada"})
    assert (line["runId"], line["stepName"]) == (run_id, None)
    number = line["id"].removeprefix(f"{run_id}:")
    assert (await asker.get("/logs", runId=run_id, after=number)).json == []
    assert (await asker.get("/logs", runId=run_id, after=int(number) - 1, limit=1)).json == [line]
    for name, value in (("after", -1), ("after", "x"), ("limit", 0), ("limit", 1_001)):
        answer = await asker.get("/logs", runId=run_id, **{name: value})
        assert answer.refusal == (400, "invalid_request")


async def test_moves_and_their_conflicts(durably, jobs, asker):
    active = await held(asker)
    done, failed = await packed(durably, asker), await broken(durably, asker)
    for path, runs in {
        "/retry": {active: "pending", done: "completed"},
        "/retrigger": {active: "pending"},
        "/cancel": {done: "completed", failed: "failed"},
    }.items():
        for run_id, status in runs.items():
            answer = await asker.post(path, runId=run_id)
            assert answer.refusal == (409, "conflict")
            assert answer.json["status"] in (status, "running")
    assert (await asker.delete("/run", runId=active)).refusal == (409, "conflict")

    assert (await asker.post("/retry", runId=failed)).json == {"success": True}
    assert (await asker.post("/cancel", runId=active)).json == {"success": True}
    assert (await asker.get("/run", runId=active)).json["status"] == "cancelled"
    assert (await asker.post("/cancel", runId=active)).refusal == (409, "conflict")
    assert (await asker.delete("/run", runId=active)).json == {"success": True}
    assert (await asker.delete("/run", runId=active)).refusal == (404, "run_not_found")
    assert (await asker.get("/run", runId=active)).refusal == (404, "run_not_found")


async def test_a_retriggered_run_is_a_new_one(durably, asker):
    old = await packed(durably, asker, labels={"org": "o1"}, idempotencyKey="k", concurrencyKey="c")
    answer = await asker.post("/retrigger", runId=old)
    assert answer.json == {"success": True, "runId": answer.json["runId"]}
    new = await durably.get_run(await ended(durably, answer))
    assert new is not None
    assert (new.id != old, new.labels, new.concurrency_key, new.idempotency_key) == (
        True,
        {"org": "o1"},
        "c",
        None,
    )


async def test_a_run_whose_input_no_longer_fits_is_not_retriggered(tmp_path, durably, asker):
    old = await ended(durably, await asker.trigger("tick"))
    async with Durably(tmp_path / "app.db", worker=False) as later:
        asked = Asker(later.handler())
        assert (await asked.post("/retrigger", runId=old)).refusal == (404, "job_not_found")

        @later.job("tick")
        async def tick(step, input: int) -> int:
            return input

        answer = await asked.post("/retrigger", runId=old)
        assert answer.refusal == (400, "invalid_input")
        assert answer.json["path"] == "$"


# -- the rest


async def test_jobs_are_told_with_their_schemas(asker):
    told = {job["name"]: job for job in (await asker.get("/jobs")).json}
    assert [*told] == ["pack", "break", "hold", "echo", "tick"]
    assert told["pack"]["inputSchema"]["properties"]["name"]["type"] == "string"
    assert told["tick"]["outputSchema"] == {"type": "integer"}
    assert told["echo"].keys() == {"name", "inputSchema", "outputSchema"}


async def test_health(durably, asker):
    for path in ("/healthz", "/readyz"):
        answer = await asker.get(path)
        assert (answer.status, answer.json) == (
            200,
            {"status": "ok", "database": "ok", "worker": "working"},
        )
    await durably.stop(0)
    for path in ("/healthz", "/readyz"):
        assert (await asker.get(path)).status == 503


async def test_an_instance_that_is_not_open_says_so(durably, asker):
    await durably.stop(0)
    answer = await asker.get("/runs")
    assert answer.refusal == (503, "not_started")
    assert answer.headers["retry-after"] == "1"


async def test_metrics(durably, asker):
    await packed(durably, asker)
    answer = await asker.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert b'durably_runs{job="pack",status="completed"} 1' in answer.body


async def test_metrics_have_the_queue_age_of_jobs_that_nobody_here_registers(durably, asker):
    other = Durably(durably.database, worker=False)
    async with other:

        @other.job("elsewhere")
        async def elsewhere(step): ...

        await elsewhere.trigger()
    answer = await asker.get("/metrics")
    assert b'durably_queue_age_seconds{job="elsewhere"} ' in answer.body
    assert b'durably_queue_age_seconds{job="pack"} 0.0' in answer.body


async def test_every_answer_says_not_to_guess_or_to_keep_it(asker):
    for path in ("/runs", "/run", "/nothing", "/metrics", "/healthz", "/openapi.json"):
        answer = await asker.get(path)
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "no-store" in answer.headers["cache-control"]


@pytest.mark.parametrize(
    "path", ["/", "", "/run/", "/nothing", "/RUN", "//run", "/run/x", "/..", "/run\0"]
)
async def test_there_is_nothing_elsewhere(asker, path):
    assert (await asker.get(path)).refusal == (404, "not_found")


@pytest.mark.parametrize("path", sorted({route.path for route in ROUTES}))
async def test_methods_that_a_path_does_not_have(asker, path):
    has = {route.method for route in ROUTES if route.path == path}
    has |= {"HEAD"} if "GET" in has else set()
    for method in {
        "GET",
        "HEAD",
        "POST",
        "PUT",
        "PATCH",
        "DELETE",
        "OPTIONS",
        "TRACE",
        "get",
        "X",
    } - has:
        answer = await asker.ask(method, path, headers=JSON)
        assert answer.status == 405
        assert set(answer.headers["allow"].split(", ")) == has
        assert method == "HEAD" or answer.refusal == (405, "wrong_method")


async def test_head_is_get_without_the_body(durably, asker):
    run_id = await packed(durably, asker)
    for path, query in (
        ("/runs", {}), ("/run", {"runId": run_id}), ("/run", {"runId": ABSENT}), ("/jobs", {}),
    ):  # fmt: skip
        got = await asker.get(path, **query)
        head = await asker.ask("HEAD", path, query.items())
        assert (head.status, head.body) == (got.status, b"")
        assert head.headers == {**got.headers, "content-length": str(len(got.body))}


async def test_head_of_a_stream_leaves_nothing_open(durably, asker):
    run_id = await held(asker)
    for path, query in (("/subscribe", [("runId", run_id)]), ("/runs/subscribe", [])):
        head = await asker.ask("HEAD", path, query)
        assert (head.status, head.body) == (200, b"")
        assert head.headers["content-type"] == "text/event-stream"
    assert asker.handler.streams == 0


async def test_streams_refuse_before_they_begin(asker):
    run_id = await held(asker)
    for value in ("-1", "x", "1.5", "9" * 5_000, str(2**53), "1, 2", "²"):
        answer = await asker.ask(
            "GET", "/subscribe", [("runId", run_id)], headers={"last-event-id": value}
        )
        assert answer.refusal == (400, "invalid_request")
    assert (await asker.get("/runs/subscribe", status="running")).refusal == (
        400,
        "invalid_request",
    )
    assert asker.handler.streams == 0


async def test_each_operation_answers_by_itself(durably, jobs):
    handler = durably.handler()
    run_id = await packed(durably, Asker(handler))
    headers = {"host": "localhost", **JSON}
    about = Request("GET", "/ignored", [("runId", run_id)], headers, client="::1")
    for operation, status in {
        "run": 200, "steps": 200, "logs": 200, "retrigger": 200, "retry": 409, "cancel": 409,
        "delete": 200, "runs": 400,
    }.items():  # fmt: skip
        assert (await getattr(handler, operation)(about)).status == status, operation
    for operation in ("runs", "jobs"):
        assert (
            await getattr(handler, operation)(Request("GET", "/", (), headers, client="::1"))
        ).status == 200
    trigger = Request("POST", "/", (), headers, b'{"jobName":"tick"}', "::1")
    assert (await handler.trigger(trigger)).status == 200


class Broken(Runtime):
    """A runtime whose clock may stop working."""

    is_broken = False

    def now(self) -> int:
        if self.is_broken:
            raise OSError("/etc/localtime: secret")
        return super().now()


async def test_a_failure_tells_nothing_but_its_number(tmp_path, caplog):
    runtime = Broken()
    async with Durably(tmp_path / "x.db", runtime=runtime, worker=False) as durably:

        @durably.job("tick")
        async def tick(step) -> None: ...

        runtime.is_broken = True
        answer = await Asker(durably.handler()).trigger("tick")
        runtime.is_broken = False
    assert answer.refusal == (500, "internal")
    assert answer.json.keys() == {"error", "code", "requestId"}
    assert b"secret" not in answer.body
    assert answer.json["requestId"] in caplog.text
    assert "secret" in caplog.text


@pytest.mark.parametrize(("compat", "word"), [(None, "running"), ("0.15", "leased")])
async def test_a_conflict_is_told_in_the_words_of_the_client(durably, jobs, compat, word):
    asker = Asker(durably.handler(compat=compat))
    run_id = await held(asker)
    async for event in durably.subscribe(run_id):
        if event.type == "run:start":
            break
    for path in ("/retry", "/retrigger"):
        answer = await asker.post(path, runId=run_id)
        assert (answer.status, answer.json["status"]) == (409, word)
        assert answer.json["error"].endswith(f"it is {word}")
