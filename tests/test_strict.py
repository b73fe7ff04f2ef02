"""Inputs: what would be changed or dropped is refused, unless a type says otherwise."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Annotated, Any, Literal, NamedTuple
from uuid import UUID

import pytest
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    Strict,
    computed_field,
    field_serializer,
    with_config,
)
from typing_extensions import TypedDict

from durably.values.codec import Unstorable, codec_for


class Level(IntEnum):
    LOW = 1


class Color(Enum):
    RED = "red"


class Line(BaseModel):
    count: int = Field(ge=0)
    type: str = "line"


class Order(BaseModel):
    lines: list[Line]
    at: datetime | None = None
    parent: "Order | None" = None


@dataclass
class Box:
    size: int
    line: Line | None = None


class Options(TypedDict, total=False):
    name: str


@with_config(ConfigDict(extra="ignore"))
class OpenOptions(TypedDict, total=False):
    name: str


class Point(NamedTuple):
    x: int


class Lax(BaseModel):
    model_config = ConfigDict(strict=False, extra="ignore")
    count: int
    line: Line | None = None


class Extra(BaseModel):
    model_config = ConfigDict(extra="allow")
    count: int = 0


class Put(BaseModel):
    model_config = ConfigDict(defer_build=True)
    count: Annotated[int, Strict(False)] = Field(0, alias="COUNT")


class Mixed(Enum):
    ONE = 1
    HALF = 0.5


class Area(BaseModel):
    width: int

    @computed_field
    @property
    def twice(self) -> int:
        return 2 * self.width


KEY = "018f0000-0000-7000-8000-000000000000"


@pytest.mark.parametrize(
    ("kind", "given", "path"),
    [
        (int, "5", "$"), (int, 5.0, "$"), (int, True, "$"), (float, "5", "$"), (float, True, "$"),
        (float, 2**60 + 1, "$"), (str, 5, "$"), (bool, 1, "$"), (bool, "true", "$"), (int | None, "5", "$"),
        (list[int], [1, "2"], "$[1]"), (dict[str, int], {"a": 1.0}, "$.a"), (int | list[int], "x", "$.int"),
        (Level, "1", "$"), (Level, True, "$"), (Literal[1, "a"], True, "$"), (Color, 1, "$"),
        (datetime, 5, "$"), (datetime, "5", "$"), (date, 86400, "$"), (Decimal, True, "$"),
        (Line, {"count": "1"}, "$.count"), (Line, {"count": 1, "cuont": 2}, "$.cuont"),
        (Order, {"lines": [{"count": 1, "x": 1}]}, "$.lines[0].x"),
        (Order, {"lines": [], "parent": {"lines": [], "x": 1}}, "$.parent.x"),
        (Box, {"size": 1.0}, "$.size"), (Box, {"size": 1, "x": 1}, "$.x"),
        (Box, {"size": 1, "line": {"count": 1, "x": 1}}, "$.line.x"),
        (Options, {"name": "a", "x": 1}, "$.x"), (list[Options], [{"name": 1}], "$[0].name"),
        (Point, ["1"], "$[0]"), (Lax, {"count": "1", "line": {"count": "1"}}, "$.line.count"),
        (Put, {"COUNT": 1, "x": 1}, "$.x"), (timedelta, True, "$"), (Mixed, 1.0, "$"),
    ],
)  # fmt: skip
def test_what_would_be_changed_or_dropped_is_refused_with_its_path(kind, given, path):
    codec = codec_for(kind).strict()
    for read, value in ((codec.accept, given), (codec.parse, json.dumps(given))):
        with pytest.raises(Unstorable) as refused:
            read(value)
        assert refused.value.path == path


@pytest.mark.parametrize(
    ("kind", "given", "expected"),
    [
        (int, 5, 5), (float, 5, 5.0), (float, "NaN", None), (int, str(2**60), 2**60),
        (int | str, "5", "5"), (int | float, 5, 5), (int | float, 5.0, 5.0), (dict[str, int], {"a": 1}, {"a": 1}),
        (datetime, "2026-01-02T03:04:05Z", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
        (date, "2026-01-02", date(2026, 1, 2)), (timedelta, "PT5S", timedelta(seconds=5)),
        (timedelta, 5, timedelta(seconds=5)), (UUID, KEY, UUID(KEY)),
        (Decimal, "1.50", Decimal("1.50")), (Decimal, 5, Decimal(5)), (Color, "red", Color.RED), (Level, 1, Level.LOW),
        (Mixed, 1, Mixed.ONE), (Mixed, 0.5, Mixed.HALF),
        (tuple[int, ...], [1], (1,)), (set[int], [1], {1}), (Point, [1], Point(1)),
        (Line, {"count": 1}, Line(count=1)), (Box, {"size": 1, "line": {"count": 1}}, Box(1, Line(count=1))),
        (Lax, {"count": "1", "x": 2}, Lax(count=1)), (OpenOptions, {"name": "a", "x": 1}, {"name": "a"}),
        (Extra, {"count": 1, "x": 2}, Extra(count=1, x=2)),  # type: ignore[call-arg]
        (Put, {"COUNT": "1"}, Put(COUNT=1)), (Put, {"count": 1}, Put(COUNT=1)),
    ],
)  # fmt: skip
def test_what_json_has_no_type_for_is_read_and_what_a_type_says_holds(kind, given, expected):
    codec = codec_for(kind).strict()
    for value in (codec.accept(given).value, codec.parse(json.dumps(given))):
        assert type(value) is type(expected) or expected is None
        assert expected is None or value == expected


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        (Line, Line(count=1)), (Box, Box(1, Line(count=1))), (datetime, datetime(2026, 1, 1)), (bytes, b"a"),
        (Level, Level.LOW), (set[int], {1}), (dict[int, int], {1: 2}), (Order, Order(lines=[Line(count=1)])),
    ],
)  # fmt: skip
def test_python_values_of_the_type_are_taken(kind, given):
    assert codec_for(kind).strict().accept(given).value == given


def test_what_is_kept_of_an_input_can_be_given_again_also_with_computed_fields():
    codec = codec_for(Area).strict()
    text = codec.accept(Area(width=1)).text
    assert codec.parse(text) == Area(width=1)
    assert codec.restore('{"width":1,"twice":2}') == Area(width=1), "as it was stored before"


class Event(BaseModel):
    at: datetime | None
    size: Annotated[int, PlainSerializer(str)] = 1
    count: int = 0

    @field_serializer("at")
    def seconds(self, at: datetime) -> float:
        return at.timestamp()


def test_what_a_serializer_writes_is_read():
    codec = codec_for(Event).strict()
    event = Event(at=datetime(2026, 1, 1, tzinfo=UTC), size=5)
    assert codec.parse(codec.accept(event).text) == event
    with pytest.raises(Unstorable, match=r"\$\.count"):
        codec.accept({"at": 5, "count": "1"})


def test_an_iterator_is_written_once():
    codec = codec_for(Iterable[int]).strict()
    assert codec.accept(iter([1, 2])).text == "[1,2]"
    with pytest.raises(Unstorable):
        codec.accept(["1"])


def test_in_python_a_tuple_does_for_a_list_and_text_does_not_for_bytes_or_a_number():
    assert codec_for(list[int]).strict().accept((1, 2)).value == [1, 2]
    assert codec_for(bytes).strict().parse('"YQ=="') == b"a"
    assert codec_for(dict[int, int]).strict().parse('{"1": 2}') == {1: 2}
    for kind, given in ((bytes, "YQ=="), (dict[int, int], {"1": 2})):
        with pytest.raises(Unstorable):
            codec_for(kind).strict().accept(given)


def test_what_is_stored_is_read_whatever_was_admitted():
    codec = codec_for(Order).strict()
    assert codec.decode('{"lines": [{"count": "1", "x": 2}], "y": 3}') == Order(
        lines=[Line(count=1)]
    )


def closed(schema: Any) -> set[str]:
    """The titles of the types that admit no unknown keys."""
    found = {schema["title"]} if schema.get("additionalProperties") is False else set()
    return found.union(*map(closed, schema.get("$defs", {}).values()))


def test_the_schema_of_an_input_says_that_unknown_keys_are_refused():
    def of(kind):
        return closed(codec_for(kind).strict().schema())

    assert of(Order) == {"Order", "Line"}
    assert of(Box) == {"Box", "Line"}
    assert of(Lax) == {"Line"}
    assert (of(Options), of(OpenOptions), of(Extra)) == ({"Options"}, set(), set())
    assert closed(codec_for(Order).schema()) == set(), "unless the job is lax"
