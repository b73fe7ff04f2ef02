"""Readers that are slow, that stop, that leave: none costs much, none delays another."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import pytest

from tests.http.streams.conftest import Gate, Start
from tests.http.streams.reader import PATIENCE, Reader
from tests.http.streams.server import Server
from tests.http.streams.test_exit import IN_FASTAPI, OUT

SMALL = 4_096  # bytes of a socket's buffer
STEPS, SIZE = 400, 20_000  # 8 MB of frames: more than every buffer on the way takes
FLOOD = ["steps", STEPS, SIZE]


async def stop_reading(server: Server, run_id: str, count: int) -> list[Reader]:
    """Readers that saw the run's start, and no more."""
    readers = [await server.subscribe(run_id, 0, window=SMALL) for _ in range(count)]
    for reader in readers:
        await reader.until(lambda block: block.type == "run:start")
        reader.pause()
    return readers


async def warm_up(server: Server, gate: Gate) -> int:
    """Whatever a flood costs without slow readers; the memory after it."""
    run_id = await server.trigger(gate.wait, FLOOD)
    quick = await server.subscribe(run_id, 0)
    gate.open()
    await quick.rest()
    return (await server.until(lambda held: held["streams"] == 0))["rss"]


def numbers(reader: Reader) -> list[int]:
    return [event["sequence"] for event in reader.events if event["sequence"] is not None]


async def test_slow_readers_are_bounded_delay_nobody_and_miss_nothing(
    serve: Start, own_gate: Gate
) -> None:
    server = await serve(options={"durability": "process"})
    before = await warm_up(server, Gate(server.folder))
    run_id = await server.trigger(own_gate.wait, FLOOD)
    slow = await stop_reading(server, run_id, 10)
    quick = await server.subscribe(run_id, 0)
    own_gate.open()
    await quick.rest()  # with ten beside it that do not read
    assert numbers(quick) == list(range(1, STEPS + 4))
    held = await server.until(lambda held: held["watchers"] == len(slow))
    assert held["streams"] == len(slow)
    grown = (held["rss"] - before) / len(slow)
    print(f"{grown / 2**20:.2f} MiB for each slow reader")
    assert grown <= 1.25 * 2**20  # a mebibyte, and what the allocator keeps
    for reader in slow:
        reader.resume()
    for reader in slow:
        await reader.rest()
        assert numbers(reader) == list(range(1, STEPS + 4))
    await server.until(lambda held: held["streams"] == held["watchers"] == 0)


async def test_a_reader_that_stops_for_long_is_cut_off_and_resumes_by_id(
    serve: Start, own_gate: Gate
) -> None:
    server = await serve(stuck=0.5, options={"durability": "process"})
    run_id = await server.trigger(own_gate.wait, FLOOD)
    (slow,) = await stop_reading(server, run_id, 1)
    own_gate.open()
    await server.over(run_id)
    await server.until(lambda held: held["streams"] == held["watchers"] == 0)
    slow.resume()
    await asyncio.wait_for(slow.end(), PATIENCE)
    assert not slow.complete
    back = await server.subscribe(run_id, slow.last_id)
    await back.rest()
    assert numbers(slow) + numbers(back) == list(range(1, STEPS + 4))
    assert len(numbers(slow)) > 2
    assert len(numbers(back)) > 2


@pytest.mark.parametrize("app", ["", IN_FASTAPI])
async def test_readers_that_do_not_read_do_not_hold_a_server_that_stops(
    serve: Start, own_gate: Gate, app: str
) -> None:
    server = await serve(app, options={"durability": "process"})
    run_id = await server.trigger(own_gate.wait, FLOOD)
    slow = await stop_reading(server, run_id, 10)
    own_gate.open()
    await server.over(run_id)
    took = await server.end(signal.SIGTERM, OUT)
    print(f"out in {took:.2f} s with {len(slow)} readers that do not read")


async def test_lists_that_do_not_read_are_told_to_read_themselves_again(
    serve: Start, own_gate: Gate
) -> None:
    server = await serve(options={"durability": "process"})
    slow = await server.follow(window=SMALL)
    slow.pause()
    for _ in range(4):
        await server.over(await server.trigger(["logs", 5_000]))
    last = await server.trigger(["sleep", 0])
    await server.over(last)
    slow.resume()
    await slow.until(lambda block: block.type == "run:complete" and block.event["runId"] == last)
    assert "runs:resync" in slow.types


async def test_nothing_is_left_of_readers_that_leave(serve: Start, own_gate: Gate) -> None:
    server = await serve()
    run_id = await server.trigger(own_gate.wait)
    await (await server.subscribe(run_id)).until(lambda block: block.type == "run:start")
    (first,) = [await server.follow()]
    first.leave()
    before = await server.until(lambda held: held["watchers"] <= 1)
    for _ in range(3):
        streams: list[Any] = [server.subscribe(run_id) for _ in range(25)]
        streams += [server.follow() for _ in range(25)]
        readers = await asyncio.gather(*streams)
        for reader in readers:
            reader.leave()
    # Before they were answered, too.
    for reader in [await server.connect("/runs/subscribe") for _ in range(50)]:
        reader.leave()
    held = await server.until(
        lambda held: all(held[what] <= before[what] for what in ("streams", "watchers", "fds"))
    )
    assert held["tasks"] == before["tasks"]
