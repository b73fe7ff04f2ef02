"""The ASGI application in real frameworks, under a real server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import AsyncExitStack
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import httpx2
import pytest

from durably import Durably, Step
from durably.errors import RunNotFoundError, StorageError
from durably.http import Refusal, Request
from durably.http.asgi import AsgiApp

from .asking import Asker
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
    return Litestar(route_handlers=[mounted], lifespan=[durably.lifespan], logging_config=None)


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
        assert (await client.get("/runs", params={"jobName": "x" * 255})).status_code == 200
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


async def follows_a_run(address: str) -> None:
    """A stream of a run is there to its end."""
    async with httpx2.AsyncClient(base_url=address, timeout=30) as client:
        body = {"jobName": "pack", "input": {"name": "Ada"}}
        run = {"runId": (await client.post("/trigger", json=body)).json()["runId"]}
        heard = await client.get("/subscribe", params=run)
        assert heard.status_code == 200, heard.text
        assert "run:complete" in heard.text


@pytest.mark.parametrize("opened_outside", [False, True])
async def test_an_application_may_be_served_again(tmp_path, opened_outside):
    durably = Durably(tmp_path / "app.db", durability="process")
    Jobs(durably)
    app = durably.asgi()
    async with AsyncExitStack() as stack:
        if opened_outside:
            await stack.enter_async_context(durably)
        for _ in range(3):
            async with serve(app, lifespan="off" if opened_outside else "on") as address:
                await follows_a_run(address)
                async with httpx2.AsyncClient(base_url=address, timeout=30) as client:
                    opening = client.stream("GET", "/runs/subscribe")  # open while the server stops
                    await stack.enter_async_context(opening)
    assert app.handler.streams == 0


async def test_a_handler_whose_streams_were_closed_has_them_again_once_it_is_opened_again(tmp_path):
    durably = Durably(tmp_path / "app.db", durability="process")
    asker = Asker(durably.handler())
    async with durably:
        asker.handler.close_streams()
        assert (await asker.peek("GET", "/runs/subscribe")).refusal == (503, "stopping")
    async with durably:
        assert (await asker.peek("GET", "/runs/subscribe")).status == 200


async def until_running(durably: Durably, run_id: str) -> None:
    async for event in durably.subscribe(run_id):
        if event.type == "run:start":
            return


def test_without_a_lifespan_the_first_request_opens_it_and_the_end_of_the_loop_hands_back(tmp_path):
    durably = Durably(tmp_path / "app.db", durability="process")
    app = durably.asgi()

    @durably.job("sleep")
    async def sleep(step: Step) -> None:
        await asyncio.sleep(3_600)

    async def serve_once() -> str:
        async with (
            serve(app, lifespan="off") as address,
            httpx2.AsyncClient(base_url=address, timeout=30) as client,
        ):
            healths = await asyncio.gather(*[client.get("/healthz") for _ in range(5)])
            assert [health.json()["worker"] for health in healths] == ["working"] * 5
            run_id = (await client.post("/trigger", json={"jobName": "sleep"})).json()["runId"]
            await until_running(durably, run_id)
        return run_id

    async def look(run_id: str) -> str:
        async with Durably(tmp_path / "app.db", worker=False) as other:
            return (await other.get_run(run_id)).status

    for _ in range(2):  # a serverless process may have a loop for each of its requests
        run_id = asyncio.run(serve_once())
        assert not durably.is_open
        assert asyncio.run(look(run_id)) == "pending"


async def test_what_the_first_request_has_in_its_context_stays_with_it(tmp_path):
    tenant: ContextVar[str] = ContextVar("tenant", default="")
    durably = Durably(tmp_path / "app.db", durability="process")

    @durably.job("ask")
    async def ask(step: Step) -> str:
        return tenant.get()

    async with serve(durably.asgi(), lifespan="off"):
        pass  # nobody asked: it is not opened
    assert not durably.is_open
    transport = httpx2.ASGITransport(durably.asgi())
    tenant.set("ann")
    async with httpx2.AsyncClient(base_url="http://localhost", transport=transport) as client:
        run_id = (await client.post("/trigger", json={"jobName": "ask"})).json()["runId"]
        assert (await durably.wait(run_id)).output == ""
    await durably.stop()


async def test_an_instance_that_its_application_stopped_stays_stopped(tmp_path):
    durably = Durably(tmp_path / "app.db", durability="process")
    transport = httpx2.ASGITransport(durably.asgi())
    async with httpx2.AsyncClient(base_url="http://localhost", transport=transport) as client:
        async with durably:
            assert (await client.get("/runs")).json() == []
        answer = await client.get("/runs")
        assert (answer.status_code, answer.json()["code"]) == (503, "not_started")


async def test_an_instance_that_cannot_open_is_tried_again_with_the_next_request(tmp_path, caplog):
    durably = Durably(tmp_path / "folder" / "app.db", durability="process")
    transport = httpx2.ASGITransport(durably.asgi())
    async with httpx2.AsyncClient(base_url="http://localhost", transport=transport) as client:
        answer = await client.get("/runs")
        assert (answer.status_code, answer.json()["code"]) == (503, "not_started")
        assert "folder" not in answer.text
        assert "could not be opened" in caplog.text
        (tmp_path / "folder").mkdir()
        assert (await client.get("/runs")).json() == []
    await durably.stop()


async def test_on_request_is_called_before_anything_else(tmp_path):
    durably = Durably(tmp_path / "app.db", durability="process")
    seen: list[str] = []

    async def on_request(request: Request) -> None:
        seen.append(request.path)
        if not durably.is_open:
            await durably.init()
        if request.headers.get("x-closed"):
            raise Refusal(403, "closed", "come back on Monday")

    asker = Asker(durably.handler(on_request=on_request), client="8.8.8.8")
    assert (await asker.get("/runs")).refusal == (403, "not_local")
    assert (await asker.get("/healthz")).status == 403
    assert (await asker.ask("GET", "/healthz", headers={"x-closed": "1"})).refusal == (
        403,
        "closed",
    )
    assert seen == ["/runs", "/healthz", "/healthz"]
    await durably.stop()


async def test_an_on_request_that_fails_is_the_servers_failure(durably, caplog):
    def on_request(request: Request) -> None:
        raise RunNotFoundError("secret")

    answer = await Asker(durably.handler(on_request=on_request)).get("/runs")
    assert answer.refusal == (500, "internal")
    assert "secret" not in answer.json["error"]
