"""The Flask example: each letter is sent once, over WSGI, whatever happens to the server."""

from __future__ import annotations

import signal
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlencode

import pytest
from playwright.async_api import Page, expect

from .conftest import Check
from .server import CI, ROOT, Server

APP = ROOT / "examples/flask_app"
SERVERS = {
    "flask run": ["flask", "--app", str(APP / "app.py"), "run", "--port", "{port}"],
    "gunicorn": [
        "gunicorn", "--chdir", str(APP), "--threads", "8", "--bind", "127.0.0.1:{port}",
        "--no-control-socket", "app:create_app()",
    ],
}  # fmt: skip
STOP = {"flask run": signal.SIGINT, "gunicorn": signal.SIGTERM}
SUBJECT = "<b>Good news</b>"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture(params=["flask run", pytest.param("gunicorn", marks=CI)])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def server(kind: str, data: Path) -> Iterator[Server]:
    """Not started yet: each test says how fast it sends."""
    server = Server([sys.executable, "-W", "error", "-m", *SERVERS[kind]], DATA=str(data))
    yield server
    server.kill()


def letters(data: Path) -> list[str]:
    with closing(sqlite3.connect(data / "outbox.db")) as db:
        return [address for (address,) in db.execute("select address from letters order by rowid")]


def post_letter(server: Server, addresses: list[str]) -> str:
    """Send the form; the run's id."""
    form = urlencode({"subject": SUBJECT, "addresses": "\r\n".join(addresses)}).encode()
    status, _, headers = server.send(
        "POST", "/letters", form, content_type="application/x-www-form-urlencoded"
    )
    assert status == 303
    return headers["location"].rpartition("/")[2]


def readers(count: int) -> list[str]:
    return [f"reader-{n}@example.com" for n in range(count)]


@pytest.mark.parametrize("kind", SERVERS)
def test_every_letter_is_sent_once_though_the_server_is_killed(server: Server, data: Path):
    server.start(PAUSE="0.1")
    run_id = post_letter(server, readers(30))
    heard = []
    for frame in server.stream("/subscribe", runId=run_id, after=0):
        heard.append(frame)
        if [it.event["type"] for it in heard].count("step:complete") == 3:
            server.kill()  # the stream ends with it
    last = max(frame.id for frame in heard if frame.id)
    server.start(PAUSE="0.01")
    rest = list(server.stream("/subscribe", last_event_id=last, runId=run_id))
    assert rest[-1].event["type"] == "run:complete"
    assert rest[-1].event["output"] == {"letters": 30}
    ids = [frame.id for frame in heard + rest if frame.id]
    assert ids == list(range(1, len(ids) + 1)), "every event once, in order, over both servers"
    steps = [it.event["stepName"] for it in heard + rest if it.event["type"] == "step:complete"]
    assert steps == [f"letter-{n}" for n in range(1, 31)]
    assert letters(data) == readers(30)


def test_a_stream_is_live_and_forgotten_when_its_reader_leaves(server: Server):
    server.start(PAUSE="0.2")
    run_id = post_letter(server, readers(20))
    with closing(server.stream("/subscribe", runId=run_id, after=0)) as stream:
        while next(stream).event["type"] != "step:complete":
            pass
    assert not server.run(run_id)["isTerminal"], "it was told while it was going on"

    def is_forgotten() -> bool:
        _, text, _ = server.send("GET", "/api/durably/metrics")
        return "\ndurably_sse_clients 0" in text.decode()

    server.wait_for(is_forgotten, "a stream is kept open for nobody")


def test_a_list_hears_of_all_runs(server: Server):
    server.start(PAUSE="0")
    with closing(server.stream("/runs/subscribe")) as stream:
        run_id = post_letter(server, readers(2))
        heard = [next(stream).event]
        while heard[-1]["type"] != "run:complete":
            heard.append(next(stream).event)
    assert {event["runId"] for event in heard} == {run_id}
    assert {"run:trigger", "run:start", "step:complete"} <= {event["type"] for event in heard}
    assert "output" not in heard[-1]


def test_a_stopped_server_hands_its_run_to_the_next(kind: str, server: Server, data: Path):
    server.start(PAUSE="0.3")
    run_id = post_letter(server, readers(20))
    with closing(server.stream("/subscribe", runId=run_id, after=0)) as stream:
        while next(stream).event["type"] != "step:complete":
            pass
        server.kill(STOP[kind])
    server.start(PAUSE="0")
    types = [frame.event["type"] for frame in server.stream("/subscribe", runId=run_id, after=0)]
    assert types[-1] == "run:complete"
    assert types.count("run:release") == 1, "it was handed back, not lost"
    assert letters(data) == readers(20)


def test_what_is_refused(server: Server):
    server.start()
    form = urlencode({"subject": SUBJECT, "addresses": "a@b"}).encode()
    type = "application/x-www-form-urlencoded"
    for site in ("cross-site", "same-site"):
        status, *_ = server.send("POST", "/letters", form, content_type=type, sec_fetch_site=site)
        assert status == 403
    empty = urlencode({"subject": SUBJECT, "addresses": " "}).encode()
    assert server.send("POST", "/letters", empty, content_type=type)[0] == 400
    assert server.send("POST", "/letters", b"", content_type=type)[0] == 400
    assert server.send("GET", "/letters/unknown")[0] == 404
    assert server.send("POST", "/letters/unknown/cancel")[0] == 404
    assert server.ask("GET", "/runs") == []


@pytest.mark.parametrize("kind", ["flask run"])
async def test_the_page_outlives_its_server(page: Page, server: Server, looks_right: Check):
    server.start(PAUSE="0.2")
    await page.goto(server.url)
    await looks_right("form")
    await page.fill("#subject", SUBJECT)
    await page.click("text=Send")
    await page.wait_for_function("bar.value >= 3")
    server.kill()
    await expect(page.locator("#connection")).to_have_text("reconnecting…")
    server.start(PAUSE="0")
    await expect(page.locator("#status")).to_have_text("completed")
    await expect(page.locator("#result")).to_have_text("50 letters")
    await expect(page.locator("#lines li")).to_have_count(50)
    await expect(page.locator("h1")).to_have_text(SUBJECT)
    await looks_right("completed")
    await page.reload()
    await expect(page.locator("#lines li")).to_have_count(50)
    await page.click("text=Newsletter")
    await expect(page.locator("ul li")).to_contain_text([SUBJECT])


@CI
@pytest.mark.parametrize("kind", ["flask run"])
async def test_the_page_cancels(page: Page, server: Server, data: Path):
    server.start(PAUSE="0.2")
    await page.goto(server.url)
    await page.click("text=Send")
    await page.wait_for_function("bar.value >= 1")
    await page.click("button")
    await expect(page.locator("#status")).to_have_text("cancelled")
    await expect(page.locator("button")).to_be_hidden()
    assert len(letters(data)) < 50
