"""What PROTOCOL says of streams, line by line, spoken by a real server over a raw socket."""

from __future__ import annotations

import re
import time

import pytest

from tests.http.streams.conftest import Gate, Start
from tests.http.streams.reader import FINAL, Block, Reader
from tests.http.streams.server import Server

DAY = 86_400_000  # ms
STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
THREE = [["step", "one"], ["step", "two"], ["step", "three"]]


def journaled(reader: Reader) -> list[tuple[int | None, str]]:
    """The numbered events of a stream."""
    return [(block.id, str(block.type)) for block in reader.blocks if block.event and block.id]


# -- headers and frames


async def test_headers_go_out_at_once_though_nothing_happens(server: Server) -> None:
    run_id = await server.trigger(["gate", "never"])
    reader = await server.subscribe(run_id)
    assert reader.status == 200
    assert reader.headers["content-type"] == "text/event-stream"
    assert set(reader.headers["cache-control"].split(", ")) >= {"no-cache", "no-transform"}
    assert reader.headers["x-accel-buffering"] == "no"
    of_all = await server.follow()
    assert (of_all.status, of_all.headers["content-type"]) == (200, "text/event-stream")


async def test_a_frame_is_an_id_and_one_line_of_json_and_never_names_its_event(
    server: Server, gate: Gate
) -> None:
    run_id = await server.trigger(
        gate.wait, ["step", "one", {"text": "a\r\nb\u2028c\n\ndata: x"}], ["log", "two\nlines"]
    )
    reader = await server.subscribe(run_id)
    gate.open()
    events = await reader.all()
    assert [event["type"] for event in events] == [
        "run:start", "step:start", "step:complete", "log:write", "run:complete",
    ]  # fmt: skip
    for block in reader.blocks:
        assert set(block.fields) <= {"id", "retry", "data"}, block.text
        assert len(block.fields.get("data", [])) <= 1
        assert "\r" not in block.text
    for event in events:
        assert event["runId"] == run_id
        assert (event["jobName"], event["labels"]) == ("script", {})
        assert STAMP.fullmatch(event["timestamp"])
        assert "sequence" in event
    step = events[2]
    assert step["output"] == {"text": "a\r\nb\u2028c\n\ndata: x"}
    assert (step["stepName"], step["stepIndex"]) == ("one", 0)
    assert isinstance(step["duration"], int)
    assert events[3]["message"] == "two\nlines"


async def test_only_journaled_events_have_an_id_and_it_is_their_number(
    server: Server, gate: Gate
) -> None:
    run_id = await server.trigger(
        gate.wait, ["progress", 1, 2], ["step", "one"], ["log", "not kept"]
    )
    reader = await server.subscribe(run_id, 0)
    gate.open()
    blocks = await reader.rest()
    for block in blocks:
        assert block.event is not None
        assert block.id == block.event["sequence"]
        live = block.type in ("run:progress", "step:start", "log:write")
        assert (block.id is None) == live, block.text
    assert journaled(reader) == [
        (1, "run:trigger"), (2, "run:start"), (3, "step:complete"), (4, "run:complete"),
    ]  # fmt: skip


async def test_kept_log_lines_have_an_id(serve: Start) -> None:
    server = await serve(logs=True)
    run_id = await server.trigger(["log", "kept"])
    await server.over(run_id)
    reader = await server.subscribe(run_id, 0)
    await reader.all()
    assert (3, "log:write") in journaled(reader)


async def test_a_comment_keeps_a_silent_stream_awake(serve: Start) -> None:
    server = await serve(limits={"ping": 0.1})
    run_id = await server.trigger(["gate", "never"])
    for reader in (await server.subscribe(run_id), await server.follow()):
        seen: list[Block] = []
        while sum(len(block.comments) for block in seen) < 3:
            block = await reader.next()
            assert block is not None
            seen.append(block)
        pings = [block for block in seen if block.comments]
        assert all(block.fields == {} for block in pings)


async def test_a_stream_says_when_to_come_back_and_after_the_end_in_a_day(
    server: Server, gate: Gate
) -> None:
    run_id = await server.trigger(gate.wait)
    reader = await server.subscribe(run_id)
    first = await reader.next()
    assert first is not None
    assert first.retry is not None
    assert 100 <= first.retry <= 5_000
    gate.open()
    await reader.all()
    assert reader.blocks[-1].retry == DAY
    assert [block.retry for block in reader.blocks if block.retry and block.retry > 5_000] == [DAY]


