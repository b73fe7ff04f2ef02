"""What cannot be is told, with its reason."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.async_api import Page, Route

from .browser import Profile
from .test_page import needs_boots


async def problem(page: Page) -> dict[str, Any]:
    await page.wait_for_function("document.title === 'failed'")
    return await page.evaluate("problem")


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        ({"bundle": "/nowhere/"}, "no_worker", "/nowhere/browser/worker.js"),
        ({"pyodide": "/nowhere/"}, "no_python", "/nowhere/"),
        ({"jobs": "/nowhere.py"}, "no_jobs", "nowhere.py cannot be loaded: HTTP 404"),
    ],
)
async def test_what_is_not_there(profile: Profile, options: dict[str, Any], code: str, words: str):
    told = await problem(await profile.open(**options))
    assert told["code"] == code
    assert words in told["message"]


async def test_a_browser_without_a_file_system(profile: Profile):
    async def without(route: Route) -> None:
        response = await route.fetch()
        cut = "delete FileSystemFileHandle.prototype.createSyncAccessHandle;\n"
        await route.fulfill(response=response, body=cut + await response.text())

    await profile.context.route("**/worker.js", without)
    told = await problem(await profile.open())
    assert told["code"] == "no_opfs"
    assert "private windows" in told["message"]


@needs_boots
async def test_a_page_without_https(profile: Profile, site: Any):
    await profile.kill()
    await profile.start("--host-resolver-rules=MAP insecure.test 127.0.0.1")
    page = await profile.context.new_page()
    await page.goto(f"http://insecure.test:{site.port}/")
    assert (await problem(page))["code"] == "insecure_context"


@needs_boots
async def test_jobs_that_cannot_be_imported(profile: Profile):
    told = await problem(await profile.open(jobs="import nothing_of_this_name\n"))
    assert told["code"] == "python"
    assert "ModuleNotFoundError" in told["message"]
