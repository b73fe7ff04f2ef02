"""The ASGI application in real frameworks, under a real server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest

from durably import Durably
from durably.errors import StorageError
from durably.http.asgi import AsgiApp

from .conftest import Jobs
from .serving import serve, talk_to

MOUNT = "/api/durably"


def in_fastapi(durably: Durably) -> Any:
    from fastapi import FastAPI

    app = FastAPI(lifespan=durably.lifespan)
    app.mount(MOUNT, durably.asgi())
    return app


def in_starlette(durably: Durably) -> Any:
    from starlette.applications import Starlette
    from starlette.routing import Mount

    return Starlette(routes=[Mount(MOUNT, durably.asgi())], lifespan=durably.lifespan)


def deep_in_starlette(durably: Durably) -> Any:
    from starlette.applications import Starlette
    from starlette.routing import Mount

    inner = Starlette(routes=[Mount("/durably", durably.asgi())])
    return Starlette(routes=[Mount("/api", inner)], lifespan=durably.lifespan)


def in_litestar(durably: Durably) -> Any:
    from litestar import Litestar, asgi

    mounted = asgi(MOUNT, is_mount=True, copy_scope=True)(durably.asgi())
    return Litestar(route_handlers=[mounted], lifespan=[durably.lifespan])


def in_quart(durably: Durably) -> Any:
    from quart import Quart

    app, inner = Quart("app"), durably.asgi()
    outer = app.asgi_app

    async def dispatch(scope: Any, receive: Any, send: Any) -> None:
        ours = scope["type"] == "http" and scope["path"].startswith(MOUNT + "/")
        await (inner if ours else outer)(scope, receive, send)

    app.asgi_app = dispatch  # type: ignore[method-assign]
    app.before_serving(durably.init)
    app.after_serving(durably.stop)
    return app


def in_hypercorns_dispatcher(durably: Durably) -> Any:
    from hypercorn.middleware import DispatcherMiddleware

    return DispatcherMiddleware({MOUNT: durably.asgi()})


def beside_django(durably: Durably) -> Any:
    from django.conf import settings

    if not settings.configured:
        settings.configure(ROOT_URLCONF=__name__, SECRET_KEY="x", ALLOWED_HOSTS=["*"])
    from django.core.asgi import get_asgi_application

    django, inner = get_asgi_application(), durably.asgi()

    async def application(scope: Any, receive: Any, send: Any) -> None:
        ours = scope["path"].startswith(MOUNT + "/")
        await (inner if ours else django)(scope, receive, send)

    return _lives(durably, application)


urlpatterns: list[Any] = []


def by_itself(durably: Durably) -> Any:
    return durably.asgi()


def by_itself_elsewhere(durably: Durably) -> Any:
    return durably.asgi(base_path=MOUNT + "/")


def with_its_prefix_stripped(durably: Durably) -> Any:
    return _stripped(durably.asgi(base_path=""), "")


def with_its_prefix_stripped_and_told(durably: Durably) -> Any:
    return _stripped(durably.asgi(), MOUNT)


def _stripped(app: AsgiApp, root: str) -> Any:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            path = scope["path"].removeprefix(MOUNT)
            scope = {**scope, "path": path, "root_path": root}
        await app(scope, receive, send)

    return application


def _lives(durably: Durably, app: Any) -> Any:
    """An application with the instance's lifespan around it."""
    own = durably.asgi()

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await (own if scope["type"] == "lifespan" else app)(scope, receive, send)

    return application


WAYS: list[tuple[Callable[[Durably], Any], str]] = [
    (in_fastapi, ""),
    (in_fastapi, "/proxy"),
    (in_starlette, ""),
    (in_starlette, "/proxy"),
    (deep_in_starlette, ""),
    (deep_in_starlette, "/proxy"),
    (in_litestar, ""),
    (in_litestar, "/proxy"),
    (in_quart, ""),
    (in_hypercorns_dispatcher, ""),
    (beside_django, ""),
    (by_itself, ""),
    (by_itself, "/proxy"),
    (by_itself_elsewhere, ""),
    (with_its_prefix_stripped, ""),
    (with_its_prefix_stripped_and_told, ""),
]
"""How it is mounted, and the root path that the server was told."""


def closed(tmp_path: Path) -> Durably:
    """An instance with jobs that a server opens and closes."""
    durably = Durably(tmp_path / "app.db", polling_interval=0.05, durability="process")
    Jobs(durably)
    return durably


@pytest.mark.parametrize(("way", "root"), WAYS, ids=lambda value: getattr(value, "__name__", value))
async def test_it_is_found_wherever_it_is(tmp_path, way, root):
    durably = closed(tmp_path)
    options = {"root_path": root} if root else {}
    async with AsyncExitStack() as stack:
        address = await stack.enter_async_context(serve(way(durably), **options))
        client = await stack.enter_async_context(httpx2.AsyncClient(base_url=address + MOUNT))
        for path in ("/healthz", "/healthz/"):
            answer = await client.get(path)
            assert (answer.status_code, answer.json()["worker"]) == (200, "working")
        body = {"jobName": "pack", "input": {"name": "Ada"}}
        run_id = (await client.post("/trigger/", json=body)).json()["runId"]
        heard = await client.get("/subscribe", params={"runId": run_id})
        assert heard.headers["content-type"] == "text/event-stream"
        told = [json.loads(line[6:]) for line in heard.text.splitlines() if line[:6] == "data: "]
        assert told[-1]["type"] == "run:complete"
        assert (await client.get("/runs/", params={"jobName": "pack"})).json()[0]["id"] == run_id
        assert (await client.get("/nothing")).json()["code"] == "not_found"
        assert (await client.put("/run")).headers["allow"] == "HEAD, GET, DELETE"
        head = await client.head("/runs")
        assert int(head.headers["content-length"]) > 2
    assert not durably.is_working


