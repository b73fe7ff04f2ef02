"""The fixtures for a conftest.py: ``from tests.browser.fixtures import *``."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from typing import NoReturn

import pytest
from playwright.async_api import Browser, Page

from tests.tier import TIER

from . import chromium as browsers
from . import npm

__all__ = ["browser", "chromium", "node_modules", "page"]


@pytest.fixture(scope="session")
def node_modules() -> None:
    """The packages of package-lock.json are installed: ``node.run`` finds them."""
    try:
        npm.installed()
    except npm.Unavailable as why:
        give_up(why)


@pytest.fixture(scope="session")
def chromium() -> browsers.Chromium:
    """A Chromium on this machine."""
    try:
        return browsers.find()
    except npm.Unavailable as why:
        give_up(why)


@pytest.fixture
async def browser(chromium: browsers.Chromium) -> AsyncIterator[Browser]:
    """A browser of its own for this test."""
    async with browsers.open_browser(chromium) as opened:
        yield opened


@pytest.fixture
async def page(browser: Browser) -> AsyncIterator[Page]:
    """An empty page. An exception that nobody caught on it fails the test."""
    opened = await browser.new_page()
    opened.set_default_timeout(15_000)
    uncaught: list[str] = []
    opened.on("pageerror", lambda error: uncaught.append(str(error)))
    yield opened
    assert uncaught == []


def give_up(why: npm.Unavailable) -> NoReturn:
    """Leave the test out where a person works; in CI that would hide that nothing was tested."""
    if TIER != "quick" or os.environ.get("CI"):
        pytest.fail(str(why))
    pytest.skip(str(why))
