"""Hostile requests: nothing is a failure of the server, nothing is told of its insides, nothing is changed."""

from __future__ import annotations

import json
import logging
import re
import socket
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest

from durably import Durably, Step
from durably.http import Auth, Request
from durably.http.routes import ROUTES
from tests.tier import by_tier

from .asking import JSON, Answer, Asker
from .corpus import STRINGS
from .serving import serve_in_thread, talk

ABSENT = "0199aaaa-0000-7000-8000-000000000000"
INSIDES = re.compile(
    rb"Traceback|sqlite|psycopg|asyncpg|pydantic|OperationalError|site-packages|\.py\b|File \\?\"|durably_runs"
)
SOME = STRINGS[:: by_tier(quick=3, ci=1, soak=1)]

Ask = tuple[str, str, list[tuple[str, str]], bytes, dict[str, str]]
"""Method, path, query, body, headers."""


def body_with(**fields: Any) -> bytes:
    return json.dumps({"jobName": "echo", **fields}).encode()


FIELDS: dict[str, Callable[[str, str], Ask]] = {
    # -- queries; the second argument is a run that there is
    "jobName": lambda s, run: ("GET", "/runs", [("jobName", s)], b"", {}),
    "status": lambda s, run: ("GET", "/runs", [("status", s)], b"", {}),
    "limit": lambda s, run: ("GET", "/runs", [("limit", s)], b"", {}),
    "offset": lambda s, run: ("GET", "/runs", [("offset", s)], b"", {}),
    "cursor": lambda s, run: ("GET", "/runs", [("cursor", s)], b"", {}),
    "label": lambda s, run: ("GET", "/runs", [(f"label.{s}", "x")], b"", {}),
    "label's value": lambda s, run: ("GET", "/runs", [("label.a", s)], b"", {}),
    "live label": lambda s, run: ("GET", "/runs/subscribe", [(f"label.{s}", s)], b"", {}),
    "live jobName": lambda s, run: ("GET", "/runs/subscribe", [("jobName", s)], b"", {}),
    "parameter": lambda s, run: ("GET", "/runs", [(s, s)], b"", {}),
    "after": lambda s, run: ("GET", "/subscribe", [("runId", run), ("after", s)], b"", {}),
    "logs after": lambda s, run: ("GET", "/logs", [("runId", run), ("after", s)], b"", {}),
    "logs limit": lambda s, run: ("GET", "/logs", [("runId", run), ("limit", s)], b"", {}),
    **{
        f"runId of {route.operation}": lambda s, run, r=route: (r.method, r.path, [("runId", s)], b"", JSON)
        for route in ROUTES
        if any(parameter.required for parameter in route.parameters)
    },
    # -- bodies
    "body": lambda s, run: ("POST", "/trigger", [], s.encode("utf-8", "surrogatepass"), JSON),
    "body's string": lambda s, run: ("POST", "/trigger", [], json.dumps(s).encode(), JSON),
    "body's jobName": lambda s, run: ("POST", "/trigger", [], body_with(jobName=s), JSON),
    "body's input": lambda s, run: ("POST", "/trigger", [], body_with(input={s: [s]}), JSON),
    "idempotencyKey": lambda s, run: ("POST", "/trigger", [], body_with(idempotencyKey=s), JSON),
    "concurrencyKey": lambda s, run: ("POST", "/trigger", [], body_with(concurrencyKey=s), JSON),
    "body's label": lambda s, run: ("POST", "/trigger", [], body_with(labels={s: s}), JSON),
    "body's field": lambda s, run: ("POST", "/trigger", [], body_with(**{f"{s} ": s}), JSON),
    "raw JSON": lambda s, run: ("POST", "/trigger", [], b'{"jobName":"echo","input":' + s.encode("utf-8", "replace") + b"}", JSON),
    # -- the rest of a request
    "path": lambda s, run: ("GET", f"/{s}", [], b"", {}),
    "method": lambda s, run: (s, "/runs", [], b"", JSON),
    **{
        f"header {name}": lambda s, run, n=name: ("POST", "/trigger", [], body_with(), {**JSON, n: s})
        for name in ("content-type", "origin", "sec-fetch-site", "host", "prefer", "content-length",
                     "x-durably", "cookie", "authorization", "x-forwarded-for", "accept")
    },
    "last-event-id": lambda s, run: ("GET", "/subscribe", [("runId", run)], b"", {"last-event-id": s}),
    "last-event-id of a list": lambda s, run: ("GET", "/runs/subscribe", [], b"", {"last-event-id": s}),
    "preflight": lambda s, run: ("OPTIONS", "/trigger", [], b"", {"origin": s, "access-control-request-method": s}),
}  # fmt: skip


