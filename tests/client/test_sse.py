"""The parser of server-sent events: any bytes, cut anywhere, mean what the standard says."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from durably.client.sse import Message, Parser, TooLong
from tests.tier import by_tier


def parsed(*chunks: bytes, last_id: str = "") -> tuple[list[Message], Parser]:
    parser = Parser(last_id)
    return [message for chunk in chunks for message in parser.feed(chunk)], parser


def by_the_standard(stream: bytes) -> tuple[list[Message], int | None]:
    """The whole stream at once, written down from the standard's own sentences."""
    text = stream.decode("utf-8", "replace").removeprefix("\ufeff")
    lines = re.split("\r\n|\r|\n", text)[:-1]  # what follows the last line end is incomplete
    messages, data, event, last_id, retry = [], "", "", "", None
    for line in lines:
        if line == "":
            if data:
                messages.append(Message(event or "message", data[:-1], last_id))
            data, event = "", ""
        elif not line.startswith(":"):
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if name == "data":
                data += value + "\n"
            elif name == "event":
                event = value
            elif name == "id" and "\0" not in value:
                last_id = value
            elif name == "retry" and re.fullmatch("[0-9]+", value):
                retry = int(value)
    return messages, retry


ENDS = st.sampled_from([b"\n", b"\r", b"\r\n"])
FIELDS = st.sampled_from(
    [b"data", b"data:", b"data: ", b"id:", b"id: ", b"event: ", b"retry: ", b":", b"other: ", b"", b"\xef\xbb\xbf"]
)  # fmt: skip
VALUES = st.one_of(
    st.sampled_from([b"", b"1", b"17", b" two", b"a:b", b"\0", b"1\0", b"\xc3\xa9", b"\xc3", b"\xff"]),
    st.sampled_from(["x", "y", "\u2028", "\x85", "\x0b", "\x0c", "\x1c", "😀", "\ufeff"]).map(str.encode),
)  # fmt: skip
LINES = st.tuples(FIELDS, VALUES, ENDS).map(b"".join)
STREAMS = st.lists(st.one_of(LINES, ENDS), max_size=20).map(b"".join)


@given(st.one_of(STREAMS, st.binary(max_size=60)), st.data())
@settings(max_examples=by_tier(quick=300, ci=3_000, soak=100_000), deadline=None)
@example(b"data: a\r\rdata: b\r\n\r\n", None)
@example(b"\xef\xbb\xbfdata: a\n\n\xef\xbb\xbfdata: b\n\n", None)
def test_cut_anywhere_it_means_the_same(stream: bytes, data: st.DataObject | None) -> None:
    if data is None:
        chunks = [stream[i : i + 1] for i in range(len(stream))]
    else:
        cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
        chunks = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    messages, parser = parsed(*chunks)
    assert (messages, parser.retry) == by_the_standard(stream)


def test_a_message_is_told_as_soon_as_its_empty_line_begins() -> None:
    """The LF of a last CRLF may come with the next message, an hour later."""
    assert parsed(b"data: a\r\n\r")[0] == [Message("message", "a", "")]
    assert parsed(b"data: a\r\n\r", b"\n", b"data: b\r\n\r")[0] == [
        Message("message", "a", ""),
        Message("message", "b", ""),
    ]


def test_an_id_is_kept_until_another_comes() -> None:
    messages, parser = parsed(b"id: 3\ndata: a\n\ndata: b\n\nid\ndata: c\n\nid: 4\n\nid: 5\n")
    assert [message.last_id for message in messages] == ["3", "3", ""]
    assert parser.last_id == "4", "a message without data counts; one that has not ended does not"
    assert parsed(b"data: a\n\n", last_id="7")[0][0].last_id == "7"


def test_a_retry_that_is_no_number_is_ignored() -> None:
    assert parsed(b"retry: 250\nretry: soon\nretry: -1\nretry: \xd9\xa3\n")[1].retry == 250
    assert parsed(b"retry: " + b"9" * 10_000 + b"\n")[1].retry == int("9" * 18)


def test_only_a_message_that_never_ends_is_too_long() -> None:
    parser = Parser(limit=100)
    for _ in range(100):
        assert len(list(parser.feed(b"data: " + b"x" * 60 + b"\n\n"))) == 1
    with pytest.raises(TooLong, match="longer than 100 bytes"):
        for _ in range(101):
            list(parser.feed(b"x"))
    parser = Parser(limit=100)
    with pytest.raises(TooLong):
        for _ in range(100):
            list(parser.feed(b"data: x\n"))


def test_a_large_message_in_small_chunks_is_read_in_linear_time() -> None:
    parser = Parser()
    assert list(parser.feed(b"data: ")) == []
    for _ in range(20_000):
        assert list(parser.feed(b"x" * 100)) == []
    (message,) = parser.feed(b"\n\n")
    assert len(message.data) == 2_000_000
