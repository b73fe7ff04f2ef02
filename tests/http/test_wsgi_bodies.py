"""A WSGI server's threads are few: nobody holds one by announcing a body and sending none."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest

from durably import Durably
from durably.http import Auth, Request
from tests.ports import free_port

from .conftest import Jobs

THREADS = 4
APP = """
import sys
sys.path.insert(0, {here!r})
from tests.http.test_wsgi_bodies import Known
from durably import Durably, Step

durably = Durably({database!r})

@durably.job("echo")
async def echo(step: Step, input: dict) -> dict:
    return input

app = durably.wsgi(auth=Known())
"""


class Known(Auth[str]):
    """Knows Ann, who may do everything."""

    async def authenticate(self, request: Request) -> str | None:
        return request.headers.get("authorization")

    def scope(self, principal: str) -> str:
        return principal


class Never(io.RawIOBase):
    """A body that does not come: reading it fails the test."""

    def read(self, size: int = -1) -> bytes:
        raise AssertionError("it was read")


@pytest.fixture
def durably(tmp_path: Path) -> Iterator[Durably]:
    durably = Durably(tmp_path / "app.db", durability="process")
    Jobs(durably)
    yield durably
    durably.sync().stop(0)


def ask(app: Any, **environ: Any) -> tuple[int, Any]:
    """One request, without a server: the status and the JSON."""
    given: dict[str, Any] = {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": "/trigger",
        "REMOTE_ADDR": "127.0.0.1",
        "HTTP_HOST": "localhost",
        "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": "1000",
        "wsgi.input": Never(),
        **environ,
    }
    said: list[Any] = []
    body = b"".join(app(given, lambda *args: said.extend(args)))
    return int(said[0][:3]), json.loads(body)


@pytest.mark.parametrize(
    ("status", "environ"),
    [
        (401, {}),
        (404, {"PATH_INFO": "/nothing"}),
        (405, {"REQUEST_METHOD": "PUT"}),
        (415, {"CONTENT_TYPE": "text/plain"}),
        (403, {"HTTP_SEC_FETCH_SITE": "cross-site"}),
        (413, {"HTTP_AUTHORIZATION": "Ann", "CONTENT_LENGTH": "99999999"}),
        (404, {"HTTP_AUTHORIZATION": "Ann", "PATH_INFO": "/cancel", "QUERY_STRING": "runId=x"}),
        (200, {"HTTP_AUTHORIZATION": "Ann", "REQUEST_METHOD": "GET", "PATH_INFO": "/runs"}),
        (200, {"REQUEST_METHOD": "GET", "PATH_INFO": "/healthz"}),
    ],
)
def test_a_body_that_nobody_needs_is_not_read(durably, status, environ):
    assert ask(durably.wsgi(auth=Known()), **environ)[0] == status


def test_a_body_is_read_whole_and_no_further(durably):
    body = json.dumps({"jobName": "echo", "input": ["ä" * 100_000]}).encode()
    source = io.BytesIO(body + b"the next request")
    environ = {"wsgi.input": source, "CONTENT_LENGTH": str(len(body))}
    status, answer = ask(durably.wsgi(auth=Known()), HTTP_AUTHORIZATION="Ann", **environ)
    assert (status, answer["disposition"]) == (200, "created")
    assert source.read() == b"the next request"


class Torn(io.RawIOBase):
    """A client that leaves in the middle."""

    def read(self, size: int = -1) -> bytes:
        raise ConnectionResetError("gone")


@pytest.mark.parametrize("source", [Torn(), io.BytesIO(b'{"jobName":"tick"}')])
def test_a_body_that_breaks_off_is_refused(durably, source):
    app = durably.wsgi()
    status, answer = ask(app, **{"wsgi.input": source})
    assert (status, answer["code"]) == (400, "incomplete")
    status, answer = ask(app, REQUEST_METHOD="GET", PATH_INFO="/runs", CONTENT_LENGTH="")
    assert (status, answer) == (200, [])


def test_a_hook_may_read_the_body_first(durably):
    class Signed(Known):
        async def authenticate(self, request: Request) -> str | None:
            return "Ann" if b"tick" in await request.read(1_000) else None

    body = b'{"jobName":"tick"}'
    environ = {"wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body))}
    assert ask(durably.wsgi(auth=Signed()), **environ)[0] == 200


def test_strangers_who_send_no_body_do_not_hold_gunicorns_threads(tmp_path):
    text = APP.format(here=os.getcwd(), database=str(tmp_path / "app.db"))
    (tmp_path / "served.py").write_text(text)
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "served:app", "--threads", str(THREADS)]
    command += ["--bind", f"127.0.0.1:{port}", "--chdir", str(tmp_path), "--log-level", "error"]
    server = subprocess.Popen(command)
    request = b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
    try:
        transport = httpx2.HTTPTransport(retries=10)
        with (
            ExitStack() as open_,
            httpx2.Client(
                base_url=f"http://127.0.0.1:{port}", timeout=60, transport=transport
            ) as client,
        ):
            while True:
                try:
                    client.get("/healthz").raise_for_status()
                    break
                except httpx2.ConnectError:
                    assert server.poll() is None
            for path in (b"/trigger", b"/nothing", b"/cancel", b"/trigger") * 2:
                stranger = socket.create_connection(("127.0.0.1", port), timeout=60)
                open_.enter_context(stranger)
                stranger.sendall(request % path)
                assert stranger.recv(100).split(b" ")[1] in (b"401", b"404")
            assert client.get("/healthz").json()["status"] == "ok"
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(60)
