"""The WSGI application in real frameworks, under a real server."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest

from durably import Durably
from durably.http import Limits
from durably.http.wsgi import limits_of_threads

from .conftest import Jobs
from .serving import serve_wsgi

MOUNT = "/api/durably"


def in_flask(durably: Durably) -> Any:
    from flask import Flask
    from werkzeug.middleware.dispatcher import DispatcherMiddleware

    app = Flask("app")
    app.wsgi_app = DispatcherMiddleware(app.wsgi_app, {MOUNT: durably.wsgi()})  # type: ignore[method-assign]
    return app


def beside_django(durably: Durably) -> Any:
    from django.conf import settings

    if not settings.configured:
        settings.configure(ROOT_URLCONF=__name__, SECRET_KEY="x", ALLOWED_HOSTS=["*"])
    from django.core.wsgi import get_wsgi_application

    django, inner = get_wsgi_application(), durably.wsgi()

    def application(environ: Any, start_response: Any) -> Any:
        ours = environ["PATH_INFO"].startswith(MOUNT + "/")
        return (inner if ours else django)(environ, start_response)

    return application


urlpatterns: list[Any] = []


def by_itself(durably: Durably) -> Any:
    return durably.wsgi()


WAYS: list[Callable[[Durably], Any]] = [in_flask, beside_django, by_itself]


@pytest.fixture
def durably(tmp_path: Path):
    durably = Durably(tmp_path / "app.db", polling_interval=0.05, durability="process")
    Jobs(durably)
    yield durably
    durably.sync().stop(0)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_it_is_found_wherever_it_is(durably, way):
    with (
        serve_wsgi(way(durably)) as address,
        httpx2.Client(base_url=address + MOUNT, timeout=30) as client,
    ):
        for path in ("/healthz", "/healthz/"):
            assert client.get(path).json()["worker"] == "working"
        body = {"jobName": "pack", "input": {"name": "Ada"}}
        run_id = client.post("/trigger/", json=body).json()["runId"]
        heard = client.get("/subscribe", params={"runId": run_id})
        assert heard.headers["content-type"] == "text/event-stream"
        told = [json.loads(line[6:]) for line in heard.text.splitlines() if line[:6] == "data: "]
        assert told[-1]["type"] == "run:complete"
        assert client.get("/runs/", params={"jobName": "pack"}).json()[0]["id"] == run_id
        assert client.get("/nothing").json()["code"] == "not_found"
        assert client.put("/run").headers["allow"] == "HEAD, GET, DELETE"
        assert int(client.head("/runs").headers["content-length"]) > 2


def ask(durably: Durably, **environ: Any) -> tuple[str, dict[str, str], bytes]:
    """One request, without a server."""
    said: list[Any] = []
    given = {
        "REQUEST_METHOD": "GET",
        "REMOTE_ADDR": "127.0.0.1",
        "HTTP_HOST": "localhost",
        "wsgi.input": io.BytesIO(environ.pop("body", b"")),
        **environ,
    }
    body = durably.wsgi()(given, lambda *args: said.extend(args))
    return said[0], dict(said[1]), b"".join(body)


def test_bytes_of_paths_and_queries_are_utf8(durably):
    status, _, body = ask(durably, PATH_INFO="/runs", QUERY_STRING="jobName=gr\xc3\xb6%C3%9Fe")
    assert (status, body) == ("200 OK", b"[]")
    for query in ("jobName=\xff", "jobName=%FF", "jobName=%ED%A0%80"):
        status, _, body = ask(durably, PATH_INFO="/runs", QUERY_STRING=query)
        assert status == "400 Bad Request"
    assert ask(durably, PATH_INFO="/r\xc3\xb6")[0] == "404 Not Found"
    assert ask(durably, PATH_INFO="/\xff\xfe\x00")[0] == "404 Not Found"


@pytest.mark.parametrize("length", [None, "", "x", "-5", "9" * 5_000, "19"])
def test_lengths_of_bodies(durably, length):
    given = {} if length is None else {"CONTENT_LENGTH": length}
    status, _, body = ask(
        durably,
        REQUEST_METHOD="POST",
        PATH_INFO="/trigger",
        CONTENT_TYPE="application/json",
        body=b'{"jobName": "tick"}',
        **given,
    )
    expected = {"19": 200, "9" * 5_000: 413}.get(length or "", 400)
    assert status[:3] == str(expected), body


def test_a_body_that_is_too_large(durably):
    headers = {"content-type": "application/json"}
    with (
        serve_wsgi(durably.wsgi()) as address,
        httpx2.Client(base_url=address, timeout=30) as client,
    ):
        answer = client.post("/trigger", content=b"x" * 3_000_000, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


def test_a_stream_holds_a_thread_and_lets_it_go(durably):
    app = durably.wsgi()
    with serve_wsgi(app) as address, httpx2.Client(base_url=address, timeout=30) as client:
        body = {"jobName": "hold", "input": {"name": "x"}}
        run = {"runId": client.post("/trigger", json=body).json()["runId"]}
        with client.stream("GET", "/subscribe", params=run) as heard:
            parts = heard.iter_raw()
            assert b"run:start" in next(part for part in parts if b"data: " in part)
            assert app.handler.streams == 1
            client.post("/cancel", params=run, headers={"x-durably": "1"}).raise_for_status()
            assert b"run:cancel" in b"".join(parts)
        assert app.handler.streams == 0


def test_the_thread_of_a_client_that_left_is_free_again_before_the_next_pings_of_other_servers(
    durably,
):
    app = durably.wsgi()
    late = time.monotonic() + Limits().ping - 1
    with serve_wsgi(app) as address, httpx2.Client(base_url=address, timeout=30) as client:
        for _ in range(4):
            with client.stream("GET", "/runs/subscribe") as heard:
                assert heard.status_code == 200
        while app.handler.streams:
            assert time.monotonic() < late
            time.sleep(0.05)


def test_streams_leave_threads_to_other_requests(durably):
    app = durably.wsgi()
    with ExitStack() as stack:
        address = stack.enter_context(serve_wsgi(app))
        client = stack.enter_context(httpx2.Client(base_url=address, timeout=30))
        answers = [stack.enter_context(client.stream("GET", "/runs/subscribe")) for _ in range(13)]
        assert [answer.status_code for answer in answers] == [200] * 12 + [503]
    assert limits_of_threads(Limits(streams=3, ping=60)) == Limits(streams=3, ping=2)
    assert limits_of_threads(Limits(ping=0.5)).ping == 0.5
