"""Two workers and a web process on one PostgreSQL: one is killed on the page, the other takes its films over."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page, expect

from tests import postgres

from .conftest import Check
from .server import CI, ROOT, Server

MAIN = ROOT / "examples/postgres_workers/main.py"
FRAMES = 24


@pytest.fixture
def url() -> Iterator[str]:
    made = asyncio.run(postgres.create_database())
    yield made
    asyncio.run(postgres.drop_database(made))


def command(data: Path, **env: str) -> Server:
    return Server([sys.executable, "-W", "error", str(MAIN)], DATA=str(data), PORT="{port}", **env)


@pytest.fixture
def server(url: str, tmp_path: Path) -> Iterator[Server]:
    """Not started yet: each test says how fast it renders."""
    server = command(tmp_path / "data", DATABASE_URL=url)
    yield server
    server.kill()


def processes(server: Server) -> dict[str, int | None]:
    _, answer, _ = server.send("GET", "/workers")
    return json.loads(answer)


def both_alive(server: Server) -> Any:
    server.wait_for(lambda: all(processes(server).values()), "a worker is dead")


def made_by(server: Server, run_id: str) -> list[str]:
    """Who committed each frame of a film."""
    steps = server.ask("GET", "/steps", runId=run_id)
    assert [step["name"] for step in steps] == [f"frame-{n}" for n in range(len(steps))]
    return [step["output"]["worker"] for step in steps]


async def test_a_killed_workers_films_are_taken_over(
    page: Page, server: Server, looks_right: Check
) -> None:
    server.start(PAUSE="0.4", RESTART="3600")
    both_alive(server)
    await page.goto(server.url)
    await expect(page.locator("#connection")).to_have_text("live")
    await expect(page.locator("#worker-A .process")).to_have_text(
        f"Worker A, process {processes(server)['A']}"
    )
    await looks_right("empty")

    await page.click("#four")
    for name in "AB":
        await expect(page.locator(f"#worker-{name} .doing")).to_contain_text("renders Film")
    await expect(page.locator(".strip [data-worker=A]").nth(3)).to_be_attached()
    films = server.ask("GET", "/runs")
    before = {film["id"]: made_by(server, film["id"]) for film in films}
    lost = [run_id for run_id, workers in before.items() if "A" in workers]
    assert lost
    await page.click("#worker-A button")
    await expect(page.locator("#worker-A .process")).to_have_text("Worker A is dead")
    await expect(page.locator("#worker-A .doing")).to_contain_text("behind")
    await looks_right("killed")

    await expect(page.locator(".badge", has_text="attempt 2")).to_have_count(len(lost))
    await expect(page.locator(".film[data-status=completed]")).to_have_count(4)
    for run_id, workers in before.items():
        after = "".join(made_by(server, run_id))
        assert len(after) == FRAMES
        assert after.startswith("".join(workers)), "what was committed stays"
        assert re.fullmatch("A+B+" if run_id in lost else "B+", after)
    shown = page.locator(".strip").first
    await expect(shown).to_have_attribute(
        "aria-label", re.compile(f"^{FRAMES} of {FRAMES} frames: ")
    )
    await looks_right("completed")


async def test_a_page_outlives_everything_and_a_dead_worker_comes_back(
    page: Page, server: Server
) -> None:
    server.start(PAUSE="0.3", RESTART="0.1")
    both_alive(server)
    await page.goto(server.url)
    await page.click("#one")
    await expect(page.locator(".strip [data-worker]").nth(2)).to_be_attached()
    first = processes(server)
    server.kill()
    await expect(page.locator("#connection")).to_have_text("reconnecting…")
    server.start(PAUSE="0")
    await expect(page.locator("#connection")).to_have_text("live")
    await expect(page.locator(".film[data-status=completed] .badge")).to_have_text(
        "completed, attempt 2"
    )
    both_alive(server)
    again = processes(server)
    assert set(again.values()).isdisjoint(first.values())
    server.send("POST", "/workers/A/kill", x_demo="1")
    server.wait_for(
        lambda: processes(server)["A"] not in (None, again["A"]), "A does not come back"
    )


async def test_nobody_else_kills_a_worker(server: Server) -> None:
    server.start()
    both_alive(server)
    before = processes(server)
    assert server.send("POST", "/workers/A/kill")[0] == 422, (
        "a form of another site has no such header"
    )
    assert server.send("POST", "/workers/A/kill", x_demo="1", host="evil.example")[0] == 400
    assert server.send("POST", "/workers/C/kill", x_demo="1")[0] == 422
    assert processes(server) == before


@CI
def test_it_brings_its_own_postgres_and_stops_with_all_of_it() -> None:
    data = Path(tempfile.mkdtemp(prefix="durably-example-"))
    data.chmod(0o755)  # as root the server runs as nobody
    server = command(data, PAUSE="0")
    try:
        for films in (1, 2):
            server.start()
            both_alive(server)
            body = json.dumps({"jobName": "render", "input": "Film"}).encode()
            status, answer, _ = server.send(
                "POST", "/api/durably/trigger", body, content_type="application/json"
            )
            assert status == 200
            assert server.finished(json.loads(answer)["runId"])["status"] == "completed"
            assert len(server.ask("GET", "/runs")) == films, "it keeps its data"
            assert server.kill(signal.SIGTERM) == 0
            assert list((data / "workers").iterdir()) == []
            assert not (data / "postgres/data/postmaster.pid").exists()
    finally:
        server.kill()
        shutil.rmtree(data, ignore_errors=True)
