"""Values: what comes back is what went in, value and type, or it is refused with its path."""

import functools
import math
from collections.abc import Awaitable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from typing import Annotated, Any, Literal, NamedTuple, Never, NoReturn
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, Json, SecretStr
from pydantic_core import core_schema
from typing_extensions import TypedDict

from durably.jobs.checks import check_name
from durably.values.codec import MAX_DEPTH, PLAIN, Unstorable, codec_for, codec_of_returns
from durably.values.text import clean_text
from tests.tier import by_tier


class Color(Enum):
    RED = "red"
    BLUE = 3


class Level(IntEnum):
    LOW = 1


class Word(StrEnum):
    A = "a"


class Point(NamedTuple):
    x: int
    y: float


class Options(TypedDict, total=False):
    name: str
    when: datetime


@dataclass
class Box:
    size: int
    tags: set[str]
    inner: "Box | None" = None


class Model(BaseModel):
    at: datetime
    amount: Decimal
    parts: tuple[int, ...] = ()
    color: Color = Color.RED


class Animal(BaseModel):
    name: str


class Dog(Animal):
    breed: str


text = st.text(
    st.characters(codec=None, exclude_categories=()), max_size=20
)  # surrogates and NUL too
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**40), 10**40) | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=20,
)  # fmt: skip
zones = st.just(UTC) | st.integers(-14 * 60, 14 * 60).map(
    lambda minutes: timezone(timedelta(minutes=minutes))
)
TYPED: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (int, st.integers(-(10**30), 10**30)),
    (float, st.floats()),
    (str, text),
    (bytes, st.binary(max_size=30)),
    (bool, st.booleans()),
    (None, st.none()),
    (datetime, st.datetimes(timezones=zones)),
    (time, st.times(timezones=zones)),
    (date, st.dates()),
    (timedelta, st.timedeltas(timedelta(days=-9999), timedelta(days=9999))),
    (Decimal, st.decimals(allow_nan=False, allow_infinity=False)),
    (UUID, st.uuids()),
    (Color, st.sampled_from(Color)),
    (Level, st.sampled_from(Level)),
    (Word, st.sampled_from(Word)),
    (Point, st.builds(Point, st.integers(-99, 99), st.floats(allow_nan=False))),
    (Options, st.fixed_dictionaries({}, optional={"name": st.text(max_size=5)})),
    (Box, st.builds(Box, st.integers(), st.sets(st.text(max_size=5)), st.none())),
    (Model, st.builds(Model, at=st.datetimes(timezones=zones), amount=st.decimals(allow_nan=False, allow_infinity=False, places=3), parts=st.tuples(st.integers()), color=st.sampled_from(Color))),
    (tuple[int, str], st.tuples(st.integers(), st.text(max_size=5))),
    (list[set[int]], st.lists(st.sets(st.integers(), max_size=3), max_size=3)),
    (frozenset[str], st.frozensets(st.text(max_size=5))),
    (dict[int, list[float]], st.dictionaries(st.integers(), st.lists(st.floats(allow_nan=False)), max_size=3)),
    (int | None, st.integers() | st.none()),
    (Literal["a", 1], st.sampled_from(["a", 1])),
    (list[Any], st.lists(st.none() | text | st.lists(text), max_size=3)),
]  # fmt: skip


