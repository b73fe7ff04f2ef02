"""Requests: tried again where that is harmless, refused in words that say what to do."""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import httpx2
import pytest

from durably.client import (
    DurablyClient,
    RequestRefusedError,
    ServerError,
    ServerUnavailableError,
)
from durably.client.connection import LONGEST_PAUSE, LONGEST_RETRY_AFTER, Backoff
from durably.errors import ConfigurationError, DurablyError, RunCancelledError, WaitTimeoutError
from durably.runtime import Runtime
from durably.wire.runs import run_from_wire
from tests.ports import free_port

from .places import Canned, answer

AT = "2026-01-01T00:00:00.000Z"
JOBS = answer("200 OK", "[]")


class NoTime(Runtime):
    """Sleeps are written down instead."""

    def __init__(self) -> None:
        super().__init__()
        self.slept: list[float] = []

    async def sleep(self, delay: float) -> None:
        self.slept.append(delay)


@asynccontextmanager
async def against(*answers: bytes, **options: Any) -> AsyncIterator[tuple[DurablyClient, Canned]]:
    canned = Canned(*answers)
    async with canned.open() as url, DurablyClient(url, **options) as client:
        yield client, canned


async def test_pauses_double_are_random_and_end_somewhere() -> None:
    runtime = NoTime()
    for _ in range(200):
        backoff = Backoff(runtime)
        for _ in range(12):
            await backoff.wait()
    by_try = [runtime.slept[n::12] for n in range(12)]
    for n, slept in enumerate(by_try):
        bound = min(LONGEST_PAUSE, 0.5 * 2**n)
        assert 0 <= min(slept) < bound / 4
        assert bound * 3 / 4 < max(slept) <= bound


async def test_a_server_may_wish_for_a_pause() -> None:
    runtime = NoTime()
    backoff = Backoff(runtime)
    await backoff.wait(retry_after=5.0)
    await backoff.wait(retry_after=1e9)
    assert 5.0 <= runtime.slept[0] <= 5.5
    assert LONGEST_RETRY_AFTER <= runtime.slept[1] <= LONGEST_RETRY_AFTER + 1
    backoff.set_retry(0)
    for _ in range(100):
        backoff.failures = 0
        await backoff.wait()
    assert max(runtime.slept[-100:]) > 0.05, "nobody hammers, whatever the server says"
    backoff = Backoff(runtime)
    backoff.set_retry(86_400_000)  # "no more to come"
    await backoff.wait()
    assert runtime.slept[-1] <= 0.5


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("status", ["502 Bad Gateway", "503 Service Unavailable", "504 Timeout"])
async def test_a_server_that_is_away_for_a_moment(status: str) -> None:
    away = answer(status, "<html>", kind="text/html")
    async with against(away, away, JOBS) as (client, canned):
        assert await client.get_jobs() == []
        assert len(canned.requests) == 3
    async with against(away) as (client, canned):
        with pytest.raises(ServerUnavailableError, match=status[:3]) as found:
            await client.get_jobs()
        assert found.value.status == int(status[:3])
        assert len(canned.requests) == 4
        with pytest.raises(ServerUnavailableError):
            await client.trigger("work")
        assert len(canned.requests) == 5, "it may have been triggered: not sent again"


async def test_too_many_requests_were_not_done() -> None:
    busy = answer("429 Too Many", '{"error": "slowly", "code": "busy"}', "retry-after: 0")
    done = answer("200 OK", '{"runId": "r", "disposition": "created"}')
    gone = answer("404 Not Found", '{"error": "no such run", "code": "run_not_found"}')
    async with against(busy, done, gone, retries=1) as (client, canned):
        with pytest.raises(RequestRefusedError, match=r"run r .* but reading it is not allowed"):
            await client.trigger("work")
        assert [request.split()[0] for request in canned.requests] == [b"POST", b"POST", b"GET"]


