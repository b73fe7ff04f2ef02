"""Whose annotations hold for a function, and what their text means where it was written."""

from __future__ import annotations

import functools
import gc
import sys
import types
import typing
import weakref
from collections.abc import Awaitable
from typing import Annotated, Any, Literal, Optional

import pytest
from pydantic import BaseModel, Field

from durably import errors, job
from durably.values.codec import PLAIN, codec_for, codec_of_returns

if typing.TYPE_CHECKING:
    from nowhere import Missing  # type: ignore[import-not-found]


class Node(BaseModel):
    n: int


class Cat(BaseModel):
    name: str


class Dog(BaseModel):
    name: str


def traced(fn):
    @functools.wraps(fn)
    def inner(*args, **kwargs):
        return fn(*args, **kwargs)

    return inner


@traced
def ratio() -> float:
    return 2.5


@traced
def count() -> int:
    return 3


@traced
@traced
def pair() -> tuple[int, int]:
    return (1, 2)


def test_functions_that_share_their_code_have_codecs_of_their_own():
    def of(kind, value):
        def get() -> kind:
            return kind and value

        return get

    for _ in range(2):
        for fn, expected in (
            (ratio, 2.5), (count, 3), (pair, (1, 2)), (of(float, 1.5), 1.5), (of(int, 3), 3),
        ):  # fmt: skip
            kept = codec_of_returns(fn).keep(fn()).value
            assert (type(kept), kept) == (type(expected), expected)


def test_a_function_is_not_kept_alive_by_its_codec():
    def local() -> int:
        return 1

    assert codec_of_returns(local) is codec_of_returns(local)
    gone = weakref.ref(local)
    del local
    gc.collect()
    assert gone() is None


class Api:
    def __call__(self) -> Node:
        return Node(n=1)

    def method(self) -> Node:
        return Node(n=1)


@functools.lru_cache
def cached() -> Node:
    return Node(n=1)


async def later() -> Node:
    return Node(n=1)


def soon() -> Awaitable[Node]:
    return later()


@pytest.mark.parametrize(
    "fn",
    [
        Api(), Api().method, Api.method, functools.partial(Api()), cached, later, soon,
        traced(later), functools.partial(traced(cached)), traced(functools.partial(later)),
    ],
)  # fmt: skip
def test_the_annotation_is_found_behind_whatever_is_called(fn):
    assert codec_of_returns(fn) is codec_for(Node)


def test_what_has_no_annotation_is_plain():
    class Bare:
        n: int

        def __call__(self):
            return 1

    for fn in (lambda: 1, len, str.upper, Bare(), Bare, functools.partial(print)):
        assert codec_of_returns(fn) is PLAIN


@pytest.mark.parametrize("first", [Cat, Dog])
def test_the_order_of_a_union_is_part_of_a_type(first):
    for kind in (Dog | Cat, Cat | Dog, Optional[Dog | Cat], typing.Union[Cat, Dog]):  # noqa: UP007, UP045
        codec_for(kind)
    other = Dog if first is Cat else Cat
    value = first(name="x")
    for kind in (first | other, list[first | other], dict[str, first | other | None]):
        given: Any = value
        if kind != first | other:
            given = [value] if typing.get_origin(kind) is list else {"a": value}
        assert codec_for(kind).keep(given).value == given


def module(name: str, body: str) -> types.ModuleType:
    made = types.ModuleType(name)
    exec(body, made.__dict__)
    return made


BODY = """
from typing import Annotated, Literal, Optional
from pydantic import BaseModel
def nodes() -> list["Node"]: return [Node({0})]
def maybe() -> Optional["Node"]: return Node({0})
def noted() -> Annotated[dict[str, "Node"], "text is no type"]: return dict(a=Node({0}))
def either() -> Literal["Node"] | list["Node"]: return "Node"
def whole() -> "list[Node]": return [Node({0})]
class Node(BaseModel): {1}
"""


def test_names_within_a_type_are_those_of_the_functions_module():
    one, two = (
        module("one", BODY.format("a=1", "a: int")),
        module("two", BODY.format("b='x'", "b: str")),
    )
    for made in (one, two):
        for name in ("nodes", "maybe", "noted", "either", "whole"):
            fn = getattr(made, name)
            assert codec_of_returns(fn).keep(fn()).value == fn()


def needs_one(step: Missing, n: int, *, also: Missing = None) -> int:
    return n


def test_only_the_annotations_that_are_needed_are_looked_up():
    assert codec_of_returns(needs_one) is codec_for(int)
    made = job("needs-one")(needs_one)
    assert made.input.accept(1).value == 1
    assert made.output is codec_for(int)


def test_a_job_whose_types_cannot_be_found_is_refused_where_it_is_defined():
    def whole(step: Any, input: Missing) -> None: ...

    def inner(step: Any, input: list[Missing]) -> None: ...

    def result(step: Any) -> dict[str, Missing]: ...

    for fn in (whole, inner, result):
        with pytest.raises(errors.ConfigurationError, match=r"job 'x': .*'Missing'"):
            job("x")(fn)


def test_a_type_that_pydantic_does_not_know_is_named():
    class Foreign:
        pass

    def foreign() -> Foreign:
        return Foreign()

    with pytest.raises(
        TypeError, match=r"Foreign is not a type that can be kept as JSON: .*returns="
    ):
        codec_of_returns(foreign)
    with pytest.raises(errors.ConfigurationError, match=r"job 'x': .*Foreign"):

        @job("x")
        def takes(step, foreign: Foreign) -> None: ...


def test_a_name_in_returns_is_no_type():
    with pytest.raises(TypeError, match="names a type by text"):
        codec_for(list["Node"])


def test_metadata_and_literals_are_not_names():
    assert codec_for(Literal["Node"]).keep("Node").value == "Node"
    assert codec_for(Annotated[int, Field(gt=0), "Node"]).keep(1).value == 1


@pytest.mark.skipif(sys.version_info < (3, 12), reason="type parameters came with 3.12")
def test_a_type_parameter_is_found():
    scope: dict[str, Any] = {}
    exec("def first[T: int](x: T) -> 'list[T]': return [x]", scope)
    assert codec_of_returns(scope["first"]).keep([1]).value == [1]
