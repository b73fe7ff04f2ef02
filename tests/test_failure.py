"""What is kept of an exception says why."""

import json
import subprocess
from dataclasses import dataclass
from datetime import date
from typing import Annotated
from urllib.error import HTTPError, URLError

import pytest
from pydantic import AfterValidator, BaseModel, Field, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from durably.errors import StepFailedError, StepValueError
from durably.worker.failure import (
    MAX_MESSAGE,
    error_info,
    failure_from_json,
    failure_to_json,
    to_text,
)


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError


def test_a_group_tells_what_is_in_it():
    inner = ExceptionGroup("inner", [ValueError("bad row"), Mute()])
    group = ExceptionGroup(
        "unhandled errors in a TaskGroup", [ConnectionError("smtp.example refused"), inner]
    )
    assert error_info(group).type == "ExceptionGroup"
    assert error_info(group).message == (
        "unhandled errors in a TaskGroup (2 sub-exceptions): ConnectionError: smtp.example refused; "
        "ValueError: bad row; Mute: <Mute whose str() raises>"
    )


def test_of_a_large_group_the_first_are_named_and_the_rest_counted():
    group = ExceptionGroup("many", [OSError(str(n)) for n in range(100)])
    assert error_info(group).message == (
        "many (100 sub-exceptions): OSError: 0; OSError: 1; OSError: 2 (and 97 more)"
    )
    long = ExceptionGroup("many", [OSError("x" * 100_000)] * 3)
    assert len(error_info(long).message) < MAX_MESSAGE


def test_text_of_anything_can_be_stored():
    assert to_text("a\0\ud800", 100) == "a\\x00\\ud800"
    assert to_text(Mute(), 100) == "<Mute whose str() raises>"


class DeclinedError(Exception):
    """As most classes of one's own are: its arguments are not what ``__init__`` wants."""

    __slots__ = ("bank",)

    def __init__(self, code, response=None):
        super().__init__(f"declined: {code}")
        self.code, self.response, self.bank = code, response, "b1"


class CodeError(Exception):
    def __init__(self, code):
        self.code = code

    def __str__(self):
        return f"code {self.code:d}"


def again(error):
    """The error as a later attempt raises it."""
    return failure_from_json(failure_to_json(error, error_info(error, "pay")))


def raised_by(fn):
    with pytest.raises(Exception) as caught:
        fn()
    return caught.value


def test_an_error_raised_again_has_its_attributes():
    error = again(DeclinedError("51", response=object()))
    assert (type(error), str(error)) == (DeclinedError, "declined: 51")
    assert (error.code, error.bank) == ("51", "b1")
    assert not hasattr(error, "response")  # what is not plain JSON is not kept
    assert "failed in an earlier attempt" in error.__notes__[0]
    assert again(StepValueError("no", path="$.a")).path == "$.a"


@pytest.mark.parametrize(
    "error",
    [
        subprocess.CalledProcessError(1, ["ls", "-l"], output=b"x"),
        subprocess.TimeoutExpired(["sleep"], 3),
        CodeError(7),
        raised_by(lambda: open("/nowhere/at/all")),
        raised_by(b"\xff".decode),
        raised_by(lambda: json.loads("{")),
        ValueError(object()),
        URLError(OSError(1, "down")),
        HTTPError("http://a.b/", 404, "not found", None, None),
        TimeoutError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_raised_again_is_caught_and_reads_as_it_was(error):
    found = again(error)
    assert isinstance(found, type(error))
    assert str(found) == str(error)


def test_an_error_without_its_parts_has_the_text_that_was_kept():
    error = CodeError(object)
    error.code = 7
    text = failure_to_json(error, error_info(error, "pay")).replace('"code":7', '"other":7')
    found = failure_from_json(text)
    assert isinstance(found, CodeError)
    assert (type(found).__name__, str(found)) == ("CodeError", "code 7")


def test_a_group_raised_again_has_the_errors_that_were_in_it():
    class Unknown(Exception):
        """No later attempt finds it: it is local to a function."""

    inner = ExceptionGroup("inner", [CodeError(7), Unknown("gone")])
    error = again(ExceptionGroup("two", [ConnectionError("refused"), inner]))
    caught = []
    try:
        raise error
    except* ConnectionError as refused:
        caught += refused.exceptions
    except* CodeError as coded:
        (group,) = coded.exceptions
        caught += group.exceptions
    except* StepFailedError as unknown:
        (group,) = unknown.exceptions
        caught += group.exceptions
    assert [str(one) for one in caught] == ["refused", "code 7", "Unknown: gone"]
    assert caught[2].type == "Unknown"


def test_what_is_too_large_to_be_raised_again_is_told_by_its_class():
    error = again(ExceptionGroup("many", [CodeError(n) for n in range(10_000)]))
    assert isinstance(error, StepFailedError)
    assert error.type == "ExceptionGroup"
    large = again(DeclinedError("x" * 100_000))
    assert isinstance(large, DeclinedError)
    assert not hasattr(large, "code")
    assert len(str(large)) < MAX_MESSAGE + 100


@dataclass(frozen=True)
class FrozenError(Exception):
    code: int


class ArgumentsError(Exception):
    args = None  # type: ignore[assignment]


def test_an_error_that_is_frozen_has_a_traceback_and_is_raised_again():
    error = again(raised_by(raise_frozen))
    assert (type(error), error.code) == (FrozenError, 5)
    assert "raise_frozen" in error.__notes__[0]


def raise_frozen():
    raise FrozenError(5)


def test_describing_a_failure_never_fails():
    deep: Exception = ValueError("leaf")
    for _ in range(3_000):
        deep = ExceptionGroup("deep", [deep])
    for error in (ArgumentsError("a"), deep):
        assert isinstance(again(error), StepFailedError)
    assert error_info(deep).message == "deep (1 sub-exception): ValueError: leaf"


def odd(value):
    if value == 5:
        raise ValueError("five")
    raise PydanticCustomError("no_odds", "No {odds}", {"odds": "odds"})


class Row(BaseModel):
    count: int = Field(gt=0)
    sizes: list[Annotated[int, AfterValidator(odd)]] = []


@pytest.mark.parametrize(
    "read",
    [
        lambda: Row.model_validate({"count": 0, "sizes": ["x", 5, 7]}),
        lambda: Row.model_validate_json('{"count": "x", "sizes": {}}'),
        lambda: TypeAdapter(dict[str, Row]).validate_json("{"),
    ],
)
def test_a_validation_error_is_raised_again(read):
    first = raised_by(read)
    error = again(first)
    assert isinstance(error, ValidationError)
    assert str(error) == str(first)
    assert [line["loc"] for line in error.errors()] == [line["loc"] for line in first.errors()]


def test_a_validation_error_without_its_inputs_where_they_are_not_plain():
    error = again(raised_by(lambda: Row.model_validate({"count": date(2026, 1, 1)})))
    assert isinstance(error, ValidationError)
    assert "Input should be a valid integer [type=int_type]" in str(error)
