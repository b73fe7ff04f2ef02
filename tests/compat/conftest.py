"""A browser and a server for all the tests; a page and a database of its own for each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser

from tests.browser import node
from tests.browser.chromium import Chromium, open_browser
from tests.browser.fixtures import *  # noqa: F403

from .server import PATIENCE, Process, Server
from .view import View

HERE = Path(__file__).parent


@pytest.fixture(scope="package")
def bundle(node_modules: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's program, with the published client in it."""
    built = tmp_path_factory.mktemp("bundle") / "page.js"
    node.run(HERE / "bundle.mjs", {"entry": str(HERE / "page.jsx"), "outfile": str(built)})
    return built


@pytest.fixture(scope="package")
def shared_process(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """One process for all the tests of the package that do not kill it."""
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


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def shared_browser(chromium: Chromium) -> AsyncIterator[Browser]:
    """One browser for all the tests of the package."""
    async with open_browser(chromium) as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="package")
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