# -- what a stream begins with


async def test_a_pending_run_has_nothing_to_tell_yet(serve: Start) -> None:
    server = await serve(worker=False)
    run_id = await server.trigger(*THREE)
    reader = await server.subscribe(run_id)
    await server.ask("POST", "/cancel", runId=run_id)
    assert [event["type"] for event in await reader.all()] == ["run:cancel"]


async def test_a_running_run_is_told_as_it_is_now_then_live(server: Server, gate: Gate) -> None:
    run_id = await server.trigger(
        *THREE, ["progress", 3, 4], gate.wait, ["step", "four"], labels={"team": "a"}
    )
    follower = await server.subscribe(run_id, 0)
    await follower.until(lambda block: block.type == "run:progress")
    reader = await server.subscribe(run_id)
    start = await reader.next_event()
    progress = await reader.next_event()
    assert start is not None
    assert start.event is not None
    assert start.type == "run:start"
    assert start.event["input"] == start.event["payload"]
    assert start.event["input"][0] == ["step", "one"]
    assert start.event["labels"] == {"team": "a"}
    assert start.id == 5  # the newest number: nothing older will be told, now or after a return
    assert progress is not None
    assert progress.event is not None
    assert progress.event["progress"]["current"] == 3
    gate.open()
    assert [event["type"] for event in await reader.all()] == [
        "step:start", "step:complete", "run:complete",
    ]  # fmt: skip
    assert [number for number, _ in journaled(reader)] == [5, 6, 7]


@pytest.mark.parametrize(
    ("script", "final"), [([["step", "one"]], "run:complete"), ([["fail", "no"]], "run:fail")]
)
async def test_a_final_run_is_told_by_its_final_event(
    server: Server, script: list[list[str]], final: str
) -> None:
    run_id = await server.trigger(*script)
    await server.over(run_id)
    reader = await server.subscribe(run_id)
    (event,) = await reader.all()
    assert event["type"] == final
    if final == "run:complete":
        assert event["output"] == "done"
    else:
        assert event["error"] == "no"
        assert event["failedStepName"] is None


# -- coming back


async def test_who_comes_back_is_told_exactly_the_journal_after_its_id(server: Server) -> None:
    run_id = await server.trigger(*THREE)
    await server.over(run_id)
    whole = await server.subscribe(run_id, 0)
    told = await whole.all()
    assert [event["sequence"] for event in told] == [1, 2, 3, 4, 5, 6]
    for last_id in range(7):
        reader = await server.subscribe(run_id, last_id)
        assert await reader.all() == told[last_id:]
        assert reader.complete
        by_query = await server.request(
            "GET", "/subscribe", {"runId": run_id, "after": str(last_id)}
        )
        assert await by_query.all() == told[last_id:]


async def test_the_header_counts_for_more_than_the_query(server: Server) -> None:
    """A browser repeats the address of its first request and adds the header."""
    run_id = await server.trigger(*THREE)
    await server.over(run_id)
    query = {"runId": run_id, "after": "1"}
    reader = await server.request("GET", "/subscribe", query, {"last-event-id": "5"})
    assert [event["sequence"] for event in await reader.all()] == [6]


async def test_cut_anywhere_and_back_by_id_nothing_is_missed_or_told_twice(
    server: Server, gate: Gate
) -> None:
    run_id = await server.trigger(gate.wait, ["steps", 150, 0, 0.002])
    told: list[int] = []
    gate.open()
    last_id, cuts = 0, 0
    while True:
        reader = await server.subscribe(run_id, last_id)
        block = await reader.next_event()
        for _ in range(cuts % 7):
            if block is None or block.type in FINAL:
                break
            if block.id is not None:
                told.append(block.id)
                last_id = block.id
            block = await reader.next_event()
        reader.leave()
        cuts += 1
        if block is not None and block.type in FINAL:
            break
    assert told == list(range(1, 153))
    assert cuts > 10


async def test_who_was_told_the_present_and_comes_back_is_told_nothing_older(
    server: Server, gate: Gate
) -> None:
    run_id = await server.trigger(*THREE, gate.wait, ["step", "four"])
    await (await server.subscribe(run_id, 0)).until(lambda block: block.id == 5)
    reader = await server.subscribe(run_id)
    first = await reader.next_event()
    assert first is not None
    reader.leave()
    back = await server.subscribe(run_id, first.id)
    gate.open()
    assert [event["sequence"] for event in await back.all() if event["sequence"]] == [6, 7]


