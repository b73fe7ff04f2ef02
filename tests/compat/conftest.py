"""A server in a process of its own, and the page in a browser."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page

from tests.browser import node
from tests.browser.chromium import Chromium, open_browser
from tests.browser.fixtures import *  # noqa: F403

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PATIENCE = 20.0


class Process:
    """``app.py`` on a port of loopback; what it keeps is in ``folder``."""

    def __init__(self, folder: Path, bundle: Path) -> None:
        self.folder, self.port = folder, _free_port()
        os.link(bundle, folder / "page.js")
        self._child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "tests.compat.app", str(self.folder), str(self.port)]
        self._child = subprocess.Popen(command, cwd=ROOT)
        deadline = time.monotonic() + PATIENCE
        while not self._answers():
            assert self._child.poll() is None, "the server ended"
            assert time.monotonic() < deadline, "the server does not answer"
            time.sleep(0.02)

    def kill(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            self._child = None

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


class Server:
    """A site of a process: an empty database, a page, an API."""

    def __init__(self, process: Process) -> None:
        name = uuid.uuid4().hex[:8]
        self.process = process
        self.url = f"http://127.0.0.1:{process.port}/{name}"
        self.listed_url = f"http://localhost:{process.port}/{name}"
        """The same page, for the browser of another origin."""
        self.database = process.folder / name / "jobs.db"
        self._gates = process.folder / name / "gates"
        self._gates.mkdir(parents=True)

    def open_gate(self, name: str, row: int) -> None:
        """Let the run of this input go on with this row."""
        (self._gates / f"{name}-{row}").touch()

    def ask(self, method: str, path: str, **query: str) -> Any:
        return self._fetch(method, f"{path}?{urlencode(query)}", None)

    def trigger(self, job: str, name: str, *, rows: int = 2, hold: Any = (), **more: Any) -> str:
        """Trigger as somebody else than the page; the run's id."""
        input = {"name": name, "rows": rows, "hold": list(hold)}
        return self._fetch("POST", "/trigger", {"jobName": job, "input": input, **more})["runId"]

    def run_of(self, job: str, name: str, **more: Any) -> str:
        """Trigger, and wait until the run is over; its id."""
        run_id = self.trigger(job, name, **more)
        self.wait_for(run_id, lambda run: run["isTerminal"])
        return run_id

    def wait_for(self, run_id: str, wanted: Callable[[Any], bool]) -> None:
        """Wait until the run is as it is wanted."""
        deadline = time.monotonic() + PATIENCE
        while not wanted(run := self.ask("GET", "/run", runId=run_id)):
            assert time.monotonic() < deadline, f"the run stays at {run}"
            time.sleep(0.02)

    def _fetch(self, method: str, path: str, body: Any) -> Any:
        request = urllib.request.Request(
            f"{self.url}/api/durably{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=PATIENCE) as response:
            return json.load(response)


class View:
    """One view of the page: see ``page.jsx``."""

    def __init__(self, page: Page) -> None:
        self.page = page

    async def open(self, server: Server, view: str, *, at: str = "", **options: Any) -> None:
        """Open it, and wait until it hears of all runs, where it wants to.

        The client reads its list and opens the stream at once; it would miss what happens in between.
        """
        page = f"{at or server.url}/?{urlencode({'view': view, **options}, doseq=True)}"
        if view == "run" or "no" in (options.get("followLatest"), options.get("realtime")):
            await self.page.goto(page)
            return
        async with self.page.expect_response(lambda response: "/runs/subscribe" in response.url):
            await self.page.goto(page)

    async def click(self, selector: str) -> None:
        await self.page.click(selector)

    async def trigger(self, name: str, *, by: str = "#trigger", **input: Any) -> None:
        await self.page.fill("#input", json.dumps({"name": name, "rows": 2, **input}))
        await self.page.click(by)


def _free_port() -> int:
    with socket.socket() as any_port:
        any_port.bind(("127.0.0.1", 0))
        return any_port.getsockname()[1]


@pytest.fixture(scope="module")
def bundle(node_modules: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's program, with the published client in it."""
    built = tmp_path_factory.mktemp("bundle") / "page.js"
    node.run(HERE / "bundle.mjs", {"entry": str(HERE / "page.jsx"), "outfile": str(built)})
    return built


@pytest.fixture(scope="module")
def shared_process(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """One process for all the tests of a module that do not kill it."""
    yield from _running(Process(tmp_path_factory.mktemp("shared"), bundle))


@pytest.fixture
def server(shared_process: Process) -> Server:
    """A site of its own for each test."""
    return Server(shared_process)


@pytest.fixture
def mortal_server(bundle: Path, tmp_path: Path) -> Iterator[Server]:
    """A site in a process of its own, to be killed and started again."""
    for process in _running(Process(tmp_path, bundle)):
        yield Server(process)


def _running(process: Process) -> Iterator[Process]:
    try:
        process.start()
        yield process
    finally:
        process.kill()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_browser(chromium: Chromium) -> AsyncIterator[Browser]:
    """One browser for all the tests of a module."""
    async with open_browser(chromium) as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="module")
async def view(shared_browser: Browser) -> AsyncIterator[View]:
    """A page in a profile of its own."""
    context = await shared_browser.new_context()
    page = await context.new_page()
    page.set_default_timeout(PATIENCE * 1000)
    uncaught: list[str] = []
    page.on("pageerror", lambda error: uncaught.append(str(error)))
    yield View(page)
    await context.close()
    assert uncaught == []