async def test_an_instance_that_cannot_open_stops_the_server(tmp_path):
    (tmp_path / "app.db").write_bytes(b"this is no database" * 1000)
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "lifespan.startup"}

    async def send(message: Any) -> None:
        sent.append(message)

    with pytest.raises(StorageError):
        await closed(tmp_path).asgi()({"type": "lifespan"}, receive, send)
    assert [message["type"] for message in sent] == ["lifespan.startup.failed"]
    assert "app.db" in sent[0]["message"]  # for the server's log


async def test_websockets_are_refused(durably):
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    await durably.asgi()({"type": "websocket", "path": "/"}, None, send)  # type: ignore[arg-type]
    assert [message["type"] for message in sent] == ["websocket.close"]


class Ears:
    """Authenticates by a cookie, and remembers all that it saw."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def authenticate(self, request: Any) -> str:
        self.seen.append(request)
        return "u1"

    def scope(self, principal: str) -> str:
        return "t1"


async def test_what_a_hook_sees_of_the_request(durably):
    ears = Ears()
    app = durably.asgi(auth=ears)
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/api/durably/runs",
        "query_string": b"limit=5&label.a=%C3%A9&label.b=\xc3\xa9&label.c=",
        "headers": [(b"Cookie", b"a=1"), (b"cookie", b"b=2"), (b"x-a", b"1"), (b"x-a", b"2")],
        "client": ("10.0.0.1", 5),
        "user": "from a middleware",
    }
    await app(scope, receive, send)
    (request,) = ears.seen
    assert request.query == [("limit", "5"), ("label.a", "é"), ("label.b", "é"), ("label.c", "")]
    assert request.headers == {"cookie": "a=1; b=2", "x-a": "1, 2"}
    assert (request.path, request.client, request.server["user"]) == (
        "/runs",
        "10.0.0.1",
        "from a middleware",
    )
    assert sent[0]["status"] == 400  # label.c is empty


async def test_a_client_that_leaves_in_the_middle_of_a_body_changes_nothing(durably, jobs):
    pieces = [
        {"type": "http.request", "body": b'{"jobName":', "more_body": True},
        {"type": "http.disconnect"},
    ]

    async def receive() -> Any:
        return pieces.pop(0)

    async def send(message: Any) -> None:
        pass

    headers = [(b"content-type", b"application/json"), (b"host", b"localhost")]
    scope = {"type": "http", "method": "POST", "path": "/trigger", "headers": headers}
    await durably.asgi()({**scope, "client": ("127.0.0.1", 1)}, receive, send)
    assert await durably.get_runs() == []


def post(path: str, body: bytes, *headers: bytes) -> bytes:
    lines = [b"POST /api/durably%b HTTP/1.1" % path.encode(), b"host: localhost", b"connection: close",
             b"content-type: application/json", *headers]  # fmt: skip
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


async def test_a_body_without_a_length_that_is_too_large(tmp_path):
    durably = closed(tmp_path)
    async with serve(durably.asgi()) as address:
        piece = b"10000\r\n" + b"x" * 65_536 + b"\r\n"
        told = await talk_to(address, post("/trigger", piece * 64, b"transfer-encoding: chunked"))
        assert told.startswith(b"HTTP/1.1 413 ")
        assert b'"code":"too_large"' in told
        good = b'{"jobName":"tick"}'
        chunked = b"".join(b"1\r\n%c\r\n" % byte for byte in good) + b"0\r\n\r\n"
        told = await talk_to(address, post("/trigger", chunked, b"transfer-encoding: chunked"))
        assert told.startswith(b"HTTP/1.1 200 ")


async def test_a_query_that_is_too_long(tmp_path):
    durably = closed(tmp_path)
    async with serve(durably.asgi()) as address, httpx2.AsyncClient(base_url=address) as client:
        answer = await client.get("/runs", params={"cursor": "x" * 9_000})
        assert (answer.status_code, answer.json()["code"]) == (414, "query_too_long")
        assert (await client.get("/runs", params={"cursor": "x" * 255})).status_code == 200
        answer = await client.get("/runs?" + "&".join(["jobName=a"] * 201))
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")


async def test_streams_end_when_the_server_is_told_to_stop(tmp_path):
    durably = closed(tmp_path)
    async with httpx2.AsyncClient(timeout=30) as client:
        async with serve(durably.asgi()) as address:
            request = client.build_request("GET", address + "/runs/subscribe")
            heard = await client.send(request, stream=True)
        told = b"".join([chunk async for chunk in heard.aiter_raw()])
    assert told.startswith(b"id: 0\nretry: ")
    assert not durably.is_working


async def test_a_client_that_leaves_is_forgotten(tmp_path):
    durably = closed(tmp_path)
    app = durably.asgi()
    async with serve(app) as address, httpx2.AsyncClient(base_url=address) as client:
        for _ in range(5):
            async with client.stream("GET", "/runs/subscribe") as heard:
                assert heard.status_code == 200
        async with asyncio.timeout(30):
            while app.handler.streams:
                await asyncio.sleep(0.01)
