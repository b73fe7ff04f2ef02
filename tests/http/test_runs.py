"""GET /runs: filters and pages, and each refusal."""

from __future__ import annotations

import json

import pytest

from .asking import JSON, RUN_FIELDS, Answer, broken, ended, held, packed


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
        ("jobName", "a\0b"), ("jobName", "x" * 256), ("cursor", "\n"), ("cursor", "zzz"), ("cursor", ""),
        ("cursor", "0199AAAA-0000-7000-8000-000000000000"), ("label.", "x"),
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
