"""The FastAPI example: a file is imported, whatever happens to the server, and the page tells of it."""

from __future__ import annotations

import importlib.util
import json
import random
import signal
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import ModuleType

import pytest
from playwright.async_api import Browser, FilePayload, Page, expect

from tests.tier import by_tier

from .conftest import Check
from .server import CI, ROOT, Server

MAIN = ROOT / "examples/fastapi_app/main.py"
ROWS, BATCH = 5_000, 200
HOLD = "3600"  # the pause after the first batch, for a run that goes on for as long as it is wanted
NASTY = "<img src=x onerror=alert(1)>.csv"


def rows(count: int = ROWS, first: int = 1) -> bytes:
    """A file; its last row has no address."""
    lines = ["email,name,company"]
    lines += [f"{n}@example.com,Person {n},Ltd" for n in range(first, first + count - 1)]
    return "\n".join([*lines, "unknown,Nobody,"]).encode()


def file(name: str = "people.csv", content: bytes | None = None) -> FilePayload:
    return {"name": name, "mimeType": "text/csv", "buffer": content or rows()}


def form(content: bytes) -> tuple[bytes, str]:
    """A form with a file, and its content type."""
    head = b'--edge\r\ncontent-disposition: form-data; name="file"; filename="people.csv"\r\n\r\n'
    return head + content + b"\r\n--edge--\r\n", "multipart/form-data; boundary=edge"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def server(data: Path) -> Iterator[Server]:
    """Not started yet: each test says how fast it imports."""
    command = [sys.executable, "-W", "error", str(MAIN)]
    server = Server(command, DATA=str(data), PORT="{port}")
    yield server
    server.kill()


def count(data: Path, table: str) -> int:
    with closing(sqlite3.connect(data / "contacts.db")) as db:
        return db.execute(f"select count(*) from {table}").fetchone()[0]


def emails(data: Path) -> set[str]:
    with closing(sqlite3.connect(data / "contacts.db")) as db:
        return {email for (email,) in db.execute("select email from contacts")}


def upload(server: Server, content: bytes, key: str = "a") -> str:
    """Upload without a page; the run's id."""
    body, type = form(content)
    status, answer, _ = server.send(
        "POST", "/imports", body, content_type=type, idempotency_key=key
    )
    assert status == 202, answer
    return json.loads(answer)["runId"]


async def shows(page: Page, **texts: str) -> None:
    for id, text in texts.items():
        await expect(page.locator(f"#{id}")).to_have_text(text)


# -- the page


async def test_an_import_outlives_its_server(
    page: Page, server: Server, data: Path, looks_right: Check
):
    server.start(PAUSE="0.2")
    await page.goto(server.url)
    await shows(page, connection="live", contacts="0", none="None yet.")
    await looks_right("empty")

    await page.set_input_files("#file", [file()])
    for reached in (BATCH, 2 * BATCH, 3 * BATCH):
        await page.wait_for_function("least => bar.value >= least", arg=reached)
    server.kill()
    await shows(page, connection="reconnecting…")
    await expect(page.locator("#status")).to_contain_text("running")
    assert 3 * BATCH <= count(data, "contacts") < ROWS - 1
    await looks_right("reconnecting")

    server.start(PAUSE="0")  # the import may be over before the page is back
    await shows(page, connection="live", status="completed, attempt 2")
    await shows(page, added="4,999", updated="0", left_out="1", rows="5,000 of 5,000 rows")
    await shows(page, contacts="4,999")
    assert emails(data) == {f"{n}@example.com" for n in range(1, ROWS)}
    assert count(data, "batches") == ROWS / BATCH
    log = await page.locator("#log li span").all_inner_texts()
    assert "going on where it was interrupted: attempt 2" in log
    assert "warn: no address: line 5001, email unknown" in log
    await looks_right("completed")

    await page.reload()
    await shows(page, status="completed, attempt 2", added="4,999", rows="5,000 of 5,000 rows")
    await expect(page.locator("#log li span")).to_have_text(log)
    await expect(page.locator("#runs .badge")).to_have_text("completed")


async def test_what_fails_says_why_and_can_be_retried_and_deleted(
    page: Page, server: Server, looks_right: Check
):
    server.start(PAUSE="0")
    await page.goto(server.url)
    await page.set_input_files("#file", [file(NASTY, b"name,company\nAda,Ltd\n")])
    await shows(page, status="failed", error="the first line names no column 'email'")
    await expect(page.locator("#run-name")).to_have_text(NASTY)
    await expect(page.locator("#runs .name")).to_have_text(NASTY)
    await looks_right("failed")
    await page.click("#retry")
    await shows(page, status="failed, attempt 2")
    await expect(page.locator("#run-name")).to_be_focused()
    await page.click("#delete")
    await expect(page.locator("#run")).to_be_hidden()
    await shows(page, none="None yet.")
    await expect(page.locator("#runs-title")).to_be_focused()
    await page.reload()
    await shows(page, connection="live", none="None yet.")


async def test_an_import_is_cancelled_and_goes_on_and_other_pages_see_it(
    page: Page, browser: Browser, server: Server, data: Path
):
    server.start(PAUSE=HOLD)
    other = await browser.new_page()
    await other.goto(server.url)
    await page.goto(server.url)
    await page.click("#sample")
    await shows(page, status="running", rows="200 of 5,000 rows")
    badge = other.locator("#runs .badge")
    await expect(badge).to_have_text("running, 4 %")
    await other.click("#runs a")
    await shows(other, status="running", rows="200 of 5,000 rows")
    await other.click("#cancel")
    await shows(page, status="cancelled")
    await expect(badge).to_have_text("cancelled")
    await page.click("#retry")
    await shows(page, status="running, attempt 2")
    await shows(other, status="running, attempt 2")
    assert count(data, "contacts") == BATCH, "the batch that was not committed came again"
    assert count(data, "batches") == 1
    await other.click("#cancel")
    await other.click("#delete")
    await expect(page.locator("#run")).to_be_hidden()


