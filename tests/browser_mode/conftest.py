"""A host, a bundle, and a browser on a profile."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from playwright.async_api import async_playwright

from tests.browser.chromium import Chromium
from tests.browser.fixtures import *  # noqa: F403
from tests.tier import TIER

from . import bundle
from .browser import Profile
from .site import HERE, Site


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The soak tier is left out unless it is asked for."""
    if TIER == "soak" or "soak" in config.getoption("markexpr", ""):
        return
    left_out = [item for item in items if item.get_closest_marker("soak")]
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=left_out)


@pytest.fixture(scope="session")
def bundled(node_modules: None) -> Path:
    return bundle.made()


@pytest.fixture
def site(bundled: Path) -> Iterator[Site]:
    site = Site({"/": HERE, "/durably/": bundled})
    yield site
    site.close()


@pytest.fixture
async def profile(chromium: Chromium, site: Site, tmp_path: Path) -> AsyncIterator[Profile]:
    async with async_playwright() as playwright:
        opened = Profile(playwright, chromium, tmp_path / "profile", site.url)
        await opened.start()
        yield opened
        await opened.kill()
