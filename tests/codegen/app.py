"""Jobs with every kind of type that a schema can say."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NotRequired, TypeVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, JsonValue, WithJsonSchema, computed_field
from pydantic.alias_generators import to_camel
from typing_extensions import TypeAliasType, TypedDict

from durably import Durably, Step, SyncStep

T = TypeVar("T")

durably = Durably("jobs.db")


class Color(enum.Enum):
    """What a pen writes."""

    RED = "red"
    BLUE = "dark blue"


class Weight(enum.IntEnum):
    LIGHT = 1
    HEAVY = 9_007_199_254_740_993


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int = 9


class Dog(BaseModel):
    kind: Literal["dog"]
    tricks: set[str] = set()


class Node(BaseModel):
    """A node of a tree."""

    value: int = Field(1, description="How much.\n\nNever */ more than that.")
    children: list[Node] = []


class Box(BaseModel, Generic[T]):
    item: T


class Open(BaseModel):
    """It takes more than it says."""

    model_config = ConfigDict(extra="allow")

    id: int


class Empty(BaseModel):
    pass


class Odd(BaseModel):
    model_config = ConfigDict(serialize_by_alias=True)

    with_dash: int = Field(alias="with-dash")
    digit: str = Field(alias="1st")
    quoted: bool = Field(alias='a "b"\u2028')
    ugly: float = Field(alias="größe")
    class_: None = Field(alias="class")
    dollar: str = Field(alias="$ref")


@dataclass
class Point:
    x: float
    y: float = 0.0


class Bill(BaseModel):
    """What is to be paid."""

    model_config = ConfigDict(alias_generator=to_camel, validate_by_name=True)

    unit_price: Decimal
    how_many: int = 1

    @computed_field
    @property
    def total(self) -> Decimal:
        """All together."""
        return self.unit_price * self.how_many


class Partial(TypedDict):
    always: str
    sometimes: NotRequired[int]


Json = TypeAliasType("Json", "str | list[Json] | dict[str, Json] | None")


def told(**schema: Any) -> Any:
    """A value whose schema its author wrote."""
    return Annotated[Any, WithJsonSchema(schema)]


NAMED = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
AGED = {"type": "object", "properties": {"age": {"type": "integer"}}}


class Foreign(BaseModel):
    both: told(allOf=[NAMED, AGED])
    both_of_many: told(type="array", items={"allOf": [NAMED, AGED]})
    text_or_number: told(type=["string", "number", "null"])
    one_or_two: told(type="array", prefixItems=[{"type": "string"}, {"type": "null"}], minItems=1)
    exactly: told(type="array", prefixItems=[{"type": "string"}], minItems=1, items=False)
    by_pattern: told(
        type="object", patternProperties={"^x": {"type": "boolean"}}, additionalProperties=False
    )
    never: told(type="array", items=False)
    whatever: told(type="object", properties={"inner": True, "deeper": AGED})
    elsewhere: told(**{"$ref": "https://example.com/schema.json"})
    unheard_of: told(type="date")
    numbers: told(enum=[1.5, -2, "1.5", {"a": 1}])
    half_numbers: told(enum=[1.5, -2])
    above: told(type="integer", exclusiveMaximum=2**60)


class Everything(BaseModel):
    text: str
    count: int
    long: Annotated[int, Field(le=2**63)]
    longer: Annotated[int, Field(json_schema_extra={"format": "int64"})]
    ratio: float | None = None
    flag: bool = Field(True, deprecated=True)
    nothing: None
    anything: Any
    json_value: JsonValue
    recursive: Json
    when: datetime | None
    lasting: timedelta
    id: UUID
    money: Decimal
    data: bytes
    path: Path
    color: Color = Color.RED
    weight: Weight
    one_of: Literal["a", 1, True, None]
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]
    pets: list[Cat | Dog]
    pair: tuple[int, str]
    numbers: tuple[int, ...]
    mixed: tuple[()] | tuple[int | None, list[str]]
    lists: list[list[int | None]]
    by_name: dict[str, list[Point]]
    by_color: dict[Color, int]
    by_letter: dict[Literal["a", "b"], Node]
    anything_by_name: dict[str, Any]
    box: Box[int]
    other_box: Box[list[str]]
    open: Open
    empty: Empty
    odd: Odd
    partial: Partial
    foreign: Foreign


@durably.job("everything")
async def everything(step: Step, input: Everything) -> Everything:
    """Takes all there is, and gives it back.

    This is not told.
    """
    return input


@durably.job("grow/tree.v2")
async def grow(step: Step, input: Node) -> list[Node]:
    return [input]


@durably.job("grow tree v2")
async def grow_another(step: Step, input: dict[str, int]) -> tuple[Node, Color]:
    raise NotImplementedError


def make_namesake() -> type[BaseModel]:
    class Cat(BaseModel):
        """Another one."""

        name: str

    return Cat


Namesake = make_namesake()


class Shelter(BaseModel):
    cats: list[Namesake]  # type: ignore[valid-type]


@durably.job("2nd")
async def second(step: Step, input: Shelter) -> Shelter:
    return input


@durably.job("größe")
def size(step: SyncStep, input: int = 3) -> int | None:
    return input


@durably.job("nothing")
def nothing(step: SyncStep) -> None:
    pass


@durably.job("untyped")
def untyped(step, input):
    return input


class Jobs(BaseModel):
    done: bool = False


@durably.job("a namesake of the map")
async def count_jobs(step: Step, jobs: list[Jobs]) -> Jobs:
    return jobs[0]


@durably.job("pay")
async def pay(step: Step, input: Bill) -> Bill:
    """The names that are written are not those that are taken."""
    return input
