"""The query parameters of requests: what a route declares, and what a request gives, checked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ..jobs.checks import check_name
from ..wire.requests import LABEL, MAX_TEXT, RUN_ID
from .message import Refusal, Request

MAX_NUMBER = 2**53 - 1


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter that the query of a route may have."""

    name: str
    description: str
    kind: Literal["text", "number"] = "text"
    required: bool = False
    repeats: bool = False
    """Whether it may be given several times, to match any of its values."""
    minimum: int = 0
    maximum: int = MAX_NUMBER
    default: int | None = None
    choices: Sequence[str] = ()
    pattern: str = ""


class Query:
    """The query of a request, checked against the parameters of its route.

    ``labels``: whether ``label.<name>=<value>`` is accepted.
    """

    def __init__(self, request: Request, parameters: Sequence[Parameter], *, labels: bool) -> None:
        known = {parameter.name for parameter in parameters}
        self.labels: dict[str, str] = {}
        for name, value in request.query:
            label = name.removeprefix(LABEL)
            if labels and label != name:
                if label in self.labels:
                    raise _bad(f"{name[:100]!r} must be given once, got 2 values")
                self.labels[_text(name, label)] = _text(name, value)
            elif name not in known:
                raise _bad(f"unknown parameter {name[:100]!r}; {_known(parameters, labels=labels)}")
        self._values = {
            parameter.name: [
                _checked(parameter, value)
                for name, value in request.query
                if name == parameter.name
            ]
            for parameter in parameters
        }
        self._defaults = {parameter.name: parameter.default or 0 for parameter in parameters}
        for parameter in parameters:
            given = len(self._values[parameter.name])
            if given > 1 and not parameter.repeats:
                raise _bad(f"{parameter.name} must be given once, got {given} values")
            if parameter.required and not given:
                raise _bad(f"missing parameter {parameter.name}")

    def texts(self, name: str) -> list[str]:
        """Return all values of a parameter that may repeat."""
        return self._values[name]

    def text(self, name: str) -> str | None:
        """Return the value of a parameter; None if it was not given."""
        return next(iter(self._values[name]), None)

    def number(self, name: str) -> int:
        """Return the value of a number, or its default."""
        value = self.text(name)
        return self._defaults[name] if value is None else int(value)

    @property
    def run_id(self) -> str:
        """The id of the run that the request is about."""
        return self._values[RUN_ID][0]


def _known(parameters: Sequence[Parameter], *, labels: bool) -> str:
    names = [parameter.name for parameter in parameters]
    names += [f"{LABEL}<name>"] if labels else []
    return f"known parameters: {', '.join(names)}" if names else "this operation takes none"


def _checked(parameter: Parameter, value: str) -> str:
    name = parameter.name
    if parameter.kind == "number":
        ok = value.isascii() and value.isdigit() and len(value) <= 16
        if not ok or not parameter.minimum <= int(value) <= parameter.maximum:
            bounded = parameter.maximum < MAX_NUMBER
            upper = f"between {parameter.minimum} and {parameter.maximum}"
            limits = upper if bounded else f"of at least {parameter.minimum}"
            raise _bad(f"{name} must be a whole number {limits}, got {value[:100]!r}")
        return value
    if parameter.choices and value not in parameter.choices:
        raise _bad(f"{name} must be one of {', '.join(parameter.choices)}; got {value[:100]!r}")
    if parameter.pattern and not re.fullmatch(parameter.pattern, value):
        raise _bad(f"{name} must be a value that this server returned, got {value[:100]!r}")
    return _text(name, value)


def _text(name: str, value: str) -> str:
    try:
        return check_name(repr(name[:100]), value, MAX_TEXT)
    except ValueError as error:
        raise _bad(str(error)) from None


def _bad(message: str) -> Refusal:
    return Refusal(400, "invalid_request", message)