def check(answer: Answer, asked: Any) -> None:
    """It is an answer, on as many lines as it should be, and tells nothing of the inside."""
    assert answer.status < 500, asked
    if not INSIDES.search(repr(asked).encode()):  # else it may be told back
        assert not INSIDES.search(answer.body), (asked, answer.body)
    if answer.headers.get("content-type") == "application/json":
        assert answer.body == b"" or json.loads(answer.body) is not None, asked
        assert answer.body.decode("ascii").isprintable(), asked
    for name, value in answer.headers.items():
        assert value.isprintable() or name == "access-control-allow-origin", asked
    if answer.status >= 400 and answer.body:
        assert answer.json.keys() >= {"error", "code"}, asked
        assert len(answer.body) < 20_000, asked


@pytest.fixture
async def asker(durably, jobs) -> Asker:
    return Asker(durably.handler(origins=["https://app.example.com"], compat=None))


@pytest.mark.parametrize("field", FIELDS)
async def test_a_hostile_string_in_any_field(durably, asker, field, caplog):
    caplog.set_level(logging.DEBUG, "durably")
    run_id = (await asker.trigger("tick", labels={"a": "1"})).json["runId"]
    before = (await durably.get_run(run_id)).input
    for string in SOME:
        method, path, query, body, headers = FIELDS[field](string, run_id)
        if path.endswith("subscribe"):
            answer = await asker.peek(method, path, query, headers)
        else:
            answer = await asker.ask(method, path, query, body, headers)
        check(answer, (field, string))
    assert (await durably.get_run(run_id)).input == before
    assert (await asker.get("/runs", limit=1)).status == 200
    for record in caplog.records:
        assert record.levelno < logging.ERROR, record.getMessage()
        assert record.getMessage().isprintable(), record.getMessage()


async def test_a_hostile_string_is_only_data(durably, asker):
    """What is taken is kept as it is, found by it, and by nothing else."""
    other = (await asker.trigger("tick", labels={"name": "other"})).json["runId"]
    taken = 0
    for string in SOME:
        answer = await asker.trigger(
            "echo",
            {"x": string},
            labels={"name": string},
            idempotencyKey=string,
            concurrencyKey=string,
        )
        if answer.status != 200:
            assert answer.refusal == (400, "invalid_input"), string
            continue
        taken += 1
        run_id = answer.json["runId"]
        run = (await asker.get("/run", runId=run_id)).json
        assert (run["labels"], run["input"]) == ({"name": string}, {"x": string})
        found = (await asker.get("/runs", ("label.name", string))).json
        assert [run["id"] for run in found] == [run_id], string
        kept = await durably.get_run(run_id)
        assert (kept.idempotency_key, kept.concurrency_key) == (string, string)
    assert taken > len(SOME) / 2
    assert (await asker.get("/run", runId=other)).json["labels"] == {"name": "other"}
    assert len(await durably.get_runs(limit=1_000)) == taken + 1


# -- sizes and shapes

