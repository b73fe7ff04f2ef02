"""What is shown is what is: whatever happens to the server, the network, or another tab."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from playwright.async_api import Browser, FilePayload, Locator, Page, expect

from tests.examples.conftest import Check
from tests.examples.server import Server
from tests.tier import TIER, by_tier

ROWS, BATCH = 3_000, 200
MANY = 10_000  # rows that are not imported before the server is killed
HOLD = "3600"  # seconds after the first step, for a run that goes on for as long as it is wanted
NASTY = "<img src=x onerror=alert(1)>.csv"

for_ci = pytest.mark.skipif(TIER == "quick", reason="seconds of waiting each: the ci tier's")


def csv(count: int = ROWS) -> bytes:
    """A file; its last row has no address."""
    rows = [f"{n}@example.com,Person {n},Ltd" for n in range(1, count)]
    return "\n".join(["email,name,company", *rows, "unknown,Nobody,"]).encode()


def file(name: str = "people.csv", content: bytes | None = None) -> FilePayload:
    return {"name": name, "mimeType": "text/csv", "buffer": csv() if content is None else content}


def card(page: Page, title: str) -> Locator:
    return page.locator("section.card", has=page.get_by_role("heading", name=title, exact=True))


def contacts(data: Path) -> int:
    with closing(sqlite3.connect(data / "contacts.db")) as db:
        return db.execute("select count(*) from contacts").fetchone()[0]


async def reaches(page: Page, rows: int) -> None:
    """The card's bar comes to at least so many rows."""
    await page.wait_for_function(
        "rows => document.querySelector('.followed progress')?.value >= rows", arg=rows
    )


async def is_connected(page: Page, *, told: str = "live") -> None:
    await expect(page.locator("#connection")).to_have_text(told)


async def open_with_import(page: Page, server: Server) -> None:
    await page.goto(server.url)
    await is_connected(page)
    await page.set_input_files("input[accept*=csv]", [file()])


# -- the server


async def test_an_import_outlives_its_server(
    page: Page, server: Server, data: Path, looks_right: Check
):
    server.start(PAUSE="0.2")
    await page.goto(server.url)
    await expect(page.locator(".none")).to_be_visible()
    await looks_right("empty")

    await page.set_input_files("input[accept*=csv]", [file(content=csv(MANY))])
    for steps in range(1, 4):
        await reaches(page, steps * BATCH)
    imports, runs = card(page, "Contacts"), card(page, "Runs")
    for _ in range(by_tier(quick=1, ci=3, soak=4)):  # more without a step would be poison
        server.kill()
        await is_connected(page, told="reconnecting…")
        await expect(imports.locator(".badge")).to_have_text("running")
        server.start(PAUSE=HOLD)
        await is_connected(page)
    assert 3 * BATCH <= contacts(data) < MANY - 1
    server.kill()
    await is_connected(page, told="reconnecting…")
    await looks_right("reconnecting")
    server.start(PAUSE="0")
    await expect(imports.locator(".badge")).to_have_text("completed")
    await expect(imports.locator(".outcome")).to_have_text("9,999 saved, 1 left out")
    await expect(imports.locator("#contacts")).to_have_text("9,999")
    await expect(runs.locator("tbody .badge")).to_have_text("completed")
    assert contacts(data) == MANY - 1

    await runs.get_by_role("link", name="people.csv").click()
    details = card(page, "people.csv")
    lines = details.locator(".log li span")
    await expect(lines.last).to_contain_text("saved: rows 9801-10000")
    told = await lines.all_inner_texts()
    batches = [line for line in told if line.startswith("saved")]
    expected = [f"saved: rows {n + 1}-{n + BATCH}" for n in range(0, MANY, BATCH)]
    assert list(dict.fromkeys(batches)) == expected, "each batch, in order"
    assert any(line.startswith("going on where it was interrupted") for line in told)
    assert "warn: no address: line 10001, email unknown" in told
    await looks_right("completed")


@for_ci
async def test_a_reload_goes_on_with_the_run(page: Page, server: Server):
    server.start(PAUSE=HOLD)
    await open_with_import(page, server)
    await reaches(page, BATCH)
    await card(page, "Contacts").get_by_role("link", name="people.csv").click()
    log = card(page, "people.csv").locator(".log li span")
    await expect(log).to_have_text([f"saved: rows 1-{BATCH}"])
    await page.reload()
    await reaches(page, BATCH)
    await expect(card(page, "Contacts").locator(".name")).to_have_text("people.csv")
    await expect(log).to_have_text([f"saved: rows 1-{BATCH}"])
    await page.get_by_role("button", name="Cancel people.csv").click()
    await expect(card(page, "Contacts").locator(".badge")).to_have_text("cancelled")


