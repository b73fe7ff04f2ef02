"""Whether a value came back: in value and in type, and with all that it holds."""

import dataclasses
from collections import Counter, OrderedDict, defaultdict, deque
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import IntEnum, StrEnum
from functools import cached_property
from typing import Any
from zoneinfo import ZoneInfo

import pydantic.dataclasses
import pytest
from pydantic import BaseModel, ConfigDict, Field, Json, PrivateAttr, computed_field
from pydantic.alias_generators import to_camel

from durably.values.codec import Unstorable, codec_for
from durably.values.difference import difference


class Level(IntEnum):
    HIGH = 3


class Word(StrEnum):
    A = "a"


class Real(float):
    """As numpy.float64 is: a float, and more."""


class Session(BaseModel):
    user: str
    _token: str = PrivateAttr("")


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    a: int


@dataclass
class Page:
    url: str
    cache: Any = field(default=None, compare=False)


@dataclass
class Counted:
    n: int

    def __post_init__(self) -> None:
        self.seen = 0


class Lazy(BaseModel):
    n: int

    @cached_property
    def twice(self) -> int:
        return self.n * 2


class Blind(BaseModel):
    n: Any

    def __eq__(self, other: object) -> bool:
        return True


def session(token: str) -> Session:
    made = Session(user="ada")
    made._token = token
    return made


def counted() -> Counted:
    made = Counted(1)
    made.seen = 7
    return made


PARIS = ZoneInfo("Europe/Paris")


@pytest.mark.parametrize(
    ("kind", "value", "path", "problem"),
    [
        (int, True, "$", "a bool that would come back as an int"),
        (list[int], [1, True], "$[1]", "a bool that would come back as an int"),
        (dict[int, int], {Level.HIGH: 1}, "$", "a dict whose keys would come back changed"),
        (set[int], {True}, "$", "a set that would come back changed"),
        (dict[str, Any], {"level": Level.HIGH}, "$.level", "a Level that would come back as an int"),
        (str, Word.A, "$", "a Word that would come back as a str"),
        (list[Any], [Word.A], "$[0]", "a Word that would come back as a str"),
        (Any | None, Real(1.5), "$", "a Real that would come back as a float"),
        (float, Real(1.5), "$", "a Real that would come back as a float"),
        (dict[str, int], OrderedDict(a=1), "$", "an OrderedDict that would come back as a dict"),
        (dict[str, int], Counter("a"), "$", "a Counter that would come back as a dict"),
        (deque[int], deque([1], maxlen=5), "$", "a deque that would come back changed"),
        (deque[int], deque([True]), "$[0]", "a bool that would come back as an int"),
        (Session, session("t-1"), "$._token", "a str that would come back changed"),
        (list[Session], [session("t-1")], "$[0]._token", "a str that would come back changed"),
        (Open, Open(a=1, pair=(1, 2)), "$.pair", "a tuple that would come back as a list"),
        (Open, Open(a=1, by={1: "x"}), "$.by", "a dict whose keys would come back changed"),
        (Page, Page("u", (1, 2)), "$.cache", "a tuple that would come back as a list"),
        (Counted, counted(), "$.seen", "an int that would come back changed"),
        (Blind, Blind(n=(1, 2)), "$.n", "a tuple that would come back as a list"),
        (datetime, datetime(2026, 7, 1, tzinfo=PARIS), "$", "a datetime that would come back changed"),
        (datetime, datetime(2026, 10, 25, 2, 30, fold=1), "$", "a datetime that would come back changed"),
        (time, time(2, 30, fold=1), "$", "a time that would come back changed"),
        (time, time(2, 30, tzinfo=PARIS), "$", "a time that would come back changed"),
    ],
)  # fmt: skip
def test_what_equality_overlooks_is_refused(kind, value, path, problem):
    with pytest.raises(Unstorable) as refused:
        codec_for(kind).keep(value)
    assert (refused.value.path, refused.value.problem) == (path, problem)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (float, 3),
        (list[float], [1, 2.5]),
        (datetime, datetime(2026, 7, 1, tzinfo=UTC)),
        (datetime, datetime(2026, 7, 1, tzinfo=ZoneInfo("UTC"))),
        (datetime, datetime(2026, 7, 1, tzinfo=timezone(timedelta(hours=2), "CEST"))),
        (datetime, datetime(2026, 7, 1)),
        (Decimal, Decimal("1.500")),
        (float, float("nan")),
        (list[float], [float("nan")]),
        (Session, session("")),
        (Open, Open(a=1, more={"b": [1, None]})),
        (Page, Page("u")),
        (deque[int], deque([1, 2])),
        (OrderedDict[str, int], OrderedDict(a=1)),
        (set[tuple[int, str]], {(1, "a"), (2, "b")}),
        (dict[Word, Level], {Word.A: Level.HIGH}),
    ],
)
def test_what_means_the_same_is_kept(kind, value):
    codec = codec_for(kind)
    kept = codec.keep(value)
    assert difference(value, kept.value) is None
    assert difference(codec.restore(kept.text), kept.value) is None