DEEP = {
    "brackets": b"[" * 1_000_000,
    "braces": b'{"a":' * 200_000,
    "closed brackets": b"[" * 500_000 + b"]" * 500_000,
    "keys": b"{" + b",".join(b'"%d":0' % n for n in range(100_000)) + b"}",
    "the same key": b"{" + b",".join([b'"a":0'] * 100_000) + b"}",
    "a number": b"1" * 1_000_000,
    "a float": b"1." + b"1" * 1_000_000,
    "an exponent": b"1e" + b"9" * 1_000_000,
    "a string without an end": b'"' + b"a" * 1_000_000,
    "escapes": b'"' + b"\\u0000" * 170_000 + b'"',
    "surrogates": b'"' + b"\\ud800" * 170_000 + b'"',
    "blanks": b" " * 1_000_000,
    "commas": b"[" + b"," * 1_000_000 + b"]",
    "names": b'{"a.b[0]":{"' + b"x" * 900_000 + b'":0}}',
}


@pytest.mark.parametrize("job", ["echo", "pack"])
@pytest.mark.parametrize("name", DEEP)
async def test_a_shape_that_eats_memory(asker, name, job):
    body = b'{"jobName":"%b","input":%b}' % (job.encode(), DEEP[name])
    tracemalloc.start()
    try:
        answer = await asker.send(body)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    check(answer, name)
    assert answer.status in (200, 400)
    assert peak < 64_000_000, f"{peak:,} bytes"


async def test_what_is_too_large_is_not_kept(asker):
    async def pieces():
        for _ in range(2_000):
            yield b"x" * 65_536

    tracemalloc.start()
    try:
        assert (await asker.send(pieces())).refusal == (413, "too_large")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8_000_000, f"{peak:,} bytes"


# -- bytes, to a real server


class Tokens(Auth[str]):
    """``Authorization: Bearer TOKEN``, or the cookie ``session``."""

    async def authenticate(self, request: Request) -> str | None:
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        return token or None

    def scope(self, principal: str) -> str:
        return "t1"


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> Iterator[str]:
    durably = Durably(tmp_path_factory.mktemp("hostile") / "app.db", durability="process")

    @durably.job("echo")
    async def echo(step: Step, input: Any) -> Any:
        return input

    with serve_in_thread(durably.asgi()) as address:
        yield address


HEAD = b"host: localhost\r\nconnection: close\r\n"
TYPE = b"content-type: application/json\r\n"
GOOD = b'{"jobName":"echo"}'


def get(target: bytes, *headers: bytes) -> bytes:
    return b"GET %b HTTP/1.1\r\n%b%b\r\n" % (target, HEAD, b"".join(h + b"\r\n" for h in headers))


def post(body: bytes, *headers: bytes) -> bytes:
    lines = b"".join(h + b"\r\n" for h in headers)
    return b"POST /trigger HTTP/1.1\r\n%b%b%b\r\n%b" % (HEAD, TYPE, lines, body)