async def test_who_comes_back_to_a_run_that_is_over_and_told_gets_a_clean_end(
    server: Server,
) -> None:
    run_id = await server.trigger(*THREE)
    await server.over(run_id)
    reader = await server.subscribe(run_id, 6)
    assert reader.status == 200
    assert await reader.all() == []
    assert reader.blocks[-1].retry == DAY


@pytest.mark.parametrize("last_id", [0, 2])
async def test_who_comes_back_after_the_end_is_told_the_last_progress_before_it(
    server: Server, last_id: int
) -> None:
    run_id = await server.trigger(["step", "one"], ["progress", 7, 8], ["step", "two"])
    await server.over(run_id)
    events = await (await server.subscribe(run_id, last_id)).all()
    types = [event["type"] for event in events]
    assert types[-3:] == ["step:complete", "run:progress", "run:complete"]
    assert types.count("run:progress") == 1
    assert events[-2]["progress"]["current"] == 7
    assert await (await server.subscribe(run_id, 5)).all() == []


async def test_an_id_from_the_future_ends_with_the_run(server: Server, gate: Gate) -> None:
    """Of a file that was put back from a copy, say."""
    run_id = await server.trigger(gate.wait)
    reader = await server.subscribe(run_id, 1_000)
    gate.open()
    await reader.rest()
    assert reader.complete


# -- the end


@pytest.mark.parametrize("how", ["complete", "fail", "cancel"])
async def test_a_stream_ends_after_the_final_event(server: Server, gate: Gate, how: str) -> None:
    run_id = await server.trigger(gate.wait, *([["fail", "no"]] if how == "fail" else []))
    reader = await server.subscribe(run_id)
    await reader.next_event()
    if how == "cancel":
        await server.ask("POST", "/cancel", runId=run_id)
    else:
        gate.open()
    events = await reader.all()
    assert [event["type"] for event in events] == [f"run:{how}"]
    assert reader.complete
    *_, final, last = reader.blocks
    assert (final.type, last.fields) == (f"run:{how}", {"retry": [str(DAY)]})


async def test_who_was_away_while_its_run_was_deleted_is_told_so(server: Server) -> None:
    run_id = await server.trigger(*THREE)
    await server.over(run_id)
    await server.ask("DELETE", "/run", runId=run_id)
    reader = await server.subscribe(run_id, 3)
    assert (reader.status, (await reader.json())["code"]) == (404, "run_not_found")


async def test_a_run_that_is_retried_is_followed_on_and_come_back_to_soon(
    server: Server, gate: Gate
) -> None:
    """Its first end is in the journal, and is not its end: nobody shall stay away for a day."""
    run_id = await server.trigger(["step", "one"], gate.wait, ["fail", "no"])
    gate.open()
    await server.over(run_id, "failed")
    await server.ask("POST", "/retry", runId=run_id)
    await server.over(run_id, "failed")
    reader = await server.subscribe(run_id, 2)
    types = [event["type"] for event in await reader.all()]
    assert types == ["step:complete", "run:fail", "run:retry", "run:start", "run:fail"]
    assert [block.retry == DAY for block in reader.blocks if block.retry] == [False, True]
    assert reader.blocks[-1].retry == DAY


# -- what is refused


async def test_what_is_not_there_is_refused_as_json(server: Server) -> None:
    missing = await server.request("GET", "/subscribe", {"runId": "nobody"})
    assert (missing.status, missing.headers["content-type"]) == (404, "application/json")
    assert (await missing.json())["code"] == "run_not_found"


@pytest.mark.parametrize(
    ("path", "query", "headers"),
    [
        ("/subscribe", {}, {}),
        ("/subscribe", {"runId": ""}, {}),
        ("/subscribe", {"runId": "x", "after": "-1"}, {}),
        ("/subscribe", {"runId": "x", "after": "1.5"}, {}),
        ("/subscribe", {"runId": "x", "wrong": "1"}, {}),
        ("/runs/subscribe", {"status": "failed"}, {}),
        ("/runs/subscribe", {"label.": "x"}, {}),
        ("/runs/subscribe", {"jobName": ""}, {}),
    ],
)
async def test_what_makes_no_sense_is_refused_as_json(
    server: Server, path: str, query: dict[str, str], headers: dict[str, str]
) -> None:
    reader = await server.request("GET", path, query, headers)
    assert (reader.status, reader.headers["content-type"]) == (400, "application/json")
    answer = await reader.json()
    assert (answer["code"], bool(answer["error"])) == ("invalid_request", True)


