"""Pages in a real Chromium, held to axe-core's rules."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page, expect

from tests.browser import npm
from tests.browser.fixtures import *  # noqa: F403
from tests.tier import TIER

from .server import PATIENCE

expect.set_options(timeout=PATIENCE * 1000)

WIDE, NARROW = 1280, 390
LOOKS = [(NARROW, "dark"), (WIDE, "light")]
LOOKS += [(NARROW, "light"), (WIDE, "dark")] if TIER != "quick" else []

Check = Callable[[str], Awaitable[None]]


@pytest.fixture
def looks_right(page: Page, node_modules: None, tmp_path: Path) -> Check:
    """``await looks_right("empty")``: in light and dark, wide and narrow, everybody can use the page.

    What it looked like is in the test's temporary directory.
    """
    axe = npm.MODULES / "axe-core/axe.min.js"

    async def check(name: str) -> None:
        await page.add_script_tag(path=axe)
        for width, scheme in LOOKS:
            await page.set_viewport_size({"width": width, "height": 860})
            await page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
            state = f"{name}-{scheme}-{width}"
            await page.screenshot(path=tmp_path / f"{state}.png", full_page=width == NARROW)
            assert await page.evaluate("document.documentElement.scrollWidth") <= width, state
            assert await _violations(page) == [], state

    return check


async def _violations(page: Page) -> list[Any]:
    found = await page.evaluate("axe.run()")
    return [
        {"rule": rule["id"], "at": [node["html"] for node in rule["nodes"]]}
        for rule in found["violations"]
    ]
