"""A server of the example, and a browser."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.async_api import expect

from tests.browser import npm
from tests.browser.fixtures import *  # noqa: F403
from tests.browser.fixtures import give_up
from tests.examples.conftest import looks_right as looks_right
from tests.examples.server import PATIENCE, Server

from .building import EXAMPLE, built

expect.set_options(timeout=PATIENCE * 1000)


@pytest.fixture(scope="session")
def built_page() -> None:
    try:
        built()
    except npm.Unavailable as why:
        give_up(why)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def server(data: Path, built_page: None) -> Iterator[Server]:
    """Not started yet: each test says how fast it works."""
    command = [sys.executable, "-W", "error", str(EXAMPLE / "main.py")]
    server = Server(command, DATA=str(data), PORT="{port}")
    yield server
    server.kill()
