"""The schema of what is written describes what is written: all of it, under the names that it has there."""

import json
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, NamedTuple, NotRequired

import pytest
from jsonschema import Draft202012Validator
from pydantic import BaseModel, ConfigDict, Field, computed_field
from pydantic.alias_generators import to_camel
from typing_extensions import TypedDict

from durably.values.codec import PLAIN, codec_for


class Price(BaseModel):
    amount: Decimal = Decimal("1.50")
    tags: list[str] = []

    @computed_field
    @property
    def doubled(self) -> Decimal:
        return self.amount * 2


class Plain(BaseModel):
    """Its alias is understood, but not written."""

    model_config = ConfigDict(alias_generator=to_camel, validate_by_name=True)

    unit_price: int


class Camel(BaseModel):
    """Its alias is written, and the names of what is in it are not."""

    model_config = ConfigDict(alias_generator=to_camel, serialize_by_alias=True)

    unit_price: int
    plain_one: Plain = Plain(unit_price=1)


class Unsaid(BaseModel):
    zero: Annotated[int, Field(exclude_if=lambda value: value == 0)] = 0
    one: int = 1


@dataclass
class Point:
    x: float
    y: Decimal = Decimal(0)


class Pair(NamedTuple):
    first: int
    second: str = ""


class Partial(TypedDict):
    always: Decimal
    sometimes: NotRequired[int]


WRITTEN: list[tuple[Any, Any, set[str]]] = [
    (Price, Price(), {"amount", "tags", "doubled"}),
    (Plain, Plain(unit_price=1), {"unit_price"}),
    (Camel, Camel(unitPrice=2), {"unitPrice", "plainOne"}),
    (Unsaid, Unsaid(), {"one"}),
    (Point, Point(1.5), {"x", "y"}),
    (Partial, {"always": Decimal(3)}, {"always"}),
]


@pytest.mark.parametrize(
    ("type", "value", "required"), WRITTEN, ids=[case[0].__name__ for case in WRITTEN]
)
def test_it_is_of_what_is_written(type, value, required):
    schema = codec_for(type).schema(written=True)
    written = json.loads(codec_for(type).keep(value).text)
    Draft202012Validator(schema | {"additionalProperties": False}).validate(written)
    assert set(schema["required"]) == required == written.keys()


def test_an_alias_within_an_alias_is_written_as_its_own_model_says():
    definitions = codec_for(list[Camel]).schema(written=True)["$defs"]
    assert definitions["Camel"]["properties"].keys() == {"unitPrice", "plainOne"}
    assert definitions["Plain"]["properties"].keys() == {"unit_price"}


def test_a_named_tuple_is_written_whole():
    assert codec_for(Pair).schema()["minItems"] == 1
    assert codec_for(Pair).schema(written=True)["minItems"] == 2


def test_a_decimal_is_given_in_two_ways_and_written_in_one():
    assert len(codec_for(Decimal).schema()["anyOf"]) == 2
    assert codec_for(Decimal).schema(written=True)["type"] == "string"


def test_what_may_be_left_out_is_said_of_what_is_given_alone():
    assert "required" not in codec_for(Price).schema()


@pytest.mark.parametrize("written", [False, True])
def test_what_no_schema_describes_is_anything(written):
    assert PLAIN.schema(written=written) == {}
    assert codec_for(type[int]).schema(written=written) == {}