async def test_a_file_that_was_sent_into_the_void_is_imported_once(page: Page, server: Server):
    server.start(PAUSE="0")
    await page.goto(server.url)
    await shows(page, connection="live")
    server.kill()
    await page.set_input_files("#file", [file(content=rows(10))])
    await shows(page, connection="reconnecting…", uploading="Uploading people.csv …")
    server.start()
    await shows(page, status="completed", added="9", uploading="", connection="live")
    assert len(server.ask("GET", "/runs")) == 1


@CI
async def test_what_is_too_large_is_refused_on_the_page(page: Page, server: Server, tmp_path: Path):
    server.start()
    large = tmp_path / "large.csv"
    large.write_bytes(bytes(10_000_001))
    await page.goto(server.url)
    await page.set_input_files("#file", large)
    await shows(page, problem="the file has more than 10,000,000 bytes")


@CI
async def test_a_hidden_page_holds_no_connection(page: Page, server: Server):
    server.start(PAUSE=HOLD)
    await page.goto(server.url)
    await page.click("#sample")
    await shows(page, status="running", rows="200 of 5,000 rows")

    def open_streams() -> float:
        _, text, _ = server.send("GET", "/api/durably/metrics")
        return float(text.decode().rpartition("\ndurably_sse_clients ")[2].split()[0])

    async def become(hidden: str) -> None:
        await page.evaluate(
            "hidden => { Object.defineProperty(document, 'hidden', { value: hidden, configurable: true });"
            "document.dispatchEvent(new Event('visibilitychange')) }",
            hidden == "hidden",
        )

    server.wait_for(lambda: open_streams() == 2, "the page follows nothing")
    await become("hidden")
    server.wait_for(lambda: open_streams() == 0, "the hidden page holds its streams")
    await become("visible")
    server.wait_for(lambda: open_streams() == 2, "the page came back and follows nothing")


# -- without a page


def test_killed_again_and_again_every_row_is_imported_once(server: Server, data: Path):
    server.start(PAUSE="0.05")
    run_id = upload(server, rows())
    dice = random.Random(7)
    for _ in range(by_tier(quick=2, ci=10, soak=100)):
        time.sleep(dice.uniform(0, 0.3))
        server.kill()
        server.start(PAUSE="0.05")
    done = server.finished(run_id)
    assert done["status"] == "completed", done
    assert done["output"] == {"added": ROWS - 1, "updated": 0, "left_out": 1}
    assert emails(data) == {f"{n}@example.com" for n in range(1, ROWS)}
    assert count(data, "batches") == ROWS / BATCH


def test_a_stopped_server_hands_its_import_to_the_next(server: Server, data: Path):
    server.start(PAUSE=HOLD)
    run_id = upload(server, rows(1_000))
    server.wait_for(lambda: server.run(run_id)["progress"], "no batch was saved")
    assert server.kill(signal.SIGTERM) in (0, -signal.SIGTERM)
    server.start(PAUSE="0")
    types = [frame.event["type"] for frame in server.stream("/subscribe", runId=run_id, after=0)]
    assert types[-1] == "run:complete"
    assert types.count("run:release") == 1, "it was handed back, not lost"
    assert count(data, "contacts") == 999


def test_a_later_file_updates_what_is_there(server: Server, data: Path):
    server.start(PAUSE="0")
    first = server.finished(upload(server, rows(300), key="first"))
    assert first["output"] == {"added": 299, "updated": 0, "left_out": 1}
    later = server.finished(upload(server, rows(300, first=101), key="later"))
    assert later["output"] == {"added": 100, "updated": 199, "left_out": 1}
    assert count(data, "contacts") == 399


def test_what_is_sent_twice_is_imported_once(server: Server):
    server.start(PAUSE="0")
    assert upload(server, rows(10)) == upload(server, rows(10))
    assert upload(server, rows(10), key="another") != upload(server, rows(10))


def test_what_is_refused(server: Server):
    server.start()
    body, type = form(rows(10))
    assert server.send("POST", "/imports", body, content_type=type)[0] == 422, "names no key"
    large, type = form(bytes(10_000_001))
    assert server.send("POST", "/imports", large, content_type=type, idempotency_key="a")[0] == 413
    elsewhere = {"name": "a", "digest": "../../../etc/passwd"}
    wanted = json.dumps({"jobName": "import-contacts", "input": elsewhere}).encode()
    status, answer, _ = server.send(
        "POST", "/api/durably/trigger", wanted, content_type="application/json"
    )
    assert status == 400
    assert json.loads(answer)["path"] == "$.digest"


@pytest.fixture
def main(data: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setenv("DATA", str(data))
    spec = importlib.util.spec_from_file_location("fastapi_app_main", MAIN)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_batch_that_was_saved_and_not_committed_is_saved_once(main: ModuleType, data: Path):
    """The moment that no kill is sure to hit: our table has the batch, the journal has not the step."""
    main.create_tables()
    batch = [main.Contact(1, "ada@example.com", "Ada", ""), main.Contact(2, "nobody", "", "")]
    saved = main.save_batch("run:rows-0", batch)
    assert (saved.added, saved.updated, saved.left_out) == (1, 0, 1)
    assert main.save_batch("run:rows-0", batch) == saved, "not updated: it is the same batch"
    assert count(data, "contacts") == 1