async def test_an_id_that_no_event_had_is_refused(server: Server) -> None:
    run_id = await server.trigger(*THREE)
    for wrong in ("x", "-1", "1.5", "\u0661", "9" * 30):
        headers = {"last-event-id": wrong}
        reader = await server.request("GET", "/subscribe", {"runId": run_id}, headers)
        assert (reader.status, (await reader.json())["code"]) == (400, "invalid_request"), wrong


async def test_a_question_for_the_head_of_a_stream_holds_nothing(server: Server) -> None:
    run_id = await server.trigger(["gate", "never"])
    for path, query in (("/subscribe", {"runId": run_id}), ("/runs/subscribe", {})):
        reader = await server.request("HEAD", path, query)
        assert (reader.status, reader.headers["content-type"]) == (200, "text/event-stream")
    await server.until(lambda held: held["streams"] == held["watchers"] == 0)


async def test_there_are_so_many_streams_and_no_more(serve: Start) -> None:
    server = await serve(limits={"streams": 5})
    run_id = await server.trigger(["gate", "never"])
    asked = [await server.connect("/subscribe", {"runId": run_id}) for _ in range(20)]
    statuses = sorted([(await reader.answered()).status for reader in asked])
    assert statuses == [200] * 5 + [503] * 15
    refused = next(reader for reader in asked if reader.status == 503)
    assert refused.headers["retry-after"]
    assert (await refused.json())["code"] == "too_many_streams"
    next(reader for reader in asked if reader.status == 200).leave()
    await server.until(lambda held: held["streams"] == 4)
    assert (await server.subscribe(run_id)).status == 200


# -- progress


async def test_progress_the_first_at_once_then_at_intervals_the_last_before_the_end(
    serve: Start, own_gate: Gate
) -> None:
    server = await serve(limits={"throttle": 0.5})
    run_id = await server.trigger(own_gate.wait, ["count", 150, 0.01])
    reader = await server.subscribe(run_id)
    await reader.next_event()
    own_gate.open()
    blocks = [block for block in await reader.rest() if block.type == "run:progress"]
    told = [block.event["progress"]["current"] for block in blocks if block.event]
    assert told[0] == 1
    assert told[-1] == 150
    assert told == sorted(set(told))
    took = blocks[-1].at - blocks[0].at
    assert (
        len(told) <= took / 0.5 + 4
    )  # two a second, the first, the last; and the ends are not sharp
    assert reader.types[-2:] == ["run:progress", "run:complete"]


async def test_progress_of_a_run_is_not_held_back_for_that_of_another(
    serve: Start, own_gate: Gate
) -> None:
    server = await serve(limits={"throttle": 3600})
    other_gate, end = Gate(server.folder), Gate(server.folder)
    first = await server.trigger(own_gate.wait, ["count", 100, 0.01], end.wait)
    second = await server.trigger(other_gate.wait, ["progress", 7], end.wait)
    reader = await server.follow()
    own_gate.open()
    await reader.until(lambda block: block.type == "run:progress")
    other_gate.open()
    block = await reader.until(lambda block: block.type == "run:progress")
    assert block.event is not None
    assert (block.event["runId"], block.event["progress"]["current"]) == (second, 7)
    end.open()
    ends: dict[str, list[int]] = {first: [], second: []}
    ended: set[str] = set()
    while len(ended) < 2:
        found = await reader.next_event()
        assert found is not None
        assert found.event is not None
        if found.type == "run:progress":
            ends[found.event["runId"]].append(found.event["progress"]["current"])
        elif found.type == "run:complete":
            ended.add(found.event["runId"])
    assert ends[first][-1] == 100
    assert len(ends[first]) == 1