def test_what_was_only_computed_on_an_object_is_no_part_of_it():
    lazy = Lazy(n=2)
    assert lazy.twice == 4
    assert codec_for(Lazy).keep(lazy).value == Lazy(n=2)


def test_a_default_dict_is_kept_with_its_factory():
    assert codec_for(defaultdict[str, list[int]]).keep(defaultdict(list, a=[1])).value["b"] == []
    with pytest.raises(Unstorable):
        codec_for(defaultdict[str, list[int]]).keep(defaultdict(lambda: [0], a=[1]))


def test_objects_that_refer_to_each_other_are_compared_once():
    class Node(BaseModel):
        n: int
        _parent: Any = PrivateAttr(None)

    def pair() -> Node:
        one, other = Node(n=1), Node(n=2)
        one._parent, other._parent = other, one
        return one

    assert difference(pair(), pair()) is None
    changed = pair()
    changed._parent.n = 3
    assert difference(pair(), changed) == ("$._parent.n", "an int that would come back changed")


def test_a_comparison_that_raises_counts_as_different():
    class Touchy:
        def __eq__(self, other: object) -> bool:
            raise RuntimeError

        __hash__ = None  # type: ignore[assignment]

    assert difference(Touchy(), Touchy()) == ("$", "a Touchy that would come back changed")


def test_what_objects_of_any_class_hold_is_compared():
    class Held:
        def __init__(self, n: int) -> None:
            self.n = n

    assert difference(Held(1), Held(1)) is None
    assert difference(Held(1), Held(2)) == ("$.n", "an int that would come back changed")


# -- names, computed fields


class Order(BaseModel):
    user_id: int = Field(alias="userId")


class Told(BaseModel):
    user_id: int = Field(validation_alias="uid", default=0)


class Camel(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, extra="forbid")
    farm_name: str


class Written(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, serialize_by_alias=True)
    farm_name: str


@pydantic.dataclasses.dataclass
class Place:
    user_id: int = Field(alias="userId")


@pytest.mark.parametrize(
    "value",
    [Order(userId=1), Told(uid=3), Camel(farmName="x"), Written(farmName="x"), Place(userId=4)],
)
def test_an_alias_is_understood_and_a_value_comes_back(value):
    codec = codec_for(type(value))
    assert codec.decode(codec.keep(value).text) == value
    assert codec_for(list[type(value)]).keep([value]).value == [value]


def test_an_input_may_come_by_alias_or_by_name():
    for given in ({"userId": 1}, {"user_id": 1}):
        assert codec_for(Order).accept(given).value == Order(userId=1)
    assert codec_for(Order).decode('{"userId":1}') == Order(userId=1)


class Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")
    w: int

    @computed_field
    @property
    def area(self) -> int:
        return self.w**2


class Receptive(Closed):
    model_config = ConfigDict(extra="allow")


class Parsed(BaseModel):
    numbers: Json[list[int]]


@pytest.mark.parametrize("value", [Closed(w=2), Receptive(w=2), Parsed(numbers="[1, 2]")])
def test_what_is_written_for_others_does_not_keep_a_value_from_coming_back(value):
    codec = codec_for(type(value))
    assert codec.decode(codec.keep(value).text) == value


def test_computed_fields_are_still_written_where_they_can_be():
    class Free(Closed):
        model_config = ConfigDict(extra="ignore")

    assert codec_for(Free).keep(Free(w=2)).text == '{"w":2,"area":4}'


def test_every_field_of_a_dataclass_is_looked_at():
    made = dataclasses.make_dataclass("Made", [("a", Any, field(default=None, compare=False))])
    assert difference(made(1), made(2)) == ("$.a", "an int that would come back changed")