# -- the network


@for_ci
async def test_a_page_that_was_offline_catches_up(page: Page, server: Server):
    server.start(PAUSE="0.1")
    await open_with_import(page, server)
    await reaches(page, BATCH)
    await page.context.set_offline(True)
    await is_connected(page, told="reconnecting…")
    (run,) = server.ask("GET", "/runs")
    server.finished(run["id"])
    await page.context.set_offline(False)
    await is_connected(page)
    await expect(card(page, "Contacts").locator(".badge")).to_have_text("completed")
    await expect(card(page, "Runs").locator("tbody .badge")).to_have_text("completed")
    await expect(page.locator("#contacts")).to_have_text("2,999")


@for_ci
async def test_what_is_sent_into_the_void_is_done_once(page: Page, server: Server):
    server.start(PAUSE="0")
    await page.goto(server.url)
    await is_connected(page)
    server.kill()
    await page.set_input_files("input[accept*=csv]", [file(content=csv(10))])
    await expect(page.get_by_text("Uploading…")).to_be_visible()
    await is_connected(page, told="reconnecting…")
    server.start()
    await expect(page.locator(".outcome")).to_have_text("9 saved, 1 left out")
    assert len(server.ask("GET", "/runs")) == 1


# -- other tabs


async def test_two_tabs_stay_in_step(page: Page, browser: Browser, server: Server):
    server.start(PAUSE=HOLD)
    other = await browser.new_page()
    await other.goto(server.url)
    await is_connected(other)
    await open_with_import(page, server)
    for tab in (page, other):
        await reaches(tab, BATCH)
        await expect(tab.locator(".far .figures")).to_have_text("200 / 3,000")
    await other.get_by_role("button", name="Cancel people.csv").click()
    for tab in (page, other):
        await expect(card(tab, "Contacts").locator(".badge")).to_have_text("cancelled")
        await expect(tab.locator("tbody .badge")).to_have_text("cancelled")
    await page.get_by_role("button", name="Retry people.csv").click()
    for tab in (page, other):
        await expect(tab.locator("tbody .badge")).to_have_text("running")
        await expect(card(tab, "Contacts").locator(".badge")).to_have_text("running")
    await page.get_by_role("button", name="Cancel people.csv").click()
    await other.get_by_role("button", name="Delete people.csv").click()
    for tab in (page, other):
        await expect(tab.locator(".none")).to_be_visible()


@for_ci
async def test_a_hidden_tab_holds_no_connection(page: Page, server: Server):
    server.start(PAUSE=HOLD)
    await open_with_import(page, server)
    await reaches(page, BATCH)

    def streams() -> float:
        _, text, _ = server.send("GET", "/api/durably/metrics")
        return float(text.decode().rpartition("\ndurably_sse_clients ")[2].split()[0])

    async def become(hidden: str) -> None:
        await page.evaluate(
            "hidden => { Object.defineProperty(document, 'hidden', { value: hidden, configurable: true });"
            "document.dispatchEvent(new Event('visibilitychange')) }",
            hidden == "hidden",
        )

    server.wait_for(lambda: streams() > 0, "the page follows nothing")
    await become("hidden")
    server.wait_for(lambda: streams() == 0, "the hidden page holds its streams")
    await become("visible")
    server.wait_for(lambda: streams() > 0, "the page came back and follows nothing")
    await expect(card(page, "Contacts").locator(".badge")).to_have_text("running")


# -- many runs


@for_ci
async def test_twenty_bars_move_at_once(page: Page, server: Server, looks_right: Check):
    server.start(
        PAUSE="1"
    )  # on a busy machine, too, all twenty are under way when the page draws them
    await page.goto(server.url)
    await is_connected(page)
    status, answer, _ = server.send(
        "POST", "/api/files", csv(1_600), content_type="application/octet-stream"
    )
    assert status == 200
    for n in range(20):
        file = {"name": f"people-{n}.csv", **json.loads(answer)}
        server.ask("POST", "/trigger", {"jobName": "import-csv", "input": file})
    await page.wait_for_function(
        "[...document.querySelectorAll('td progress')].filter(({ value, max }) => 0 < value && value < max).length === 20"
    )
    await expect(page.locator("tbody .badge")).to_have_text(["completed"] * 20)
    await page.wait_for_function(
        "[...document.querySelectorAll('td progress')].filter(({ value, max }) => max === 1600 && value === max).length === 20"
    )
    await expect(page.locator("#contacts")).to_have_text("1,599")
    await looks_right("twenty")
    await page.get_by_text("Import 5,000 made-up rows").click()
    await page.get_by_role("button", name="Older").click()
    await expect(page.locator("tbody .name")).to_have_text(["people-0.csv"])