async def test_a_stream_that_ends_at_once_told_the_last_progress_too(
    serve: Start, own_gate: Gate
) -> None:
    server = await serve(limits={"throttle": 3600})
    run_id = await server.trigger(own_gate.wait, ["count", 10, 0])
    reader = await server.subscribe(run_id)
    await reader.next_event()
    own_gate.open()
    events = await reader.all()
    assert [event["type"] for event in events][-2:] == ["run:progress", "run:complete"]
    assert events[-2]["progress"]["current"] == 10


# -- all runs


async def test_lists_are_told_reduced_events_without_inputs_outputs_and_errors(
    server: Server, gate: Gate
) -> None:
    reader = await server.follow()
    run_id = await server.trigger(
        gate.wait, ["progress", 1, 2], ["step", "one", "SECRET"], ["log", "hello"],
        ["fail", "SECRET"], labels={"team": "a"},
    )  # fmt: skip
    gate.open()
    await reader.until(lambda block: block.type == "run:fail")
    await server.ask("POST", "/retry", runId=run_id)
    await reader.until(lambda block: block.type == "run:fail")
    await server.ask("DELETE", "/run", runId=run_id)
    await reader.until(lambda block: block.type == "run:delete")
    assert reader.types == [
        "run:trigger", "run:start", "run:progress", "step:start", "step:complete", "log:write",
        "run:fail", "run:retry", "run:start", "run:progress", "log:write", "run:fail", "run:delete",
    ]  # fmt: skip
    assert not any("SECRET" in block.text for block in reader.blocks)
    common = {"type", "runId", "jobName", "labels", "timestamp", "sequence"}
    more = {
        "run:progress": {"progress"},
        "log:write": {"stepName", "level", "message", "data"},
    }
    for event in reader.events:
        step = {"stepName", "stepIndex"} if event["type"].startswith("step:") else set()
        wanted = common | more.get(event["type"], step)
        assert wanted <= event.keys() <= wanted | {"attempt"}, event
        assert (event["runId"], event["labels"]) == (run_id, {"team": "a"})


async def test_lists_are_filtered_by_job_and_by_label(server: Server) -> None:
    async def heard(*query: tuple[str, str]) -> Reader:
        return await server.follow(query)

    readers = {
        "script": await heard(("jobName", "script")),
        "both": await heard(("jobName", "script"), ("jobName", "other")),
        "team": await heard(("label.team", "a")),
        "two": await heard(("label.team", "a"), ("label.size", "xl"), ("jobName", "other")),
    }
    runs = {
        "s": await server.trigger(["sleep", 0]),
        "sa": await server.trigger(["sleep", 0], labels={"team": "a"}),
        "o": await server.trigger(["sleep", 0], job="other"),
        "oa": await server.trigger(["sleep", 0], job="other", labels={"team": "a"}),
        "oax": await server.trigger(
            ["sleep", 0], job="other", labels={"team": "a", "size": "xl", "more": "x"}
        ),
    }
    wanted = {
        "script": {"s", "sa"},
        "both": {"s", "sa", "o", "oa", "oax"},
        "team": {"sa", "oa", "oax"},
        "two": {"oax"},
    }
    for name, reader in readers.items():
        ended: set[str] = set()
        while len(ended) < len(wanted[name]):
            block = await reader.until(lambda block: block.type == "run:complete")
            assert block.event is not None
            ended.add(block.event["runId"])
        assert {event["runId"] for event in reader.events} == {runs[key] for key in wanted[name]}


async def test_a_list_that_was_away_is_told_first_to_read_itself_again(server: Server) -> None:
    reader = await server.follow()
    run_id = await server.trigger(["sleep", 0])
    await reader.until(lambda block: block.type == "run:complete")
    assert "runs:resync" not in reader.types
    last_id = reader.last_id
    assert last_id is not None  # else a browser would not say that it was away
    reader.leave()
    back = await server.follow(was_away=True)
    other = await server.trigger(["sleep", 0])
    await back.until(lambda block: block.type == "run:complete")
    assert back.events[0] == {"type": "runs:resync"}
    assert {event["runId"] for event in back.events[1:]} == {other} != {run_id}


async def test_a_list_does_not_end_by_itself(serve: Start) -> None:
    server = await serve(limits={"ping": 0.05})
    reader = await server.follow()
    run_id = await server.trigger(["sleep", 0])
    await reader.until(lambda block: block.type == "run:complete")
    until = time.monotonic() + 0.3
    while time.monotonic() < until:
        assert await reader.next() is not None
    assert run_id
    assert not reader.complete
