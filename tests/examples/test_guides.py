"""The applications that the server guide shows, under the servers that it names; the page of the events guide."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from tests.docs import blocks as doc

from .server import CI, Server

GUIDE = doc.ROOT / "docs/guides/server.md"
UVICORN = ["uvicorn", "--port", "{port}"]
APPLICATIONS = {
    "fastapi_app": [*UVICORN, "fastapi_app:app"],
    "starlette_app": [*UVICORN, "starlette_app:app"],
    "litestar_app": [*UVICORN, "litestar_app:app"],
    "quart_app": ["hypercorn", "--bind", "127.0.0.1:{port}", "quart_app:app"],
    "django_asgi": [*UVICORN, "django_asgi:application"],
    "django_wsgi": [
        "gunicorn", "--threads", "4", "--bind", "127.0.0.1:{port}", "--no-control-socket",
        "django_wsgi:application",
    ],
    "flask_app": ["flask", "--app", "flask_app:app", "run", "--port", "{port}"],
    "bare_app": [*UVICORN, "bare_app:app"],
}  # fmt: skip
FILES = {
    block.text.split()[1]: block.text
    for block in doc.blocks(GUIDE)
    if block.language == "python" and block.text.startswith("# ")
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What the guide's reader has saved."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


QUICK = ("fastapi_app", "django_wsgi")  # tests/http mounts the others as well


@pytest.fixture(
    params=[pytest.param(name, marks=() if name in QUICK else CI) for name in APPLICATIONS]
)
def server(request: pytest.FixtureRequest, folder: Path) -> Iterator[Server]:
    server = Server([sys.executable, "-m", *APPLICATIONS[request.param]], folder)
    server.start()
    yield server
    server.kill()


def test_every_application_of_the_guide_is_served() -> None:
    others = {"jobs.py", "settings.py", "web.py"}
    assert {name for name in FILES if name not in others} == {f"{name}.py" for name in APPLICATIONS}


def test_an_application_of_the_guide(server: Server) -> None:
    run_id = server.ask("POST", "/trigger", {"jobName": "double", "input": 21})["runId"]
    frames = list(server.stream("/subscribe", runId=run_id, after=0))
    assert [frame.event["type"] for frame in frames if frame.id] == [
        "run:trigger",
        "run:start",
        "log:write",
        "step:complete",
        "run:complete",
    ]
    assert frames[-1].event["output"] == 42
    assert server.ask("GET", "/healthz")["worker"] == "working"


def test_a_web_process_and_a_worker(folder: Path) -> None:
    """web.py triggers and watches what a worker of its own executes."""
    web = Server([sys.executable, "-m", *UVICORN, "web:app"], folder)
    worker = Server([sys.executable, "-m", "durably.cli", "worker", "jobs:durably"], folder)
    try:
        web.start()
        assert web.ask("GET", "/healthz")["worker"] == "none"
        run_id = web.ask("POST", "/trigger", {"jobName": "double", "input": 21})["runId"]
        worker.launch()
        frames = list(web.stream("/subscribe", runId=run_id, after=0))
        assert frames[-1].event["output"] == 42
    finally:
        web.kill()
        worker.kill()


SITE = """
import asyncio, os
from fastapi import FastAPI
from fastapi.responses import FileResponse
from durably import Durably, Step

durably = Durably("jobs.db")


@durably.job("slow")
async def slow(step: Step, broken: bool) -> None:
    for n in range(20):
        await step.run(f"step-{n}", asyncio.sleep, float(os.environ["PAUSE"]))
        step.progress(n + 1, 20)
    if broken and step.attempt == 1:
        raise RuntimeError("it is broken")


app = FastAPI(lifespan=durably.lifespan)
app.mount("/api/durably", durably.asgi())


@app.get("/")
def page() -> FileResponse:
    return FileResponse("page.html")
"""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Server]:
    """The page of the events guide."""
    (block,) = [
        it for it in doc.blocks(doc.ROOT / "docs/guides/events.md") if it.language == "html"
    ]
    (tmp_path / "page.html").write_text(block.text)
    (tmp_path / "site_app.py").write_text(SITE)
    site = Server([sys.executable, "-m", *UVICORN, "site_app:app"], tmp_path)
    yield site
    site.kill()


async def test_the_page_of_the_guide_outlives_its_server(site: Server, page: Page) -> None:
    site.start(PAUSE="0.2")
    run_id = site.ask("POST", "/trigger", {"jobName": "slow", "input": False})["runId"]
    await page.goto(f"{site.url}/?runId={run_id}")
    await page.wait_for_function("bar.value >= 2")
    site.kill()
    site.start(PAUSE="0")
    await expect(page.locator("p")).to_have_text("run:complete")
    assert await page.evaluate("bar.value === bar.max")
    await page.wait_for_function("source.readyState === EventSource.CLOSED")


@CI
async def test_the_page_of_the_guide_shows_a_run_that_was_retried(site: Server, page: Page) -> None:
    site.start(PAUSE="0")
    run_id = site.ask("POST", "/trigger", {"jobName": "slow", "input": True})["runId"]
    assert site.finished(run_id)["status"] == "failed"
    site.ask("POST", "/retry", runId=run_id)
    assert site.finished(run_id)["status"] == "completed"
    await page.goto(f"{site.url}/?runId={run_id}")
    await expect(page.locator("p")).to_have_text("run:complete")
    await page.wait_for_function("source.readyState === EventSource.CLOSED")
