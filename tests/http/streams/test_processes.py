"""A web process that does not work, workers that do not serve, and nothing but the database between them."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import datetime

import pytest

from tests.crash.place import new_database
from tests.http.streams.conftest import Gate, Start
from tests.http.streams.reader import FINAL, PATIENCE, Block, Reader
from tests.http.streams.server import Server
from tests.tier import by_tier

MANY = 50  # subscribers of one run, and as many of the list
RUNS = by_tier(quick=10, ci=40, soak=200)
STEPS = 30
SLOW = ["steps", STEPS, 10, 0.01]
ALL = list(range(1, STEPS + 4))  # triggered, started, its steps, completed


@pytest.fixture(params=["file", "server"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """On one machine, or on many."""
    with new_database("sqlite" if request.param == "file" else "postgresql") as url:
        yield url


def numbers(events: Iterable[Block]) -> list[int]:
    return [block.id for block in events if block.event is not None and block.id is not None]


def percentile(values: list[float], percent: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(percent / 100 * (len(ordered) - 1)))]


async def follow_through(server: Server, run_id: str) -> list[Block]:
    """Every numbered event of a run, as a page that comes back whenever it is cut off."""
    told: list[Block] = []
    last_id: int | None = 0
    deadline = time.monotonic() + 2 * PATIENCE
    while not told or told[-1].type not in FINAL:
        assert time.monotonic() < deadline, [block.text for block in told]
        reader = Reader()
        try:
            reader = await server.subscribe(run_id, last_id)
            await reader.rest()
        except OSError:
            await asyncio.sleep(0.02)
        told += [block for block in reader.blocks if block.id is not None]
        last_id = told[-1].id if told else 0
    return told


async def test_a_subscriber_elsewhere_is_told_every_event_in_order_and_soon(
    serve: Start, work: Start
) -> None:
    web = await serve(worker=False)
    await work()
    runs = [await web.trigger(SLOW) for _ in range(RUNS)]
    readers = [await web.subscribe(run_id, 0) for run_id in runs]
    offset = time.time() - time.monotonic()
    late: list[float] = []
    for reader in readers:
        blocks = await reader.rest()
        assert numbers(blocks) == ALL
        for block in blocks:
            if block.type == "step:complete" and block.event is not None:
                happened = datetime.fromisoformat(block.event["timestamp"]).timestamp()
                late.append(block.at + offset - happened)
    p50, p99 = percentile(late, 50) * 1e3, percentile(late, 99) * 1e3
    print(f"{len(late)} events from another process: p50 {p50:.0f} ms, p99 {p99:.0f} ms")


async def test_who_comes_back_is_told_exactly_what_was_missed(serve: Start, work: Start) -> None:
    web = await serve(worker=False)
    await work()
    gate = Gate(web.folder)
    run_id = await web.trigger(["steps", 5], gate.wait, ["log", "x"], ["step", "last"])
    reader = await web.subscribe(run_id, 0)
    await reader.until(lambda block: block.id == 7)
    reader.leave()
    gate.open()
    await web.over(run_id)
    back = await web.subscribe(run_id, reader.last_id)
    assert numbers(reader.blocks) == list(range(1, 8))
    assert numbers(await back.rest()) == [8, 9]


async def test_a_web_server_that_is_killed_and_started_again_loses_nothing(
    serve: Start, work: Start
) -> None:
    web = await serve(worker=False)
    await work()
    runs = [await web.trigger(SLOW, ["sleep", 1.5], ["step", "last"]) for _ in range(5)]
    watching = [asyncio.create_task(follow_through(web, run_id)) for run_id in runs]
    for _ in range(2):
        await asyncio.sleep(0.3)
        web.kill()
        await web.start()
    for told in await asyncio.gather(*watching):
        assert numbers(told) == [*ALL, STEPS + 4]


async def test_a_worker_that_is_killed_is_followed_by_another(serve: Start, work: Start) -> None:
    web = await serve(worker=False)
    first = await work()
    gate = Gate(web.folder)  # none of them ends before the worker is killed
    script = [["steps", STEPS, 10, 0.03], gate.wait, ["step", "last"]]
    runs = [await web.trigger(*script) for _ in range(5)]
    watching = [asyncio.create_task(follow_through(web, run_id)) for run_id in runs]
    readers = [await web.subscribe(run_id) for run_id in runs]
    for reader in readers:
        await reader.until(lambda block: block.type == "step:complete")
    first.kill()
    gate.open()
    await work()
    for told in await asyncio.gather(*watching):
        assert numbers(told) == list(range(1, STEPS + 6))
        types = [block.type for block in told]
        assert types.count("run:start") == 2
        assert types.count("step:complete") == STEPS + 1


async def test_progress_and_live_events_of_another_process_reach_a_page(
    serve: Start, work: Start
) -> None:
    web = await serve(worker=False)
    await work()
    run_id = await web.trigger(["count", 60, 0.01])
    reader = await web.subscribe(run_id)
    events = await reader.all()
    told = [event["progress"]["current"] for event in events if event["type"] == "run:progress"]
    assert told == sorted(set(told))
    assert told[-1] == 60
    assert [event["type"] for event in events][-2:] == ["run:progress", "run:complete"]


async def test_a_list_elsewhere_shows_what_there_is(serve: Start, work: Start) -> None:
    """The list is read when the stream says so, and then kept up by its events, over a restart."""
    web = await serve(worker=False)
    await work()
    statuses: dict[str, str] = {}
    moves = {
        "run:trigger": "pending", "run:start": "running", "run:complete": "completed",
        "run:fail": "failed", "run:cancel": "cancelled",
    }  # fmt: skip

    async def watch() -> None:
        was_away = False
        while True:
            try:
                reader = await web.follow(was_away=was_away)
                was_away = True
                while (block := await reader.next_event()) is not None:
                    assert block.event is not None
                    if block.type == "runs:resync":
                        runs = await web.ask("GET", "/runs", limit=200)
                        statuses.update({run["id"]: run["status"] for run in runs})
                    elif block.type in moves:
                        statuses[block.event["runId"]] = moves[block.type]
            except OSError:
                await asyncio.sleep(0.02)

    watching = asyncio.create_task(watch())
    await web.until(lambda held: held["watchers"])
    runs: list[str] = []
    for i in range(30):
        runs.append(await web.trigger(["steps", 5, 0, 0.01], *([["fail", "no"]] if i % 3 else [])))
        if i == 15:
            web.kill()
            await web.start()
    ended = {run_id: (await web.over(run_id))["status"] for run_id in runs}
    deadline = time.monotonic() + PATIENCE
    while {run_id: statuses.get(run_id) for run_id in runs} != ended:
        assert time.monotonic() < deadline, (statuses, ended)
        await asyncio.sleep(0.02)
    watching.cancel()


async def test_many_subscribers_ask_the_database_little_more_than_one(
    serve: Start, work: Start
) -> None:
    """One look at the journal serves all of them, and while nothing happens there is hardly any."""
    web = await serve(worker=False)
    await work()
    gate = Gate(web.folder)
    run_id = await web.trigger(gate.wait, ["steps", 40, 10, 0.01], ["sleep", 3], ["step", "last"])
    readers = [await web.subscribe(run_id, 0) for _ in range(MANY)]
    readers += [await web.follow() for _ in range(MANY)]
    for reader in readers[:MANY]:
        await reader.until(lambda block: block.type == "run:start")
    begun = Counter((await web.probe())["calls"])
    gate.open()
    for reader in readers:
        await reader.until(lambda block: block.event["stepName"] == "step-39")
    busy = Counter((await web.probe())["calls"]) - begun
    await asyncio.sleep(1)
    quiet = Counter((await web.probe())["calls"]) - begun - busy
    for reader in readers:
        await reader.until(lambda block: block.type == "run:complete")
    print(f"{2 * MANY} subscribers; 40 steps: {dict(busy)}; a second without news: {dict(quiet)}")
    del busy["changed"], quiet["changed"]  # which asks nobody on a server, and a number on a file
    assert busy.total() < 4 * 40
    assert quiet.total() < MANY
