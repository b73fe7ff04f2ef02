"""The page in a browser, and what it shows."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlencode

from playwright.async_api import Page, expect

from .server import PATIENCE, Server

NOTHING = {"status": "null", "output": "null", "error": "null", "progress": "null"}
"""What a job's view shows of no run."""

expect.set_options(timeout=PATIENCE * 1000)


class View:
    """One view of the page: see ``page.jsx``."""

    def __init__(self, page: Page) -> None:
        self.page = page

    async def open(self, server: Server, view: str, *, at: str = "", **options: Any) -> None:
        """Open it. A job's view that follows the latest run is told of those triggered from now on.

        (A list is read again once its stream is open, so it misses nothing.)
        """
        page = f"{at or server.url}/?{urlencode({'view': view, **options}, doseq=True)}"
        if view != "job" or options.get("followLatest") == "no":
            await self.page.goto(page)
            return
        async with self.page.expect_response(lambda response: "/runs/subscribe" in response.url):
            await self.page.goto(page)

    async def click(self, selector: str) -> None:
        await self.page.click(selector)

    async def trigger(self, name: str, *, by: str = "#trigger", **input: Any) -> None:
        await self.page.fill("#input", json.dumps({"name": name, "rows": 2, **input}))
        await self.page.click(by)

    async def shows(self, **texts: str) -> None:
        """The elements of these ids show these texts, now or soon."""
        for id, text in texts.items():
            await expect(self.page.locator(f"#{id}")).to_have_text(text)

    async def answers(self, part: str) -> str:
        """The answer to the last click has this part; all of it."""
        answer = self.page.locator("#answer")
        await expect(answer).to_contain_text(part)
        return await answer.inner_text()

    async def run_id(self, other_than: str = "null") -> str:
        """The run that the page follows, once there is one other than this."""
        shown = self.page.locator("#run")
        await expect(shown).not_to_have_text(other_than)
        return await shown.inner_text()

    async def logs(self, *lines: str) -> None:
        """The log lines, all of them."""
        await expect(self.page.locator("#logs > li")).to_have_text(list(lines))

    async def names(self, *names: str) -> None:
        """The runs of the list, by their inputs' names, in order."""
        await expect(self.page.locator("td.name")).to_have_text(list(names))

    async def cell(self, run_id: str, column: str, text: str) -> None:
        """One cell of the list."""
        await expect(self.page.locator(f"#run-{run_id} .{column}")).to_have_text(text)
