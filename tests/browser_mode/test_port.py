"""The port and the server behind it, without a browser: they know no JavaScript."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from durably.browser import Port, Server, jobs_of, start
from durably.browser.port import WINDOW
from durably.errors import ConfigurationError

JOBS = """
from durably import Durably, Step, job

durably = Durably("elsewhere.db")

@durably.job("handled")
async def handled(step: Step) -> int:
    return 1

@job("counted")
async def counted(step: Step, count: int) -> int:
    for number in range(count):
        await step.run(f"step {number}", int, number)
    return count
"""


class Page:
    """What a page is told."""

    def __init__(self) -> None:
        self.heads: dict[int, tuple[int, dict[str, str]]] = {}
        self.texts: dict[int, list[str]] = {}
        self.ended: set[int] = set()
        self.told = asyncio.Event()

    def head(self, id: int, status: int, headers: str, /) -> None:
        self.heads[id] = status, json.loads(headers)
        self.told.set()

    def chunk(self, id: int, text: str, /) -> None:
        self.texts.setdefault(id, []).append(text)
        self.told.set()

    def end(self, id: int, /) -> None:
        self.ended.add(id)
        self.told.set()

    def text(self, id: int) -> str:
        return "".join(self.texts.get(id, []))

    async def until(self, true: Any) -> None:
        async with asyncio.timeout(60):
            while not true():
                self.told.clear()
                await self.told.wait()


@pytest.fixture
async def server(tmp_path, monkeypatch):
    (tmp_path / "page_jobs.py").write_text(JOBS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("sys.platform", "emscripten")  # no threads
    server = await start(str(tmp_path / "app.db"), '["page_jobs"]', '{"polling_interval": 0.2}')
    monkeypatch.undo()
    yield server
    await server.stop()


class Asking:
    """Asks as a page does."""

    def __init__(self, server: Server) -> None:
        self.page = Page()
        self.port: Port = server.connect(self.page)
        self._last = 0

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> int:
        self._last += 1
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if body is not None:
            sent["content-type"] = "application/json"
        text = "" if body is None else json.dumps(body)
        self.port.ask(self._last, method, path, json.dumps(sent), text)
        return self._last

    async def answer(self, id: int) -> tuple[int, Any]:
        await self.page.until(lambda: id in self.page.ended)
        return self.page.heads[id][0], json.loads(self.page.text(id))


@pytest.fixture
def asking(server: Server) -> Asking:
    return Asking(server)


async def test_requests_are_answered(asking: Asking):
    ids = [asking.ask("GET", "/jobs"), asking.ask("GET", "/run?runId=x"), asking.ask("GET", "/no")]
    (ok, jobs), (missing, told), (nothing, _) = [await asking.answer(id) for id in ids]
    assert ok == 200
    assert {job["name"] for job in jobs} == {"handled", "counted"}
    assert (missing, told["code"], nothing) == (404, "run_not_found", 404)
    assert asking.page.heads[ids[0]][1]["content-type"] == "application/json"


async def test_a_query_that_is_too_long_is_refused(asking: Asking):
    status, told = await asking.answer(asking.ask("GET", f"/runs?jobName={'x' * 10_000}"))
    assert (status, told["code"]) == (414, "query_too_long")


@pytest.mark.parametrize("after", [None, "0"])
async def test_a_run_is_followed_to_its_end(asking: Asking, after: str | None):
    body = {"jobName": "counted", "input": 5}
    _, triggered = await asking.answer(asking.ask("POST", "/trigger", body))
    headers = {} if after is None else {"last_event_id": after}
    stream = asking.ask("GET", f"/subscribe?runId={triggered['runId']}", **headers)
    await asking.page.until(lambda: stream in asking.page.ended)
    assert asking.page.heads[stream][0] == 200
    assert '"run:complete"' in asking.page.text(stream)
    assert asking.page.text(stream).count('"step:complete"') == 5 or after is None


async def test_a_stream_is_left(asking: Asking, server: Server):
    stream = asking.ask("GET", "/runs/subscribe")
    await asking.page.until(lambda: stream in asking.page.texts)
    asking.port.cancel(stream)
    asking.port.cancel(stream)
    async with asyncio.timeout(60):
        while server.streams:
            await asyncio.sleep(0.01)
    assert stream not in asking.page.ended


async def test_a_page_that_is_gone_leaves_nothing(asking: Asking, server: Server):
    for _ in range(3):
        stream = asking.ask("GET", "/runs/subscribe")
    await asking.page.until(lambda: stream in asking.page.texts)
    asking.port.close()
    async with asyncio.timeout(60):
        while server.streams:
            await asyncio.sleep(0.01)


async def test_a_page_that_takes_nothing_is_sent_no_more(asking: Asking):
    stream = asking.ask("GET", "/runs/subscribe")
    await asking.page.until(lambda: stream in asking.page.texts)
    body = {"jobName": "counted", "input": 2 * WINDOW}
    for _ in range(3):
        _, triggered = await asking.answer(asking.ask("POST", "/trigger", body))
        run = f"/run?runId={triggered['runId']}"
        while (await asking.answer(asking.ask("GET", run)))[1]["status"] != "completed":
            await asyncio.sleep(0.02)
    held = len(asking.page.texts[stream])
    assert held <= WINDOW
    asking.port.more(stream, WINDOW)
    asking.port.more(99, 1)
    if held == WINDOW:
        await asking.page.until(lambda: len(asking.page.texts[stream]) > held)


async def test_who_comes_after_a_death_takes_up_at_once(tmp_path, monkeypatch, server, asking):
    assert server.durably._engine.runtime.threads is False


def test_a_module_without_jobs(tmp_path, monkeypatch):
    (tmp_path / "no_jobs.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigurationError, match="no_jobs has no job at its top"):
        jobs_of("no_jobs")