@pytest.mark.parametrize(
    ("reply", "error", "says"),
    [
        (answer("401 No", '{"error": "authentication required", "code": "unauthenticated"}'),
         RequestRefusedError, "authentication required; pass headers= or auth="),
        (answer("403 No", '{"error": "not allowed", "code": "not_allowed"}'),
         RequestRefusedError, "was refused (403): not allowed"),
        (answer("409 No", '{"error": "this key is taken", "code": "conflict"}'),
         RequestRefusedError, "was refused (409): this key is taken"),
        (answer("404 Not Found", "<html>", kind="text/html"),
         RequestRefusedError, "was refused (404): Not Found; the URL must be that of the API"),
        (answer("308 Moved", "", "location: /elsewhere"),
         RequestRefusedError, "pass the URL that it redirects to"),
        (answer("500 Oh", '{"error": "something went wrong", "code": "internal"}'),
         ServerError, "the server failed (500 something went wrong)"),
        (answer("200 OK", "<html>", kind="text/html"),
         ServerError, "was answered with text/html; the URL must be"),
        (answer("200 OK", '{"some": "thing"}'), ServerError, "not a Durably server"),
        (answer("200 OK", "[7]"), ServerError, "not a Durably server"),
        (answer("200 OK", "[" * 100_000), ServerError, "not a Durably server"),
        (answer("400 No", '["odd"]'), RequestRefusedError, "was refused (400): No"),
        (answer("400 No", json.dumps({"error": "x" * 10_000})), RequestRefusedError, "xxx"),
        (answer("400 No", '{"error": "bad limit", "code": "invalid_request"}'),
         ConfigurationError, "bad limit"),
    ],
)  # fmt: skip
async def test_what_a_server_may_say(reply: bytes, error: type[DurablyError], says: str) -> None:
    async with against(reply) as (client, canned):
        with pytest.raises(error) as found:
            await client.get_jobs()
        assert type(found.value) is error
        assert says in str(found.value)
        assert len(str(found.value)) < 1_000
        assert len(canned.requests) == 1


async def test_a_stream_that_is_none() -> None:
    for reply, says in (
        (JOBS, "was answered with application/json"),
        (
            answer("200 OK", "data: 7\n\n", kind="text/event-stream"),
            "this version of Durably cannot decode",
        ),
        (
            answer("200 OK", "data: {\n\n", kind="text/event-stream"),
            "this version of Durably cannot decode",
        ),
        (
            answer("200 OK", 'data: {"type": "run:start"}\n\n', kind="text/event-stream"),
            "cannot decode",
        ),
    ):
        async with against(reply) as (client, _):
            with pytest.raises(ServerError, match=says):
                await anext(client.subscribe("r"))
    async with against(answer("401 No", '{"error": "who?"}')) as (client, _):
        with pytest.raises(RequestRefusedError, match=r"who\?"):
            await anext(client.subscribe_runs())


@pytest.mark.usefixtures("impatient")
async def test_events_of_a_later_version_are_passed_over() -> None:
    async with against(told((1, "run:later"), (2, "run:cancel"))) as (client, _):
        assert [event.type async for event in client.subscribe("r")] == ["run:cancel"]


@pytest.mark.usefixtures("impatient")
async def test_what_only_a_later_version_sends_is_passed_over_by_both_kinds_of_streams() -> None:
    common = {"runId": "r", "jobName": "j", "labels": {}, "timestamp": AT, "sequence": None}
    known = {"type": "run:cancel", **common, "sequence": 7, "reason": {"later": True}}
    frames = [
        'event: notice\ndata: {"type": "run:cancel"}\n\n',
        f"event: notice\ndata: {json.dumps(known)}\n\n",
        "event: notice\ndata: not JSON\n\n",
        'data: {"type": "server:notice", "text": "back at noon"}\n\n',
        f"data: {json.dumps({**common, 'type': 'step:wait'})}\n\n",
        "weather: fine\nid: 7\n: so it is\n\n",
        f"data: {json.dumps(known)}\n\n",
    ]
    stream = answer("200 OK", "".join(frames), kind="text/event-stream")
    async with against(stream) as (client, _):
        assert [event.type async for event in client.subscribe("r")] == ["run:cancel"]
    async with against(stream) as (client, _), aclosing(client.subscribe_runs()) as events:
        told = [(await anext(events)).type for _ in range(3)]
    assert told == ["runs:resync", "step:wait", "run:cancel"]


