"""Requests: their query, their body, their path below what mounts the handler."""

import pytest

from durably.http import Refusal, Request
from durably.http.message import parse_query
from durably.http.shutdown import strip_prefix


def test_a_query():
    assert parse_query("") == []
    assert parse_query("a=1&a=2&b=&c") == [("a", "1"), ("a", "2"), ("b", ""), ("c", "")]
    assert parse_query("a=x+y%20z%2Bé".encode().decode("latin-1")) == [("a", "x y z+é")]


@pytest.mark.parametrize("raw", ["a=%FF", "a=\xff", "%C3=1", "a=%ED%B2%80", "a=\xc3"])
def test_a_query_that_is_not_utf8_is_refused(raw):
    with pytest.raises(Refusal) as refused:
        parse_query(raw)
    assert (refused.value.status, refused.value.code) == (400, "invalid_request")


def test_a_query_that_is_too_long_is_refused():
    assert parse_query("a=" + "x" * 8_190)
    with pytest.raises(Refusal, match="8,192"):
        parse_query("a=" + "x" * 8_191)
    assert len(parse_query("&".join(["a=1"] * 200))) == 200
    with pytest.raises(Refusal, match="200 parameters"):
        parse_query("&".join(["a=1"] * 201))


def test_a_parameter_that_may_be_given_once():
    request = Request("GET", "/run", [("a", "1"), ("b", "2"), ("b", "3")])
    assert (request.one("a"), request.one("c")) == ("1", None)
    with pytest.raises(Refusal, match="b must be given once, got 2 values"):
        request.one("b")


async def test_a_body_is_read_up_to_its_limit():
    async def pieces():
        for _ in range(4):
            yield b"xy"

    assert await Request("POST", "/", body=b"xyxy").read(4) == b"xyxy"
    assert await Request("POST", "/", body=pieces()).read(8) == b"xy" * 4
    for body in (b"xyxyx", pieces()):
        with pytest.raises(Refusal) as refused:
            await Request("POST", "/", body=body).read(4)
        assert refused.value.status == 413


@pytest.mark.parametrize(
    ("path", "root", "base", "expected"),
    [
        ("/runs", "", "/api/durably", "/runs"),
        ("/api/durably/runs", "", "/api/durably", "/runs"),
        ("/api/durably/runs/", "", "api/durably/", "/runs"),
        ("/api/durably", "", "/api/durably", "/"),
        ("/api/durably/", "/api/durably", "/api/durably", "/"),
        ("/api/durably/runs", "/api/durably", "/api/durably", "/runs"),
        ("/runs", "/api/durably", "/api/durably", "/runs"),
        ("/proxy/api/durably/runs", "/proxy", "/api/durably", "/runs"),
        ("/api/durablyx/runs", "", "/api/durably", "/api/durablyx/runs"),
        ("/x/api/durably/runs", "", "/api/durably", "/x/api/durably/runs"),
        ("", "", "", "/"),
        ("//runs", "", "", "//runs"),
    ],
)
def test_the_path_below_what_mounts_it(path, root, base, expected):
    assert strip_prefix(path, root, base) == expected