def same(one: Any, other: Any) -> bool:
    """Equal in value and in type, all the way down; NaN equals itself, and a time has its offset."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return (one == other and math.copysign(1, one) == math.copysign(1, other)) or (
            one != one and other != other
        )
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, datetime | time):
        return one == other and one.utcoffset() == other.utcoffset()
    if isinstance(one, BaseModel):
        return same(dict(one), dict(other))
    return one == other


@settings(max_examples=by_tier(quick=300, ci=1500, soak=50_000), deadline=None)
@given(plain)
def test_plain_json_comes_back_as_it_is(value):
    kept = PLAIN.keep(value)
    assert kept.text.isascii()
    assert same(kept.value, value)
    assert same(PLAIN.decode(kept.text), value)


@settings(max_examples=by_tier(quick=700, ci=3500, soak=100_000), deadline=None)
@given(
    st.one_of([strategy.map(lambda value, kind=kind: (kind, value)) for kind, strategy in TYPED])
)
def test_an_annotated_value_comes_back_as_it_is(case):
    kind, value = case
    codec = codec_for(kind)
    kept = codec.keep(value)
    assert kept.text.isascii()
    assert same(kept.value, value)
    assert same(codec.decode(kept.text), value)


@pytest.mark.parametrize("minutes", [0, 120, -210, 345])
@pytest.mark.parametrize("read", ["keep", "decode", "restore", "accept"])
def test_a_time_comes_back_with_its_offset(read, minutes):
    zone = timezone(timedelta(minutes=minutes))
    at = datetime(2026, 7, 1, 9, 30, tzinfo=zone)
    for kind, value in ((datetime, at), (time, at.timetz()), (list[time], [at.timetz()])):
        codec = codec_for(kind)
        kept = codec.keep(value)
        read_again = {
            "keep": lambda kept=kept: kept.value,
            "decode": lambda codec=codec, kept=kept: codec.decode(kept.text),
            "restore": lambda codec=codec, kept=kept: codec.restore(kept.text),
            "accept": lambda codec=codec, value=value: codec.accept(value).value,
        }[read]()
        assert same(read_again, value)


def test_what_comes_back_is_never_the_live_object():
    value = {"rows": [1, 2]}
    kept = PLAIN.keep(value)
    value["rows"].append(3)
    assert kept.value == {"rows": [1, 2]}
    box = Box(1, {"a"})
    assert codec_for(Box).keep(box).value is not box


@pytest.mark.parametrize(
    ("value", "path", "problem"),
    [
        ((1, 2), "$", "a tuple"),
        ({"rows": [0, 1, 2, (3, 4)]}, "$.rows[3]", "a tuple"),
        ({"a": {1, 2}}, "$.a", "a set"),
        ([datetime(2020, 1, 1)], "$[0]", "a datetime"),
        ({"a b": float("nan")}, "$['a b']", "the float nan"),
        ([[float("inf")]], "$[0][0]", "the float inf"),
        ({"x": {1: "a"}}, "$.x", "a dict with the int key 1"),
        ({1: "a", "1": "b"}, "$", "a dict with the int key 1"),
        (b"x", "$", "a bytes"),
        (Word.A, "$", "a Word"),
        (Level.LOW, "$", "a Level"),
        (Decimal(1), "$", "a Decimal"),
        (object(), "$", "an object"),
        (Point(1, 2), "$", "a Point"),
        (Model(at=datetime(2020, 1, 1), amount=Decimal(1)), "$", "a Model"),
    ],
)  # fmt: skip
def test_what_is_not_plain_is_refused_with_its_path(value, path, problem):
    with pytest.raises(Unstorable) as refused:
        PLAIN.keep(value)
    assert (refused.value.path, refused.value.problem) == (path, problem)


@pytest.mark.parametrize(
    ("kind", "value", "path"),
    [
        (int, "5", "$"),
        (list[int], [1, "2"], "$"),
        (Animal, Dog(name="Rex", breed="pug"), "$"),
        (list[Animal], [Animal(name="a"), Dog(name="b", breed="c")], "$[1]"),
        (SecretStr, SecretStr("hunter2"), "$"),
        (dict, {"a": (1,)}, "$.a"),
        (list, [{1: 2}], "$[0]"),
        (Model, Model.model_construct(at="yesterday", amount=Decimal(1)), "$"),
        (Annotated[int, Field(gt=0)], -1, "$"),
        (int, None, "$"),
    ],
)  # fmt: skip
def test_what_an_annotation_would_change_is_refused(kind, value, path):
    with pytest.raises(Unstorable) as refused:
        codec_for(kind).keep(value)
    assert refused.value.path.startswith(path)


def test_an_integer_too_long_for_json_is_refused():
    with pytest.raises(Unstorable, match=r"over 4,000 digits at \$\[0\]"):
        PLAIN.keep([10**5000])


@pytest.mark.parametrize("value", ["2020-01-01T00:00:00", datetime(2020, 1, 1, tzinfo=UTC), "x"])
def test_a_union_comes_back_or_is_refused(value):
    with suppress(Unstorable):
        assert same(codec_for(datetime | str).keep(value).value, value)


def test_nesting_has_a_limit():
    deep: Any = []
    for _ in range(MAX_DEPTH - 1):
        deep = [deep]
    assert PLAIN.keep(deep).value == deep
    for levels in (5, 3000, 100_000):
        for _ in range(levels):
            deep = [deep]
        with pytest.raises(Unstorable, match="nested deeper than 200"):
            PLAIN.keep(deep)


def test_a_value_that_holds_itself_is_refused():
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(Unstorable):
        PLAIN.keep(loop)
    with pytest.raises(Unstorable):
        codec_for(list).keep(loop)


def test_a_stored_value_that_no_longer_fits_says_where():
    with pytest.raises(Unstorable) as refused:
        codec_for(Model).decode('{"at":"2020-01-01","amount":"x"}')
    assert refused.value.path == "$.amount"


def test_accept_validates_what_keep_would_refuse():
    assert codec_for(Animal).accept({"name": "Rex"}).value == Animal(name="Rex")
    with pytest.raises(Unstorable) as refused:
        codec_for(Animal).accept({"nom": "Rex"})
    assert (refused.value.path, refused.value.problem) == ("$.name", "Field required")


def test_no_stored_text_names_a_class():
    hostile = "cos\nsystem\n(S'echo'\ntR."
    assert PLAIN.decode(PLAIN.keep(hostile).text) == hostile
    with pytest.raises(Unstorable):
        PLAIN.decode(hostile)


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)
    at: datetime
    parts: tuple[int, ...]


def test_a_strict_model_comes_back():
    value = Strict(at=datetime(2020, 1, 1, tzinfo=UTC), parts=(1, 2))
    assert codec_for(Strict).keep(value).value == value


async def _coroutine() -> Point:
    return Point(1, 2)


def _awaitable() -> Awaitable[Point]:
    return _coroutine()


def _coroutine_type() -> Coroutine[Any, Any, Point]:
    return _coroutine()


class _Api:
    def method(self) -> Point:
        return Point(1, 2)

    def __call__(self) -> int:
        return 1


def _textual() -> "list[Point]":
    return []


def test_the_codec_of_a_function_is_its_return_annotation():
    point = codec_for(Point)
    for fn in (
        _coroutine,
        _awaitable,
        _coroutine_type,
        _Api().method,
        functools.partial(_coroutine),
    ):
        assert codec_of_returns(fn) is point
    assert codec_of_returns(_textual) is codec_for(list[Point])
    assert codec_of_returns(lambda: 1) is PLAIN
    assert codec_of_returns(len) is PLAIN


def test_closures_with_textual_annotations_share_one_codec():
    def make(n):
        def inner() -> "Point":
            return Point(n, n)

        return inner

    assert codec_of_returns(make(1)) is codec_of_returns(make(2)) is codec_for(Point)


def test_an_annotation_that_cannot_be_found_says_so():
    def inner() -> "NotThere":  # noqa: F821
        return None

    with pytest.raises(TypeError, match=r"NotThere.*pass returns="):
        codec_of_returns(inner)


@pytest.mark.parametrize("bad", ["", "x" * 256, "a\nb", "a\0", "\ud800", "\x7f", "\x85"])
def test_a_name_that_cannot_be_one(bad):
    with pytest.raises(ValueError, match="a key"):
        check_name("a key", bad)


@pytest.mark.parametrize("good", ["a", "x" * 255, "é", "日本", "a b/c:d", "\N{PILE OF POO}"])
def test_a_name_that_can(good):
    assert check_name("a key", good) == good


@given(st.text(st.characters(codec=None, exclude_categories=()), max_size=50))
def test_clean_text_can_always_be_stored(dirty):
    clean = clean_text(dirty, 1000)
    assert "\0" not in clean
    clean.encode("utf-8")


def test_clean_text_says_what_it_left_out():
    assert clean_text("abcdef", 2) == "ab… (4 more characters)"


def test_times_of_day_come_back():
    assert codec_for(time).keep(time(1, 2, 3)).value == time(1, 2, 3)


def test_a_lone_surrogate_beside_what_does_not_fit_is_refused_by_path():
    class Named(BaseModel):
        name: str
        count: int

    with pytest.raises(Unstorable) as refused:
        codec_for(Named).decode('{"name": "\\ud800", "count": "many"}')
    assert refused.value.path == "$.count"


class Payload(BaseModel):
    """As of a webhook: JSON in JSON."""

    body: Json[dict[str, int]]
    count: Json[int]
    tags: set[str] = set()


def test_a_kept_value_of_json_in_json_is_restored():
    codec = codec_for(Payload)
    kept = codec.keep(Payload(body='{"a": 1}', count="5", tags={"x", "y"}))
    assert codec.restore(kept.text) == kept.value
    assert kept.value.count == 5
    assert codec_for(Json[int]).restore(codec_for(Json[int]).keep(5).text) == 5
    with pytest.raises(Unstorable, match="an int that would now be a float"):
        codec_for(float).restore("3")


def test_a_function_that_never_returns_needs_no_codec():
    def fail() -> NoReturn:
        raise ValueError

    assert codec_of_returns(fail) is PLAIN
    assert codec_for(Never) is PLAIN


class Reading(BaseModel):
    raw: bytes = b""
    level: float = 0.0


@pytest.mark.parametrize(
    ("annotation", "value", "problem"),
    [
        (int, "5", "a str where int is annotated at $"),
        (None, 5, "an int where none is annotated at $"),
        (list[int], ["a"], "a list with a str where int is annotated at $"),
        (Reading, Reading.model_construct(level="x"), "a str where float is annotated at $.level"),
        (Reading, Reading(raw=b"\xff"), "ser_json_bytes='base64', val_json_bytes='base64'"),
        (Reading, Reading(level=math.nan), "ConfigDict(ser_json_inf_nan='strings')) at $.level"),
    ],
)
def test_a_value_that_does_not_fit_its_annotation_is_refused_with_what_to_do(
    annotation, value, problem
):
    with pytest.raises(Unstorable) as refused:
        codec_for(annotation).keep(value)
    assert problem in str(refused.value)


class Gauge:
    """A class of somebody's own that pydantic knows how to write, in part."""

    __slots__ = ("unit", "value")

    def __init__(self, value, unit="m"):
        self.value, self.unit = value, unit

    @classmethod
    def __get_pydantic_core_schema__(cls, source, handler):
        return core_schema.no_info_plain_validator_function(
            lambda value: value if isinstance(value, cls) else cls(value),
            serialization=core_schema.plain_serializer_function_ser_schema(lambda it: it.value),
        )


def test_what_is_held_in_slots_is_compared_too():
    assert codec_for(Gauge).keep(Gauge(3)).value.value == 3
    with pytest.raises(Unstorable, match=r"a str that would come back changed at \$\.unit"):
        codec_for(Gauge).keep(Gauge(3, "ft"))
