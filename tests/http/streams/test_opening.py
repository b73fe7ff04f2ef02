"""What a stream of a run opens with: what was kept of it, however late its reader comes."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from tests.http.streams.conftest import Gate, Start
from tests.http.streams.reader import FINAL, Block, Reader
from tests.http.streams.server import Server

LINES = [["log", "one"], ["step", "a"], ["log", "two"], ["log", "three"]]


def numbered(reader: Reader) -> list[tuple[int | None, str]]:
    return [(block.id, str(block.type)) for block in reader.blocks if block.event]


def messages(events: list[dict[str, Any]]) -> list[str]:
    return [event["message"] for event in events if event["type"] == "log:write"]


async def test_a_live_run_opens_with_its_kept_log_lines_then_its_state(
    serve: Start, own_gate: Gate
) -> None:
    server = await serve(logs=True)
    run_id = await server.trigger(*LINES, ["progress", 3, 4], own_gate.wait, ["log", "four"])
    first = await server.subscribe(run_id, 0)
    await first.until(lambda block: block.type == "run:progress")
    reader = await server.subscribe(run_id)
    await reader.until(lambda block: block.id == 6)
    assert [found for found in numbered(reader) if found[0] is not None] == [
        (3, "log:write"), (4, "run:start"), (5, "log:write"), (6, "log:write"),
    ]  # fmt: skip
    if "run:progress" not in reader.types:
        await reader.until(lambda block: block.type == "run:progress")
    own_gate.open()
    assert messages(await reader.all()) == ["four"]
    assert messages(reader.events) == ["one", "two", "three", "four"]


async def test_no_two_frames_have_one_number(serve: Start, own_gate: Gate) -> None:
    server = await serve(logs=True)
    run_id = await server.trigger(*LINES, ["logs", 50], own_gate.wait)
    await (await server.subscribe(run_id, 0)).until(lambda block: block.id == 56)
    reader = await server.subscribe(run_id)
    await reader.until(lambda block: block.id == 56)
    own_gate.open()
    await reader.rest()
    told = [number for number, _ in numbered(reader) if number is not None]
    assert told == sorted(set(told))
    assert len(messages(reader.events)) == 53


async def test_a_run_that_is_over_opens_with_its_kept_log_lines(serve: Start) -> None:
    server = await serve(logs=True)
    run_id = await server.trigger(*LINES)
    await server.over(run_id)
    reader = await server.subscribe(run_id)
    assert messages(await reader.all()) == ["one", "two", "three"]
    assert numbered(reader)[-1] == (7, "run:complete")
    assert reader.types.count("run:complete") == 1


async def test_a_run_that_waits_to_be_resumed_opens_with_its_kept_log_lines(serve: Start) -> None:
    server = await serve(logs=True)
    run_id = await server.trigger(*LINES, ["fail", "no"])
    await server.over(run_id)
    await server.end(signal.SIGTERM)
    idle = await serve(worker=False)
    await idle.ask("POST", "/retry", runId=run_id)
    reader = await idle.subscribe(run_id)
    while reader.last_id != 8:  # the newest: nothing older is told to who comes back with it
        assert await reader.next() is not None
    assert messages(reader.events) == ["one", "two", "three"]
    assert set(reader.types) == {"log:write"}


async def test_more_log_lines_than_fit_into_memory_open_a_stream_in_parts(
    serve: Start, own_gate: Gate
) -> None:
    server = await serve(logs=True)
    lines = [["log", f"{n}-" + "x" * 100_000] for n in range(8)]
    run_id = await server.trigger(*lines, ["step", "a"], own_gate.wait)
    first = await server.subscribe(run_id, 0)
    await first.until(lambda block: block.id == 11)
    reader = await server.subscribe(run_id)
    await reader.until(lambda block: block.type == "run:start")
    assert [message[:2] for message in messages(reader.events)] == [f"{n}-" for n in range(8)]
    own_gate.open()
    await reader.rest()
    assert len(messages(reader.events)) == 8


async def test_only_the_newest_lines_of_a_long_journal_open_a_stream(
    serve: Start, own_gate: Gate
) -> None:
    server = await serve(logs=True, options={"durability": "process"})
    script = [line for n in range(8) for line in (["logs", 200], ["step", f"step-{n}"])]
    run_id = await server.trigger(*script, own_gate.wait)
    first = await server.subscribe(run_id, 0)
    newest = (
        await first.until(lambda block: block.type == "step:complete" and '"step-7"' in block.text)
    ).id
    assert newest is not None
    assert newest > 1_600
    reader = await server.subscribe(run_id)
    await reader.until(lambda block: block.type == "run:start")
    lines = [event["sequence"] for event in first.events if event["type"] == "log:write"]
    told = [event["sequence"] for event in reader.events if event["type"] == "log:write"]
    assert told == [line for line in lines if line > newest - 1_000]


async def test_a_page_that_came_while_the_run_was_pending_misses_nothing_over_a_restart(
    serve: Start, work: Start
) -> None:
    server = await serve(worker=False, logs=True)
    run_id = await server.trigger(*LINES)
    reader = await server.subscribe(run_id)
    first = await reader.next()
    assert first is not None
    assert (first.id, first.event) == (1, None)
    await server.end(signal.SIGTERM)
    worker = await work(logs=True)
    again = await serve(worker=False)
    await again.over(run_id)
    worker.kill()
    back = await again.subscribe(run_id, reader.last_id)
    assert [event["sequence"] for event in await back.all()] == [2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("cut", range(1, 5))
async def test_cut_off_in_the_opening_nothing_is_missed(
    serve: Start, own_gate: Gate, cut: int
) -> None:
    server = await serve(logs=True)
    run_id = await server.trigger(*LINES, own_gate.wait, ["log", "four"])
    await (await server.subscribe(run_id, 0)).until(lambda block: block.id == 6)
    reader = await server.subscribe(run_id)
    read: list[Block] = []
    for _ in range(cut):
        block = await reader.next_event()
        assert block is not None
        read.append(block)
    reader.leave()
    back = await server.subscribe(run_id, read[-1].id)
    own_gate.open()
    events = [block.event for block in read if block.event] + await back.all()
    assert messages(events) == ["one", "two", "three", "four"]


@pytest.mark.parametrize("last_id", [7, 500])
async def test_a_number_that_the_journal_does_not_have_opens_with_the_present_and_ends_with_the_end(
    server: Server, gate: Gate, last_id: int
) -> None:
    run_id = await server.trigger(["step", "one"], ["progress", 1, 2], gate.wait, ["step", "two"])
    await (await server.subscribe(run_id, 0)).until(lambda block: block.type == "run:progress")
    readers = [
        await server.subscribe(run_id, last_id),
        await server.request("GET", "/subscribe", {"runId": run_id, "after": str(last_id)}),
    ]
    for reader in readers:
        start = await reader.until(lambda block: block.type == "run:start")
        assert start.id == 3
        await reader.until(lambda block: block.type == "run:progress")
    gate.open()
    for reader in readers:
        events = await reader.all()
        assert [event["sequence"] for event in events if event["sequence"]] == [4, 5]
        assert events[-1]["type"] in FINAL
    late = await server.subscribe(run_id, last_id)
    assert [event["type"] for event in await late.all()] == ["run:complete"]