LENGTH = b"content-length: %d" % len(GOOD)
RAW = {
    "a path of bytes": get(b"/\xff\xfe"),
    "a path of wrong escapes": get(b"/%ff%fe%zz%"),
    "a path with NUL": get(b"/runs%00"),
    "a path with a line end": get(b"/runs%0d%0ax:%20y"),
    "a long path": get(b"/" + b"a" * 50_000),
    "a path with dots": get(b"/../../etc/passwd"),
    "another server's address": get(b"http://evil.example/runs"),
    "no path": get(b"*"),
    "a query of bytes": get(b"/runs?jobName=\xff\xfe"),
    "a query of wrong escapes": get(b"/runs?jobName=%ff%fe"),
    "a query of half escapes": get(b"/runs?jobName=%&%4&%zz=1"),
    "a query with NUL": get(b"/runs?jobName=%00"),
    "a query of separators": get(b"/runs?" + b"&" * 7_000),
    "a query of equals": get(b"/runs?" + b"=" * 7_000),
    "a long query": get(b"/runs?cursor=" + b"a" * 20_000),
    "many parameters": get(b"/runs?" + b"&".join(b"label.%d=x" % n for n in range(500))),
    "a header of bytes": get(b"/runs", b"last-event-id: \xff\xfe\x80"),
    "an origin of bytes": post(GOOD, LENGTH, b"origin: \xff\xfe"),
    "a cookie of bytes": get(b"/runs", b"cookie: a=\xff; \x80=1; ;;=,="),
    "a long header": get(b"/runs", b"x-long: " + b"a" * 60_000),
    "many headers": get(b"/runs", *[b"x-%d: 1" % n for n in range(2_000)]),
    "two hosts": get(b"/runs", b"host: evil.example"),
    "two types": post(GOOD, LENGTH, b"content-type: text/plain"),
    "two origins": post(GOOD, LENGTH, b"origin: http://localhost", b"origin: https://evil.example"),
    "two ids": get(b"/subscribe?runId=x", b"last-event-id: 1", b"last-event-id: 2"),
    "two lengths": post(GOOD, LENGTH, b"content-length: 5"),
    "two equal lengths": post(GOOD, LENGTH, LENGTH),
    "a length and chunks": post(b"0\r\n\r\n", LENGTH, b"transfer-encoding: chunked"),
    "a negative length": post(GOOD, b"content-length: -1"),
    "a length of 20 digits": post(GOOD, b"content-length: 99999999999999999999"),
    "a length of 5,000 digits": post(GOOD, b"content-length: " + b"9" * 5_000),
    "a length of other digits": post(GOOD, "content-length: ١٨".encode()),
    "chunks of wrong size": post(b"zz\r\n" + GOOD, b"transfer-encoding: chunked"),
    "an unknown encoding": post(GOOD, b"transfer-encoding: gzip"),
    "a compressed body": post(GOOD, LENGTH, b"content-encoding: gzip"),
    "a body of bytes": post(b"\xff\xfe\x00\x01", b"content-length: 4"),
    "a body of wrong UTF-8": post(b'{"jobName":"\xc3\x28"}', b"content-length: 16"),
    "no body": post(b"", b"content-length: 0"),
    "no length": post(GOOD),
    "another protocol": b"EHLO evil.example\r\n\r\n",
    "a TLS greeting": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 100 + b"\r\n\r\n",
    "HTTP/0.9": b"GET /runs\r\n\r\n",
    "HTTP/1.0 without a host": b"GET /runs HTTP/1.0\r\n\r\n",
    "an upgrade": get(b"/runs", b"upgrade: websocket", b"sec-websocket-version: 13", b"sec-websocket-key: x"),
    "an expectation": post(GOOD, LENGTH, b"expect: 100-continue"),
    "header folding": get(b"/runs", b"x-a: b\r\n c: d"),
    "a bare carriage return": get(b"/runs", b"x-a: b\rx-c: d"),
}  # fmt: skip


@pytest.mark.parametrize("name", RAW)
def test_bytes_that_make_no_sense(address, name):
    told = talk(address, RAW[name])
    status = int(told.split(b" ", 2)[1]) if told.startswith(b"HTTP/1.") else 0
    assert status < 500, told[:500]
    assert not INSIDES.search(told), told[:2_000]
    assert told.count(b"HTTP/1.1 ") <= 2  # one may be "100 Continue"
    with httpx2.Client() as client:
        assert client.get(f"{address}/healthz").json()["status"] == "ok"


def test_a_body_that_never_comes_holds_nobody_else(address):
    """Slow clients are the server's to end; meanwhile the others are answered."""
    host, port = address.removeprefix("http://").split(":")
    slow = [socket.create_connection((host, int(port))) for _ in range(20)]
    try:
        for connection in slow:
            connection.sendall(b"POST /trigger HTTP/1.1\r\n" + HEAD + TYPE + LENGTH + b"\r\n\r\n{")
        with httpx2.Client() as client:
            assert client.get(f"{address}/runs").status_code == 200
    finally:
        for connection in slow:
            connection.close()


def test_the_corpus_has_two_hundred_strings():
    assert len(STRINGS) >= 200
