"""POST /trigger: what it makes, and each refusal."""

from __future__ import annotations

import json
from datetime import datetime

import pytest
from pydantic import BaseModel, ConfigDict

from durably import Durably, Step
from durably.http import Auth

from .asking import RUN_FIELDS, Asker, ended


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
    answer = await asker.send(b'{"jobName": "pack"}')
    assert answer.refusal == (400, "invalid_input")
    assert answer.json["error"].startswith("job 'pack' needs an input for its parameter ")
    assert answer.json["error"].endswith('; send one as "input"')


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
    limit = durably._engine.options.max_input_bytes
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
    assert sent <= durably._engine.options.max_input_bytes + 3 * 65_536


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


@pytest.mark.parametrize("compat", [None, "0.15"])
async def test_what_waits_already_is_answered(durably, jobs, compat):
    await durably.stop()
    idle = Durably(durably.database, worker=False, durability="process")
    idle.register(durably.get_job("tick").definition)
    async with idle:
        asker = Asker(idle.handler(compat=compat))
        skip = {"coalesce": "skip", "concurrencyKey": "k"}
        first = (await asker.trigger("tick", **skip)).json
        again = (await asker.trigger("tick", **skip)).json
        assert (first["disposition"], again["disposition"]) == ("created", "coalesced")
        assert again["runId"] == first["runId"]
        plain = await asker.trigger("tick", concurrencyKey="k", coalesce=None)
        assert plain.json["disposition"] == "created"


@pytest.mark.parametrize("compat", [None, "0.15"])
@pytest.mark.parametrize("options", [{"coalesce": "skip"}, {"coalesce": "x"}, {"coalesce": 1}])
async def test_coalescing_that_cannot_be_is_refused(durably, jobs, compat, options):
    asker = Asker(durably.handler(compat=compat))
    keys = {} if options["coalesce"] == "skip" else {"concurrencyKey": "k"}
    answer = await asker.trigger("tick", **options, **keys)
    assert answer.status == 400
    assert "coalesce" in answer.json["error"]
    assert (await asker.get("/runs")).json == []


async def test_a_missing_input_is_the_default_of_the_job(durably, asker):
    @durably.job("by-default")
    async def by_default(step: Step, n: int | None = 5) -> int | None:
        return n

    @durably.job("of-a-field")
    async def of_a_field(step: Step, options: dict[str, int] = {"a": 1}) -> dict[str, int]:  # noqa: B006
        return options

    @durably.job("optional")
    async def optional(step: Step, n: int | None) -> int | None:
        return n

    for job, body, output in (
        ("by-default", {}, 5),
        ("by-default", {"input": None}, None),
        ("by-default", {"input": 6}, 6),
        ("of-a-field", {}, {"a": 1}),
        ("of-a-field", {"input": {}}, {}),
        ("optional", {}, None),
        ("echo", {}, {}),
    ):
        answer = await asker.send(json.dumps({"jobName": job, **body}).encode())
        assert (await durably.get_run(await ended(durably, answer))).output == output
    jobs = {told["name"]: told["inputSchema"] for told in (await asker.get("/jobs")).json}
    assert jobs["by-default"]["default"] == 5
    document = (await asker.get("/openapi.json")).json["components"]["schemas"]
    assert document["Trigger.by-default"]["required"] == ["jobName"]


async def test_a_hook_may_give_an_input_where_none_was_given(durably):
    @durably.job("by-default")
    async def by_default(step: Step, n: int = 5) -> int:
        return n

    class Hooks(Auth):
        def authenticate(self, request):
            return "ada"

        def on_trigger(self, principal, trigger):
            assert (trigger.input, trigger.has_input) == ({}, False)
            return trigger._replace(input=7)

    asker = Asker(durably.handler(auth=Hooks()))
    run_id = await ended(durably, await asker.send(b'{"jobName":"by-default"}'))
    assert (await durably.get_run(run_id)).output == 7


class Order(BaseModel):
    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")
    count: int
    at: datetime | None = None
    key: bytes = b""


async def test_an_input_over_http_is_strict_and_json_is_read_as_usual(durably, asker):
    @durably.job
    async def take(step: Step, order: Order) -> Order:
        return order

    @durably.job("lax", lax=True)
    async def lax(step: Step, order: Order) -> int:
        return order.count

    for given, path in (
        ({"count": "5"}, "$.count"), ({"count": 5.0}, "$.count"), ({"count": True}, "$.count"),
        ({"count": 5, "cuont": 6}, "$.cuont"), ({"count": 5, "at": 1767225600}, "$.at"),
    ):  # fmt: skip
        answer = await asker.trigger("take", given)
        assert (answer.refusal, answer.json["path"]) == ((400, "invalid_input"), path)
    given = {"count": str(2**60), "at": "2026-01-01T00:00:00Z", "key": "YQ=="}
    run_id = await ended(durably, await asker.trigger("take", given))
    assert (await durably.get_run(run_id)).output == {**given, "count": 2**60}
    run_id = await ended(durably, await asker.trigger("lax", {"count": "5", "x": 1}))
    assert (await durably.get_run(run_id)).output == 5
    schemas = {job["name"]: job["inputSchema"] for job in (await asker.get("/jobs")).json}
    assert schemas["take"]["additionalProperties"] is False
    assert "additionalProperties" not in schemas["lax"]


async def test_a_status_that_there_is_not_is_refused_with_those_that_there_are(asker):
    answer = await asker.get("/runs", status="fail")
    assert answer.refusal == (400, "invalid_request")
    assert "failed" in answer.json["error"]
