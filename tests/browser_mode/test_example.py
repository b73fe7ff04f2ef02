"""examples/browser-only in a real Chromium: it works, outlives its tab and its network, and looks right."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Page, async_playwright, expect

from tests.browser import npm
from tests.browser.chromium import Chromium
from tests.browser.fixtures import give_up
from tests.examples.conftest import Check
from tests.examples.conftest import looks_right as looks_right
from tests.tier import TIER

from . import example
from .browser import PATIENCE, Profile
from .site import Site

expect.set_options(timeout=PATIENCE)
for_ci = pytest.mark.skipif(TIER == "quick", reason="some seconds of Python a page: the ci tier's")

WHERE = "/any/where/"  # a build lies in whatever folder of a host
MADE_UP = 10_000
CSV = """Name;E-mail;Born;Amount
 Ana  Lopez ;ANA@Example.com ;03.04.1990;"1.234,50 €"
Bob;bob(at)example.org;1990-05-06;12
ana;ana@example.com;1990-04-03;1
;;;
Cy;nobody;31 Feb;n/a
Dee;dee@example.net;Mar 3, 2001;7,5
"""
CLEANED = [
    "Ana Lopez (mended)ana@example.com (mended)1990-04-03 (mended)1234.50 (mended)",
    "Bobbob@example.org (mended)1990-05-0612",
    "Cynobody (doubtful)31 Feb (doubtful)n/a (doubtful)",
    "Deedee@example.net2001-03-03 (mended)7.5 (mended)",
]


@pytest.fixture
def host(bundled: Path) -> Iterator[Site]:
    """A host of static files with the example on it."""
    try:
        dist = example.built()
    except npm.Unavailable as why:
        give_up(why)
    site = Site({WHERE: dist, f"{WHERE}durably/": bundled})
    yield site
    site.close()


@pytest.fixture
async def keeping(chromium: Chromium, host: Site, tmp_path: Path) -> AsyncIterator[Profile]:
    """A browser that keeps its files, and can be killed."""
    async with async_playwright() as playwright:
        profile = Profile(playwright, chromium, tmp_path / "profile", host.url)
        await profile.start()
        yield profile
        await profile.kill()


async def is_ready(page: Page) -> None:
    await expect(page.locator("#situation")).to_contain_text("works here")


async def begin_made_up(page: Page) -> None:
    await page.get_by_role("button", name="Take 10,000 made-up rows").click()


async def reaches(page: Page, rows: int) -> None:
    """The latest run comes to at least so many rows."""
    await page.wait_for_function(
        "rows => document.querySelector('.followed progress')?.value >= rows", arg=rows
    )


@for_ci
async def test_a_table_is_cleaned_and_shown(page: Page, host: Site, looks_right: Check):
    page.set_default_timeout(PATIENCE)
    await page.goto(f"{host.url}{WHERE[1:]}")
    await expect(page.get_by_role("heading", name="Python is on its way")).to_be_visible()
    await looks_right("starting")
    await is_ready(page)
    await looks_right("empty")

    file = {"name": "people.csv", "mimeType": "text/csv", "buffer": CSV.encode()}
    await page.set_input_files("input[type=file]", [file])
    table = page.locator("section.table")
    await expect(table.locator("tbody tr")).to_have_text(CLEANED)
    await expect(table.locator("dd")).to_have_text(["4", "7", "3", "1"])
    await looks_right("cleaned")

    async with page.expect_download() as download:
        await table.get_by_role("button", name="Download CSV").click()
    saved = Path(await (await download.value).path()).read_text().splitlines()
    assert saved[:2] == ["Name,E-mail,Born,Amount", "Ana Lopez,ana@example.com,1990-04-03,1234.50"]
    assert (await download.value).suggested_filename == "people-clean.csv"

    await page.get_by_text("Doubtful", exact=True).click()
    await expect(page.locator("#shown")).to_have_text("1–1 of 1")
    await page.get_by_role("button", name="Delete people.csv").click()
    await expect(page.locator(".none")).to_be_visible()
    hosts = {urlsplit(url).netloc for url in await requests_of(page)}
    assert hosts <= {urlsplit(host.url).netloc}


async def requests_of(page: Page) -> list[str]:
    return await page.evaluate("performance.getEntriesByType('resource').map(entry => entry.name)")


@for_ci
async def test_a_page_that_cannot_work_says_why(page: Page, host: Site, looks_right: Check):
    page.set_default_timeout(PATIENCE)
    await page.route("**/durably/manifest.json", lambda route: route.fulfill(status=404))
    await page.goto(f"{host.url}{WHERE[1:]}")
    alert = page.get_by_role("alert")
    await expect(alert.get_by_role("heading")).to_have_text("This page cannot start")
    await expect(alert.locator(".problem")).to_contain_text("manifest.json cannot be loaded")
    await looks_right("trouble")


@for_ci
async def test_a_run_outlives_reloads_kills_and_the_network(keeping: Profile, host: Site):
    page = await keeping.open(WHERE[1:])
    await is_ready(page)
    await begin_made_up(page)
    await reaches(page, 1000)
    await page.reload()
    await reaches(page, 2000)
    await page.evaluate("navigator.serviceWorker.ready")

    await keeping.kill()
    host.close()  # and whoever looks for it finds nobody
    await keeping.start()
    await keeping.context.set_offline(True)
    page = await keeping.open(WHERE[1:])
    await is_ready(page)
    await page.get_by_label("Slowly").uncheck()
    await expect(page.locator("section.runs .badge")).to_have_text("completed")
    told = await page.locator(".tally dd").all_inner_texts()
    rows, *_, duplicates = (int(figure.replace(",", "")) for figure in told)
    assert rows + duplicates == MADE_UP
    await expect(page.locator("#shown")).to_have_text(f"1–15 of {rows:,}")

    await begin_made_up(page)
    await expect(page.locator("section.runs .badge")).to_have_text(["completed", "completed"])
    again = await page.locator(".tally dd").all_inner_texts()
    assert again == told, "what was interrupted is as what was not"


@for_ci
async def test_one_html_file_and_one_python_file_do(page: Page, bundled: Path):
    site = Site({"/": example.VANILLA, "/durably/": bundled})
    page.set_default_timeout(PATIENCE)
    try:
        await page.goto(site.url)
        await expect(page.locator("#said")).to_have_text("ready")
        await page.fill("#text", "\n\n".join(f"Steps {n}: done." for n in range(40)))
        await page.get_by_role("button", name="Count").click()
        await page.wait_for_function("bar.value >= 2")
        await page.reload()
        await expect(page.locator("#said")).to_have_text("completed")
        await expect(page.locator("#words li").first).to_have_text("steps: 40")
        assert await page.evaluate("[bar.value, bar.max]") == [40, 40]
    finally:
        site.close()