# -- thumbnails


@for_ci
async def test_thumbnails_show_as_they_are_made(page: Page, server: Server, looks_right: Check):
    server.start(PAUSE="0.2")
    await page.goto(server.url)
    await page.get_by_role("button", name="Use eight painted ones").click()
    made = page.locator(".gallery img")
    await page.wait_for_function(
        "(() => { const count = document.querySelectorAll('.gallery img').length; return 0 < count && count < 8 })()"
    )
    await expect(made).to_have_count(8)
    await expect(card(page, "Thumbnails").locator(".badge")).to_have_text("completed")
    await page.wait_for_function(
        "[...document.querySelectorAll('.gallery img')].every(image => image.naturalWidth === 320)"
    )
    await looks_right("thumbnails")


@for_ci
async def test_what_cannot_be_read_says_so_and_the_others_are_kept(
    page: Page, server: Server, looks_right: Check
):
    server.start(PAUSE="0")
    await page.goto(server.url)
    await page.get_by_role("button", name="Use eight painted ones").click()
    await expect(page.locator(".gallery img")).to_have_count(8)
    _, answer, _ = server.send(
        "POST", "/api/files", b"no photo", content_type="application/octet-stream"
    )
    good = server.ask("GET", "/runs")[0]["input"]["photos"][0]
    photos = [good, {"name": "broken.jpg", **json.loads(answer)}]
    server.ask("POST", "/trigger", {"jobName": "make-thumbnails", "input": {"photos": photos}})
    thumbnails = card(page, "Thumbnails")
    await expect(thumbnails.locator(".problem")).to_have_text("no pictures: broken.jpg")
    await expect(thumbnails.locator("img")).to_have_count(1)
    await looks_right("failed")


@for_ci
async def test_a_failed_import_is_retried_and_deleted(page: Page, server: Server):
    server.start(PAUSE="0")
    await page.goto(server.url)
    await page.set_input_files("input[accept*=csv]", [file(NASTY, b"name,company\nAda,Ltd\n")])
    await expect(page.locator(".followed .problem")).to_have_text(
        "the first line names no column 'email'"
    )
    await page.locator("tbody .name").click()
    await expect(page.locator("#details-title")).to_be_focused()
    await expect(page.locator("#details-title")).to_have_text(NASTY)
    await page.get_by_role("button", name="Retry").click()
    await expect(page.locator(".details .log")).to_contain_text("attempt 2")
    await expect(page.locator("tbody .badge")).to_have_text("failed")
    await page.get_by_role("button", name="Delete").click()
    await expect(page.locator(".none")).to_be_visible()
    await expect(page.locator(".details")).to_have_count(0)
    await expect(card(page, "Runs").locator("h2")).to_be_focused()


@for_ci
async def test_an_import_that_fails_beside_others(page: Page, server: Server):
    """The others have the stream; how this one ended is told by the list's, all at once."""
    server.start(PAUSE=HOLD)
    await page.goto(server.url)
    await is_connected(page)
    await page.get_by_role("button", name="Use eight painted ones").click()
    await expect(page.locator(".gallery .gap")).to_have_count(8)
    imports = card(page, "Contacts")
    for n in range(8):
        await page.set_input_files("input[accept*=csv]", [file(f"broken-{n}.csv", b"name\nAda\n")])
        await expect(imports.locator(".name")).to_have_text(f"broken-{n}.csv")
        await expect(imports.locator(".problem")).to_be_visible()
        await expect(imports.locator(".badge")).to_have_text("failed")


@for_ci
async def test_what_is_too_large_is_refused_on_the_page(page: Page, server: Server, tmp_path: Path):
    server.start()
    large = tmp_path / "large.csv"
    large.write_bytes(bytes(20_000_001))
    await page.goto(server.url)
    await page.set_input_files("input[accept*=csv]", large)
    await expect(page.get_by_role("alert")).to_have_text("the file has more than 20,000,000 bytes")
