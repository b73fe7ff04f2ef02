"""What is large is told in parts, encoded beside the event loop, and not kept for those who do not read."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import ExitStack
from typing import Any

import httpx2
import pytest

from durably import Durably, Step
from durably.http import asgi, operations, streams
from durably.http.operations import PAGE_BYTES

from .asking import Asker, ended
from .serving import serve

MEGABYTE = "x" * 1_000_000
LINE = "x" * 60_000
HUGE = "x" * 12_000_000  # more than the buffers of a connection take
MOST = PAGE_BYTES + 100_000  # and what stands beside the values


@pytest.fixture
def jobs(durably: Durably) -> None:
    """Jobs with large values."""

    @durably.job("large")
    async def large(step: Step, input: list[str]) -> list[str]:
        return input

    @durably.job("huge")
    async def huge(step: Step) -> str:
        return HUGE

    @durably.job("steps")
    async def steps(step: Step, input: int) -> None:
        for n in range(input):
            await step.run(f"step-{n}", lambda: MEGABYTE)

    @durably.job("lines")
    async def lines(step: Step, input: int) -> None:
        for n in range(input):
            step.log.info("line", [n, LINE])
            await step.run(f"step-{n}", lambda: None)


async def pages(asker: Asker, path: str, name: str, **query: Any) -> list[list[Any]]:
    """All pages of a list."""
    found: list[list[Any]] = []
    after: dict[str, str] = {}
    while True:
        answer = await asker.get(path, **{**query, **after})
        assert answer.status == 200
        assert len(answer.body) <= MOST
        found.append(answer.json)
        if "durably-next-cursor" not in answer.headers:
            return found
        after = {name: answer.headers["durably-next-cursor"]}


async def test_a_page_of_runs_is_bounded_by_bytes_and_the_next_one_goes_on(durably, asker):
    ids = [await ended(durably, await asker.trigger("large", [MEGABYTE])) for _ in range(6)]
    ids += [await ended(durably, await asker.trigger("large", ["small"])) for _ in range(6)]
    found = await pages(asker, "/runs", "cursor", limit=200)
    assert [run["id"] for page in found for run in page] == ids[::-1]
    assert [len(page) for page in found] == [7, 1, 1, 1, 1, 1]
    assert all(run["input"] == run["output"] for page in found for run in page)
    assert (await asker.get("/runs", limit=12)).headers["durably-page"] == "partial"
    assert "durably-page" not in (await asker.get("/runs", limit=6)).headers
    found = await pages(asker, "/runs", "cursor", limit=4)
    assert [run["id"] for page in found for run in page] == ids[::-1]


async def test_a_bounded_page_counts_its_offset_and_keeps_its_filter(durably, asker):
    for size in (MEGABYTE, "small") * 4:
        await ended(durably, await asker.trigger("large", [size], labels={"size": size[:5]}))
    large = await pages(asker, "/runs", "cursor", **{"label.size": "xxxxx"})
    assert [len(run["input"][0]) for page in large for run in page] == [len(MEGABYTE)] * 4
    whole = [run["id"] for page in await pages(asker, "/runs", "cursor") for run in page]
    answer = await asker.get("/runs", offset=3)
    assert [run["id"] for run in answer.json] == whole[3 : 3 + len(answer.json)]


async def test_a_large_input_is_not_written_twice(durably, asker):
    run_id = await ended(durably, await asker.trigger("large", [MEGABYTE]))
    answer = await asker.get("/run", runId=run_id)
    assert answer.json["input"] == answer.json["output"] == [MEGABYTE]
    assert "payload" not in answer.json
    assert len(answer.body) < 2.1 * len(MEGABYTE)
    small = await ended(durably, await asker.trigger("large", ["small"]))
    assert (await asker.get("/run", runId=small)).json["payload"] == ["small"]


async def test_steps_and_log_lines_are_bounded_by_bytes_too(durably, asker):
    run_id = await ended(durably, await asker.trigger("steps", 6))
    found = await pages(asker, "/steps", "after", runId=run_id)
    assert [step["index"] for page in found for step in page] == list(range(6))
    assert len(found) == 2
    run_id = await ended(durably, await asker.trigger("lines", 80))
    found = await pages(asker, "/logs", "after", runId=run_id)
    assert [line["data"][0] for page in found for line in page] == list(range(80))
    assert len(found) == 2
    first = await asker.get("/logs", runId=run_id, limit=2)
    assert len(first.json) == 2
    second = await asker.get(
        "/logs", runId=run_id, after=first.headers["durably-next-cursor"], limit=2
    )
    assert [line["data"][0] for line in second.json] == [2, 3]


@pytest.mark.parametrize("path", ["/runs", "/run", "/steps", "/logs"])
async def test_what_is_large_is_encoded_in_a_thread_and_what_is_small_is_not(
    durably, asker, path, monkeypatch
):
    used: list[threading.Thread] = []
    real = operations.respond

    def respond(*args: Any, **options: Any) -> Any:
        used.append(threading.current_thread())
        return real(*args, **options)

    monkeypatch.setattr(operations, "respond", respond)
    large = {"/steps": "steps", "/logs": "lines"}.get(path, "large")
    for job, input in ((large, [MEGABYTE] if large == "large" else 2), ("large", ["small"])):
        run_id = await ended(durably, await asker.trigger(job, input))
        used.clear()
        query = {} if path == "/runs" else {"runId": run_id}
        assert (await asker.get(path, **{"limit": 1} if path == "/runs" else query)).status == 200
        assert [thread is threading.main_thread() for thread in used] == [
            job == "large" and input == ["small"]
        ]


# -- clients that do not read


class Served:
    """A server, and a run whose answer is more than a connection holds by itself."""

    def __init__(self, app: asgi.AsgiApp, address: str, run_id: str) -> None:
        self.app, self.address, self.path = app, address, f"/run?runId={run_id}"

    def ask_and_not_read(self) -> socket.socket:
        host, port = self.address.removeprefix("http://").split(":")
        link = socket.socket()
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        link.connect((host, int(port)))
        link.sendall(f"GET {self.path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        return link

    async def read(self) -> None:
        async with httpx2.AsyncClient(base_url=self.address, timeout=60) as client:
            answer = await client.get(self.path)
        assert int(answer.headers["content-length"]) == len(answer.content)
        assert json.loads(answer.content)["output"] == HUGE


@pytest.fixture
async def served(durably: Durably, asker: Asker) -> AsyncIterator[Served]:
    run_id = await ended(durably, await asker.trigger("huge"))
    app = durably.asgi()
    async with serve(app, lifespan="off") as address:
        yield Served(app, address, run_id)


async def until(done: Any) -> None:
    async with asyncio.timeout(60):
        while not done():
            await asyncio.sleep(0.01)


async def test_an_answer_that_nobody_reads_is_dropped(served, monkeypatch):
    with ExitStack() as links:
        for _ in range(3):
            links.enter_context(served.ask_and_not_read())
        await until(lambda: len(served.app._sending) == 3)
        monkeypatch.setattr(asgi, "_STUCK", 0.1)
        await until(lambda: not served.app._sending)
    await served.read()


async def test_answers_that_nobody_reads_are_bounded_together(served, monkeypatch):
    monkeypatch.setattr(asgi, "_UNREAD", 2.5 * len(HUGE))
    monkeypatch.setattr(asgi, "_STUCK", 3_600)
    with ExitStack() as links:
        links.enter_context(served.ask_and_not_read())
        await until(lambda: served.app._sending)
        (first,) = served.app._sending
        await until(lambda: next(iter(served.app._sending.values())).waits_since < float("inf"))
        for _ in range(2):
            links.enter_context(served.ask_and_not_read())
        await until(first.done)  # the one that waits longest makes way
        await served.read()
        assert len(served.app._sending) <= 2


async def test_large_events_are_encoded_in_a_thread_and_small_ones_are_not(
    durably, asker, monkeypatch
):
    used: dict[str, bool] = {}
    real = streams.event_to_wire

    def encode(event: Any, *args: Any) -> Any:
        used[event.type] = threading.current_thread() is threading.main_thread()
        return real(event, *args)

    monkeypatch.setattr(streams, "event_to_wire", encode)
    for input, small in ([MEGABYTE], False), (["small"], True):
        run_id = await ended(durably, await asker.trigger("large", input))
        events = [
            event async for event in asker.stream("/subscribe", ("runId", run_id), ("after", "0"))
        ]
        assert events[-1]["output"] == input
        assert used == {"run:trigger": small, "run:start": small, "run:complete": small}
