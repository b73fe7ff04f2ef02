"""Every route of the protocol: what it answers, and each refusal by its status and code."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from durably import Durably
from durably.http import Request
from durably.http.routes import ROUTES
from durably.runtime import Runtime

from .asking import JSON, Answer, Asker

RUN_FIELDS = {
    "id", "jobName", "status", "input", "payload", "output", "error", "progress", "labels",
    "completedStepCount", "currentStepIndex", "startedAt", "completedAt", "createdAt", "updatedAt",
    "isTerminal", "isActive", "attempt", "errorType", "failedStepName",
}  # fmt: skip
ABSENT = "0199aaaa-0000-7000-8000-000000000000"


async def ended(durably: Durably, answer: Answer) -> str:
    """The id of the triggered run, once that is over."""
    run_id = answer.json["runId"]
    async for event in durably.subscribe(run_id):
        if event.is_final:
            break
    return run_id


async def packed(durably: Durably, asker: Asker, **more: Any) -> str:
    return await ended(durably, await asker.trigger("pack", {"name": "Ada"}, **more))


async def broken(durably: Durably, asker: Asker) -> str:
    return await ended(durably, await asker.trigger("break", {"name": "Ada"}))


async def held(asker: Asker) -> str:
    return (await asker.trigger("hold", {"name": "Ada"})).json["runId"]


# -- POST /trigger


async def test_a_trigger_makes_a_run(durably, asker):
    answer = await asker.trigger("pack", {"name": "Ada", "count": 3}, labels={"org": "o1"})
    assert (answer.status, answer.json.keys()) == (200, {"runId", "disposition"})
    assert answer.json["disposition"] == "created"
    run = (await asker.get("/run", runId=answer.json["runId"])).json
    assert (run["jobName"], run["input"], run["labels"]) == (
        "pack",
        {"name": "Ada", "count": 3},
        {"org": "o1"},
    )


async def test_a_known_idempotency_key_gives_the_run_that_has_it(durably, asker):
    first = await asker.trigger("pack", {"name": "Ada"}, idempotencyKey="k")
    again = await asker.trigger("pack", {"name": "Bob"}, idempotencyKey="k")
    assert again.json == {**first.json, "disposition": "idempotent"}
    assert (await asker.trigger("hold", {"name": "Ada"}, idempotencyKey="k")).json != again.json


async def test_who_prefers_it_is_told_the_run(durably, asker):
    body = json.dumps({"jobName": "pack", "input": {"name": "Ada"}, "idempotencyKey": "k"})
    prefer = {"prefer": "respond-async, return=representation"}
    answer = await asker.send(body.encode(), **prefer)
    assert answer.json["run"].keys() == RUN_FIELDS
    assert answer.json["run"]["status"] == "pending"
    await ended(durably, answer)
    again = (await asker.send(body.encode(), **prefer)).json
    assert again["disposition"] == "idempotent"
    assert again["run"] == (await asker.get("/run", runId=again["runId"])).json
    assert again["run"]["completedStepCount"] == 2


async def test_the_error_policy_holds_for_what_a_trigger_tells(durably, jobs):
    asker = Asker(durably.handler(errors="none"))
    trigger = {"jobName": "break", "input": {"name": "Ada"}, "idempotencyKey": "k"}
    body = json.dumps(trigger).encode()
    await ended(durably, await asker.send(body))
    run = (await asker.send(body, prefer="return=representation")).json["run"]
    assert run["error"] == "failed"


async def test_integers_of_any_size_arrive(durably, asker):
    for number in (2**53 + 1, -(2**63), 2**64, 10**4000):
        await ended(durably, await asker.trigger("echo", {"n": number}))
        (run,) = await durably.get_runs(job="echo", limit=1)
        assert run.output == {"n": number}


async def test_integers_that_javascript_cannot_hold_are_told_as_text(durably, asker):
    given = {"n": 2**53 + 1, "m": [-(2**53) - 1, 2**53 - 1], "f": 0.1, "e": 1e22}
    run_id = await ended(durably, await asker.trigger("echo", given))
    run = (await asker.get("/run", runId=run_id)).json
    told = {"n": "9007199254740993", "m": ["-9007199254740993", 2**53 - 1], "f": 0.1, "e": 1e22}
    assert run["output"] == run["input"] == told
    run_id = await ended(durably, await asker.trigger("tick"))
    assert (await asker.get("/run", runId=run_id)).json["output"] == str(2**60)


async def test_a_missing_input_is_an_empty_object(durably, asker):
    run_id = await ended(durably, await asker.send(b'{"jobName": "echo"}'))
    assert (await asker.get("/run", runId=run_id)).json["output"] == {}
    assert (await asker.trigger("pack")).refusal == (400, "invalid_input")


@pytest.mark.parametrize("input", [b"", b',"input":{}', b',"input":null'])
async def test_a_job_without_input_takes_none(durably, asker, input):
    run_id = await ended(durably, await asker.send(b'{"jobName":"tick"' + input + b"}"))
    assert (await asker.get("/run", runId=run_id)).json["input"] is None
    assert (await asker.send(b'{"jobName":"tick","input":3}')).refusal == (400, "invalid_input")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "malformed_json"),
        (b"{", "malformed_json"),
        (b"\xff", "malformed_json"),
        (b'{"jobName":"echo","input":"\xed\xa0\x80"}', "malformed_json"),
        ('{"jobName":"echo"}'.encode("utf-16"), "malformed_json"),
        (b'{"jobName":"echo","input":NaN}', "malformed_json"),
        (b'{"jobName":"echo","input":-Infinity}', "malformed_json"),
        (b'{"jobName":"echo","input":1e999}', "malformed_json"),
        (b'{"jobName":"echo","input":' + b"1" * 5_000 + b"}", "malformed_json"),
        (b'{"jobName":"echo","input":{"a":1,"a":2}}', "malformed_json"),
        (b'{"jobName":"echo","jobName":"pack"}', "malformed_json"),
        (b'{"jobName":"echo","input":' + b"[" * 100_000 + b"}", "malformed_json"),
        (b'{"jobName":"echo","input":' + b"[" * 101 + b"]" * 101 + b"}", "too_complex"),
        (json.dumps({"jobName": "echo", "input": dict.fromkeys(map(str, range(10_001)))}).encode(), "too_complex"),
        (b"[]", "invalid_request"),
        (b'"echo"', "invalid_request"),
        (b"{}", "invalid_request"),
        (b'{"input":{}}', "invalid_request"),
        (b'{"jobName":7}', "invalid_request"),
        (b'{"jobName":"echo","labels":["a"]}', "invalid_request"),
        (b'{"jobName":"echo","idempotencyKey":5}', "invalid_request"),
        (b'{"jobName":"echo","scope":"t2"}', "invalid_request"),
        (b'{"jobName":"pack","input":{"name":7}}', "invalid_input"),
        (b'{"jobName":"echo","labels":{"a":1}}', "invalid_input"),
        (b'{"jobName":"echo","labels":{"a\\"":"1"}}', "invalid_input"),
        (b'{"jobName":"echo","labels":{"":"1"}}', "invalid_input"),
        (b'{"jobName":"echo","idempotencyKey":""}', "invalid_input"),
        (b'{"jobName":"echo","idempotencyKey":"a\\u0000b"}', "invalid_input"),
        (b'{"jobName":"echo","concurrencyKey":"' + b"x" * 256 + b'"}', "invalid_input"),
        (json.dumps({"jobName": "echo", "labels": {str(n): "x" for n in range(65)}}).encode(), "invalid_input"),
    ],
    ids=lambda value: value[:60].decode("latin-1") if isinstance(value, bytes) else value,
)  # fmt: skip
async def test_a_body_that_makes_no_sense_is_refused(durably, asker, body, code):
    assert (await asker.send(body)).refusal == (400, code)
    assert await durably.get_runs() == []


async def test_an_invalid_input_is_told_with_its_path(asker):
    answer = await asker.trigger("pack", {"name": "Ada", "count": "many"})
    assert answer.refusal == (400, "invalid_input")
    assert answer.json["path"] == "$.count"


async def test_lone_surrogates_of_an_input_that_does_not_fit_are_no_failure(asker):
    answer = await asker.trigger("pack", {"name": "\ud800", "count": "many"})
    assert answer.refusal == (400, "invalid_input")


async def test_an_unknown_job(asker):
    assert (await asker.trigger("pac", {})).refusal == (404, "job_not_found")


async def test_what_is_not_said_to_be_json(asker):
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        answer = await asker.ask(
            "POST", "/trigger", (), b'{"jobName":"tick"}', {"content-type": kind}
        )
        assert answer.refusal == (415, "not_json")
    kind = {"content-type": "Application/JSON; charset=utf-8"}
    assert (await asker.ask("POST", "/trigger", (), b'{"jobName":"tick"}', kind)).status == 200


async def test_a_body_that_is_too_large(durably, asker):
    limit = durably.max_input_bytes
    assert (await asker.trigger("echo", "x" * (limit - 2))).status == 200
    assert (await asker.trigger("echo", "x" * (limit - 1))).refusal == (413, "too_large")
    assert (await asker.send(b"x" * (limit + 20_000))).refusal == (413, "too_large")


async def test_a_body_in_pieces_that_is_too_large_is_not_read_to_its_end(durably, asker):
    sent = 0

    async def pieces():
        nonlocal sent
        for _ in range(1_000):
            sent += 65_536
            yield b"x" * 65_536

    assert (await asker.send(pieces())).refusal == (413, "too_large")
    assert sent <= durably.max_input_bytes + 3 * 65_536


@pytest.mark.parametrize("length", ["9999999999", "9" * 5_000])
async def test_a_body_that_is_said_to_be_too_large_is_not_read(asker, length):
    async def pieces():
        raise AssertionError("read")
        yield b""

    answer = await asker.send(pieces(), **{"content-length": length})
    assert answer.refusal == (413, "too_large")


async def test_a_senseless_content_length_does_not_matter(asker):
    for length in ("-1", "1e3", "٣", "", "2, 2"):
        answer = await asker.send(b'{"jobName":"tick"}', **{"content-length": length})
        assert answer.status == 200


# -- GET /runs


async def test_runs_are_told_newest_first(durably, asker):
    ids = [await held(asker) for _ in range(3)]
    answer = await asker.get("/runs")
    assert [run["id"] for run in answer.json] == ids[::-1]
    assert all(run.keys() == RUN_FIELDS for run in answer.json)
    assert "durably-next-cursor" not in answer.headers


async def test_runs_by_job_status_and_labels(durably, asker):
    done = await packed(durably, asker, labels={"org": "o1", "env": "prod"})
    failed = await broken(durably, asker)
    other = await held(asker)

    async def found(*query: tuple[str, str]) -> set[str]:
        return {run["id"] for run in (await asker.get("/runs", *query)).json}

    assert await found(("jobName", "pack")) == {done}
    assert await found(("jobName", "pack"), ("jobName", "break")) == {done, failed}
    assert await found(("status", "completed"), ("status", "failed")) == {done, failed}
    assert await found(("label.org", "o1"), ("label.env", "prod")) == {done}
    assert await found(("label.org", "o1"), ("label.env", "test")) == set()
    assert await found(("status", "completed"), ("jobName", "break")) == set()
    async for event in durably.subscribe(other):
        if event.type == "run:start":
            break
    assert await found(("status", "leased")) == await found(("status", "running")) == {other}


LABELS = ("a.b", "a[0]", "$", "a'b", "a&b=c", "%", "label.x", "a b", "größe")


@pytest.mark.parametrize("name", LABELS)
async def test_labels_of_any_name_are_found(asker, name):
    run_id = (await asker.trigger("tick", labels={name: "ä'\"; --"})).json["runId"]
    await asker.trigger("tick", labels={f"{name}2": "ä'\"; --"})
    found = await asker.get("/runs", (f"label.{name}", "ä'\"; --"))
    assert [run["id"] for run in found.json] == [run_id]
    assert (await asker.get("/runs", (f"label.{name}", "x"))).json == []


async def test_pages_neither_skip_nor_repeat_while_runs_come_and_go(durably, asker):
    ids = [(await asker.trigger("tick")).json["runId"] for _ in range(23)]
    seen: list[str] = []
    cursor: list[tuple[str, str]] = []
    for page in range(5):
        answer = await asker.get("/runs", *cursor, limit=5)
        seen += [run["id"] for run in answer.json]
        for _ in range(3):
            await asker.trigger("tick")
        if page == 2:
            await ended(durably, Answer(200, JSON, json.dumps({"runId": seen[-1]}).encode()))
            await asker.delete("/run", runId=seen[-1])
        cursor = [("cursor", answer.headers.get("durably-next-cursor", ""))]
    assert seen == ids[::-1]
    assert cursor == [("cursor", "")]


async def test_a_page_that_is_just_full_is_the_last(asker):
    for _ in range(2):
        await held(asker)
    assert "durably-next-cursor" not in (await asker.get("/runs", limit=2)).headers
    assert "durably-next-cursor" in (await asker.get("/runs", limit=1)).headers
    assert len((await asker.get("/runs", limit=2, offset=1)).json) == 1
    assert (await asker.get("/runs", offset=2**53 - 1)).json == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("limit", "0"), ("limit", "201"), ("limit", "-1"), ("limit", "1.0"), ("limit", "²"),
        ("limit", ""), ("limit", "9" * 5_000), ("offset", "-1"), ("offset", "x"),
        ("offset", str(2**53)), ("status", "done"), ("status", ""), ("jobName", ""),
        ("jobName", "a\0b"), ("jobName", "x" * 256), ("cursor", "\n"), ("label.", "x"),
        ("label.a", ""), ("label.a\x1f", "x"), ('label."', "x"), ("label", "x"), ("runId", "x"),
        ("Limit", "5"), ("scope", "t2"),
    ],
)  # fmt: skip
async def test_each_bad_value_is_named(asker, name, value):
    answer = await asker.get("/runs", (name, value))
    assert answer.status == 400
    assert answer.json["code"] in ("invalid_request", "invalid_input")
    name = name.removeprefix("label.").strip('"')
    assert repr(name)[1:-1] in answer.json["error"] or name in answer.json["error"]


async def test_what_is_given_twice_is_refused(asker):
    for name in ("limit", "offset", "cursor", "label.a"):
        answer = await asker.get("/runs", (name, "1"), (name, "1"))
        assert answer.refusal == (400, "invalid_request")
    too_many = [(f"label.{n}", "x") for n in range(65)]
    assert (await asker.get("/runs", *too_many)).refusal == (400, "invalid_input")


# -- what is asked of one run

OF_ONE_RUN = [route for route in ROUTES if any(p.required for p in route.parameters)]


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
    from .conftest import Jobs

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
    assert Jobs  # the fixtures' jobs are those of the first version


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
    """A runtime whose clock has stopped working."""

    def now(self) -> int:
        raise OSError("/etc/localtime: secret")


async def test_a_failure_tells_nothing_but_its_number(tmp_path, caplog):
    async with Durably(tmp_path / "x.db", runtime=Broken(), worker=False) as durably:

        @durably.job("tick")
        async def tick(step) -> None: ...

        answer = await Asker(durably.handler()).trigger("tick")
    assert answer.refusal == (500, "internal")
    assert answer.json.keys() == {"error", "code", "requestId"}
    assert b"secret" not in answer.body
    assert answer.json["requestId"] in caplog.text
    assert "secret" in caplog.text