@pytest.mark.usefixtures("impatient")
async def test_a_server_that_is_gone_is_not_asked_again_when_the_time_is_over() -> None:
    asked: list[str] = []

    class Gone(httpx2.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            asked.append(request.url.path)
            raise httpx2.ConnectError("refused")

    async with DurablyClient("http://gone/api", retries=10**6, transport=Gone()) as client:
        run = run_from_wire(json.loads(of_run("running").partition(b"\r\n\r\n")[2]))
        with pytest.raises(WaitTimeoutError):
            await client.wait(run, timeout=0.1)
        assert set(asked) == {"/api/subscribe"}


async def test_lists_of_a_run_are_asked_for_page_by_page() -> None:
    step = {
        "id": "r:0",
        "runId": "r",
        "output": None,
        "error": None,
        "startedAt": AT,
        "completedAt": AT,
    }
    first = [{**step, "name": "b", "index": 1, "status": "failed", "error": "no"},
             {**step, "name": "a", "index": 0, "status": "completed"}]  # fmt: skip
    second = [{**step, "name": "b", "index": 1, "status": "completed"}]
    pages = (
        answer("200 OK", json.dumps(first), "durably-next-cursor: 41"),
        answer("200 OK", json.dumps(second)),
    )
    async with against(*pages) as (client, canned):
        steps = await client.get_steps("r")
        assert [(step.name, step.status) for step in steps] == [
            ("a", "completed"),
            ("b", "completed"),
        ]
        assert b"after=41" in canned.requests[1]
    line = {
        "id": "r:3",
        "runId": "r",
        "stepName": None,
        "level": "info",
        "message": "m",
        "data": None,
    }
    pages = tuple(
        answer("200 OK", json.dumps([{**line, "timestamp": AT}] * 2), f"durably-next-cursor: {n}")
        for n in (5, 9)
    )
    async with against(*pages) as (client, canned):
        assert len(await client.get_logs("r", after=1, limit=4)) == 4
        assert [
            b"after=1&limit=4" in canned.requests[0],
            b"after=5&limit=2" in canned.requests[1],
        ] == [True] * 2


def of_run(status: str) -> bytes:
    """An answer to GET /run."""
    times = dict.fromkeys(("startedAt", "completedAt", "createdAt", "updatedAt"), AT)
    run = {"id": "r", "jobName": "j", "status": status, "input": None, "output": None}
    return answer("200 OK", json.dumps({**run, "progress": None, "labels": {}, **times}))


def told(*events: tuple[int, str]) -> bytes:
    """A stream that the server ends."""
    common = {"runId": "r", "jobName": "j", "labels": {}, "timestamp": AT}
    frames = [
        f"id: {n}\ndata: {json.dumps({'type': kind, **common, 'sequence': n})}\n\n"
        for n, kind in events
    ]
    return answer("200 OK", "retry: 1\n\n" + "".join(frames), kind="text/event-stream")


@pytest.mark.usefixtures("impatient")
async def test_a_stream_that_is_ended_before_the_run() -> None:
    """Only a final event, or a run that was over before it asked, is the end."""
    for last in (told((2, "run:cancel")), told((1, "run:trigger"), (2, "run:cancel")), told()):
        answers = [told((1, "run:trigger")), of_run("running"), told(), of_run("cancelled"), last]
        async with against(*answers) as (client, canned):
            heard = [event.sequence async for event in client.subscribe("r")]
            assert heard == ([1] if last == told() else [1, 2])
            assert len(canned.requests) == 5
            ids = [r.lower().partition(b"last-event-id: ")[2][:1] for r in canned.requests]
            assert ids == [b"0", b"", b"1", b"", b"1"]


@pytest.mark.usefixtures("impatient")
async def test_a_stream_that_is_ended_before_all_of_a_run_that_is_over_was_told() -> None:
    over = of_run("cancelled")
    first, second = told((1, "run:trigger")), told((2, "run:retry"))
    async with against(first, over, second, over, told((3, "run:cancel"))) as (client, _):
        assert [event.sequence async for event in client.subscribe("r")] == [1, 2, 3]


@pytest.mark.usefixtures("impatient")
async def test_what_a_run_came_to_is_asked_until_it_is_told() -> None:
    """The end is known; the server that told it goes away before it tells the rest."""
    away = [answer("503 Later", "{}")] * 7
    answers = [of_run("running"), told((2, "run:cancel")), *away, of_run("cancelled")]
    async with against(*answers, retries=1) as (client, canned):
        with pytest.raises(RunCancelledError) as cancelled:
            await client.wait("r")
        assert cancelled.value.run.status == "cancelled"
        assert len(canned.requests) == 10


async def test_what_is_sent() -> None:
    options: Any = {"headers": {"Authorization": "Bearer secret", "x-mine": "1"}}
    stream = answer("200 OK", "data: 7\n\n", kind="text/event-stream")
    async with against(JOBS, answer("404 No", "{}"), stream, **options) as (client, canned):
        await client.get_jobs()
        with pytest.raises(RequestRefusedError):
            await client.delete_run("a b&c")
        with pytest.raises(ServerError):
            await anext(client.subscribe("r", after=7))
    get, delete, subscribe = (request.decode().lower() for request in canned.requests)
    assert "authorization: bearer secret\r\n" in get
    assert "x-mine: 1\r\n" in get
    assert "user-agent: durably/" in get
    assert "x-durably" not in get
    assert delete.startswith("delete /api/durably/run?runid=a+b%26c http")
    assert "content-type: application/json\r\n" in delete
    assert "x-durably: 1\r\n" in delete
    assert "last-event-id: 7\r\n" in subscribe
    assert "accept: text/event-stream\r\n" in subscribe


async def test_secrets_are_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    url = f"http://me:hunter2@127.0.0.1:{free_port()}/api/durably?"
    with pytest.raises(ConfigurationError) as odd:
        DurablyClient(url.replace("?", "?token=hunter2"))
    assert "hunter2" not in str(odd.value)
    async with DurablyClient(url[:-1], retries=0) as client:
        assert "hunter2" not in repr(client)
        with pytest.raises(ServerUnavailableError) as away:
            await client.get_run("r")
        assert "hunter2" not in str(away.value) + away.value.url
    canned = Canned(JOBS)
    async with canned.open() as plain:
        url = plain.replace("//", "//me:hunter2@")
        async with DurablyClient(url) as client:
            await client.get_jobs()
    assert b64encode(b"me:hunter2") in canned.requests[0], "as Basic"
    assert "hunter2" not in caplog.text


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"url": "127.0.0.1:8000"}, "server URL must be like"),
        ({"url": "ftp://here"}, "server URL must be like"),
        ({"url": "http://"}, "server URL must be like"),
        ({"url": "http://me:hunter2@here:port"}, "invalid server URL: Invalid port: 'port'"),
        ({"url": 7}, "invalid server URL"),
        ({"url": "http://127.0.0.1:99999/x"}, "server URL must be like"),
        ({"url": "http://127.0.0.1:0/x"}, "server URL must be like"),
        ({"url": "http://bad host/"}, "server URL must be like"),
        ({"url": "http://a,b/"}, "server URL must be like"),
        ({"url": "http://here/?a=b"}, "no query"),
        ({"timeout": 0}, "timeout must be more than 0"),
        ({"timeout": "soon"}, "timeout must be seconds"),
        ({"headers": {"x": "\u2028"}}, "value of header 'x' in headers= must be a str"),
        ({"headers": {"x": 7}}, "value of header 'x' in headers= must be a str"),
    ],
)
def test_options_that_cannot_work(options: Any, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        DurablyClient(**{"url": "http://127.0.0.1:8000/api/durably", **options})


async def test_a_header_that_cannot_be_sent() -> None:
    async with against(JOBS, headers={"x-mine": "two\r\nsecrets"}) as (client, canned):
        with pytest.raises(ConfigurationError) as caught:
            await client.get_jobs()
        assert canned.requests == []
    assert "header" in str(caught.value)
    assert "secrets" not in str(caught.value)


@pytest.mark.parametrize("host", ["::1", "fe80::1%25eth0", "größe.example", "a-b_c.example"])
def test_hosts_of_any_kind(host: str) -> None:
    bracketed = f"[{host}]" if ":" in host else host
    assert "DurablyClient" in repr(DurablyClient(f"http://{bracketed}:8000/api"))


async def test_a_transport_of_your_own() -> None:
    """An application in this process, without a socket."""
    asked: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        asked.append(scope["path"])
        head = {"type": "http.response.start", "status": 200, "headers": []}
        await send({**head, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": b"[]"})

    transport = httpx2.ASGITransport(app)
    async with DurablyClient("http://app/api", transport=transport) as client:
        assert await client.get_jobs() == []
    assert asked == ["/api/jobs"]


async def test_cancelling_a_call_cancels_it() -> None:
    async def never(reader: Any, writer: Any) -> None:
        await asyncio.Event().wait()

    from .places import serving

    async with (
        serving(never) as port,
        DurablyClient(f"http://127.0.0.1:{port}/api/durably", timeout=0.2, retries=0) as client,
    ):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await client.get_jobs()
        with pytest.raises(ServerUnavailableError, match="ReadTimeout"):
            await client.get_jobs()
