"""The table of routes: it routes, it checks what is asked for, and OpenAPI is generated from it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ..jobs.checks import check_name
from ..jobs.filter import CURSOR
from ..wire.requests import JOB_NAME, LABEL, MAX_TEXT, RUN_ID
from .messages import Refusal, Request

MAX_NUMBER = 2**53 - 1
MAX_LIMIT = 200

Answer = Literal[
    "triggered", "run", "runs", "steps", "logs", "done", "retriggered", "jobs", "health", "stream",
    "text", "any",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Parameter:
    """What a query may hold."""

    name: str
    description: str
    kind: Literal["text", "number"] = "text"
    required: bool = False
    repeats: bool = False
    """Several of it mean: one or another."""
    least: int = 0
    most: int = MAX_NUMBER
    default: int | None = None
    words: Sequence[str] = ()
    pattern: str = ""


@dataclass(frozen=True, slots=True)
class Route:
    """One operation of the protocol."""

    method: Literal["GET", "POST", "DELETE"]
    path: str
    operation: str
    summary: str
    answer: Answer
    parameters: Sequence[Parameter] = ()
    labels: bool = False
    """Whether ``label.<name>=<value>`` may be asked for."""
    body: bool = False
    refuses: Sequence[int] = ()
    """With which statuses, beside those of every route."""
    open: bool = False
    """Asked without credentials, by what watches over the server."""

    @property
    def is_unsafe(self) -> bool:
        """Whether it changes anything."""
        return self.method != "GET"

    @property
    def refusals(self) -> list[int]:
        """All statuses with which it may refuse."""
        more = (415,) if self.is_unsafe else ()
        return sorted({*_EVERYWHERE, *self.refuses, *more} - ({401} if self.open else set()))


_EVERYWHERE = (400, 401, 403, 414, 500, 503)


_RUN = Parameter(RUN_ID, "The run's id.", required=True)
_JOBS = Parameter(JOB_NAME, "Runs of this job; repeat it for several.", repeats=True)
_STATUSES = Parameter(
    "status",
    "Runs in this status; repeat it for several.",
    repeats=True,
    words=("pending", "running", "waiting", "completed", "failed", "cancelled", "leased"),
)
_AFTER = Parameter("after", "Tell what comes after this number.", "number")

ROUTES: Sequence[Route] = (
    Route("POST", "/trigger", "trigger", "Create a run.", "triggered", body=True,
          refuses=(404, 409, 413)),
    Route("GET", "/runs", "runs", "List runs, newest first.", "runs", (
        _JOBS,
        _STATUSES,
        Parameter("limit", "At most so many.", "number", least=1, most=MAX_LIMIT, default=50),
        Parameter("offset", "Leave out so many of the newest.", "number", default=0),
        Parameter("cursor", "Go on after this: the header Durably-Next-Cursor of the page before.",
                  pattern=CURSOR),
    ), labels=True),
    Route("GET", "/run", "run", "One run.", "run", (_RUN,), refuses=(404,)),
    Route("GET", "/steps", "steps", "A run's steps, in order.", "steps", (_RUN, _AFTER),
          refuses=(404,)),
    Route("GET", "/logs", "logs", "A run's kept log lines, oldest first.", "logs", (
        _RUN,
        _AFTER,
        Parameter("limit", "At most so many.", "number", least=1, most=1000, default=1000),
    ), refuses=(404,)),
    Route("POST", "/retry", "retry", "Resume a failed or cancelled run.", "done", (_RUN,),
          refuses=(404, 409)),
    Route("POST", "/retrigger", "retrigger", "A new run with an old one's input.", "retriggered",
          (_RUN,), refuses=(404, 409)),
    Route("POST", "/cancel", "cancel", "Stop a run.", "done", (_RUN,), refuses=(404, 409)),
    Route("DELETE", "/run", "delete", "Delete a run that is over.", "done", (_RUN,),
          refuses=(404, 409)),
    Route("GET", "/jobs", "jobs", "The jobs, with the JSON Schemas of their values.", "jobs"),
    Route("GET", "/subscribe", "subscribe", "The events of one run, as they happen.", "stream",
          (_RUN, _AFTER), refuses=(404,)),
    Route("GET", "/runs/subscribe", "runs_subscribe", "The events of all runs, reduced.", "stream",
          (_JOBS,), labels=True),
    Route("GET", "/healthz", "healthz", "Whether this process works.", "health", open=True),
    Route("GET", "/readyz", "readyz", "Whether it can be given work.", "health", open=True),
    Route("GET", "/metrics", "metrics", "Figures for Prometheus.", "text"),
    Route("GET", "/openapi.json", "openapi", "This description.", "any"),
)  # fmt: skip

OPERATIONS: Mapping[str, Route] = {route.operation: route for route in ROUTES}
_BY_PATH: dict[str, dict[str, Route]] = {}
for _route in ROUTES:
    _BY_PATH.setdefault(_route.path, {})[_route.method] = _route


def methods_of(path: str) -> list[str]:
    """The methods that a path has; empty for a path that there is not."""
    methods = [*_BY_PATH.get(path, {})]
    return ["HEAD", *methods] if "GET" in methods else methods


def find_route(method: str, path: str) -> Route:
    """The route of a request; ``Refusal`` 404 or 405."""
    routes = _BY_PATH.get(path)
    if routes is None:
        raise Refusal(404, "not_found", "there is nothing at this path")
    if (route := routes.get("GET" if method == "HEAD" else method)) is None:
        allowed = ", ".join(methods_of(path))
        raise Refusal(
            405, "wrong_method", f"this path allows {allowed}", headers=[("allow", allowed)]
        )
    return route


class Query:
    """What a request asks for, checked against its route."""

    def __init__(self, request: Request, route: Route) -> None:
        known = {parameter.name: parameter for parameter in route.parameters}
        self.labels: dict[str, str] = {}
        for name, value in request.query:
            label = name.removeprefix(LABEL)
            if route.labels and label != name:
                if label in self.labels:
                    raise _bad(f"{name} was given twice")
                self.labels[_text(name, label)] = _text(name, value)
            elif name not in known:
                raise _bad(f"there is no parameter {name[:100]!r} here; {_known(route)}")
        self._values = {
            parameter.name: [
                _checked(parameter, value)
                for name, value in request.query
                if name == parameter.name
            ]
            for parameter in route.parameters
        }
        self._defaults = {parameter.name: parameter.default or 0 for parameter in route.parameters}
        for parameter in route.parameters:
            given = len(self._values[parameter.name])
            if given > 1 and not parameter.repeats:
                raise _bad(f"{parameter.name} was given {given} times")
            if parameter.required and not given:
                raise _bad(f"{parameter.name} is missing")

    def texts(self, name: str) -> list[str]:
        """All values of a parameter that repeats."""
        return self._values[name]

    def text(self, name: str) -> str | None:
        """The value of a parameter."""
        return next(iter(self._values[name]), None)

    def number(self, name: str) -> int:
        """The value of a parameter that is a number, or what it is by default."""
        value = self.text(name)
        return self._defaults[name] if value is None else int(value)

    @property
    def run_id(self) -> str:
        """The run that is asked for."""
        return self._values[RUN_ID][0]


def _known(route: Route) -> str:
    names = [parameter.name for parameter in route.parameters]
    names += [f"{LABEL}<name>"] if route.labels else []
    return f"there are: {', '.join(names)}" if names else "it takes none"


def _checked(parameter: Parameter, value: str) -> str:
    name = parameter.name
    if parameter.kind == "number":
        ok = value.isascii() and value.isdigit() and len(value) <= 16
        if not ok or not parameter.least <= int(value) <= parameter.most:
            most = f" to {parameter.most}" if parameter.most < MAX_NUMBER else " or more"
            raise _bad(f"{name} must be a whole number, {parameter.least}{most}")
        return value
    if parameter.words and value not in parameter.words:
        raise _bad(f"{name} must be one of {', '.join(parameter.words)}; not {value[:100]!r}")
    if parameter.pattern and not re.fullmatch(parameter.pattern, value):
        raise _bad(f"{name} must be one that this server gave, not {value[:100]!r}")
    return _text(name, value)


def _text(name: str, value: str) -> str:
    try:
        return check_name(repr(name[:100]), value, MAX_TEXT)
    except ValueError as error:
        raise _bad(str(error)) from None


def _bad(message: str) -> Refusal:
    return Refusal(400, "invalid_request", message)
