"""The table of routes: the handler dispatches by it, and OpenAPI is generated from it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ..jobs.filter import CURSOR
from ..wire.requests import JOB_NAME, RUN_ID
from .message import Refusal, Response
from .operations import Operations, RequestContext
from .query import Parameter

MAX_LIMIT = 200

Answer = Literal[
    "triggered", "run", "runs", "steps", "logs", "done", "retriggered", "jobs", "health", "stream",
    "text", "any",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Route:
    """One operation of the protocol."""

    method: Literal["GET", "POST", "DELETE"]
    path: str
    perform: Callable[[Operations, RequestContext], Awaitable[Response]]
    summary: str
    answer: Answer
    parameters: Sequence[Parameter] = ()
    labels: bool = False
    """Whether its query takes ``label.<name>=<value>``."""
    body: bool = False
    refuses: Sequence[int] = ()
    """The statuses with which it may refuse, beside those of every route."""
    open: bool = False
    """Whether it needs no authentication, as for monitoring."""

    @property
    def operation(self) -> str:
        """The name of its operation."""
        return self.perform.__name__

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
    choices=("pending", "running", "waiting", "completed", "failed", "cancelled", "leased"),
)
_AFTER = Parameter("after", "Only what comes after this number.", "number")

ROUTES: Sequence[Route] = (
    Route("POST", "/trigger", Operations.trigger, "Create a run.", "triggered", body=True,
          refuses=(404, 409, 413)),
    Route("GET", "/runs", Operations.runs, "List runs, newest first.", "runs", (
        _JOBS,
        _STATUSES,
        Parameter("limit", "At most this many.", "number", minimum=1, maximum=MAX_LIMIT, default=50),
        Parameter("offset", "Skip this many of the newest.", "number", default=0),
        Parameter("cursor", "Continue after this: the header Durably-Next-Cursor of the previous page.",
                  pattern=CURSOR),
    ), labels=True),
    Route("GET", "/run", Operations.run, "One run.", "run", (_RUN,), refuses=(404,)),
    Route("GET", "/steps", Operations.steps, "A run's steps, in order.", "steps", (_RUN, _AFTER),
          refuses=(404,)),
    Route("GET", "/logs", Operations.logs, "A run's stored log lines, oldest first.", "logs", (
        _RUN,
        _AFTER,
        Parameter("limit", "At most this many.", "number", minimum=1, maximum=1000, default=1000),
    ), refuses=(404,)),
    Route("POST", "/retry", Operations.retry, "Resume a failed or cancelled run.", "done", (_RUN,),
          refuses=(404, 409)),
    Route("POST", "/retrigger", Operations.retrigger, "A new run with an old one's input.", "retriggered",
          (_RUN,), refuses=(404, 409)),
    Route("POST", "/cancel", Operations.cancel, "Stop a run.", "done", (_RUN,), refuses=(404, 409)),
    Route("DELETE", "/run", Operations.delete, "Delete a finished run.", "done", (_RUN,),
          refuses=(404, 409)),
    Route("GET", "/jobs", Operations.jobs, "The jobs, with the JSON Schemas of their values.", "jobs"),
    Route("GET", "/subscribe", Operations.subscribe, "The events of one run, as they happen.", "stream",
          (_RUN, _AFTER), refuses=(404,)),
    Route("GET", "/runs/subscribe", Operations.runs_subscribe, "The events of all runs, reduced.", "stream",
          (_JOBS,), labels=True),
    Route("GET", "/healthz", Operations.healthz, "Whether this process works.", "health", open=True),
    Route("GET", "/readyz", Operations.readyz, "Whether it can take work.", "health", open=True),
    Route("GET", "/metrics", Operations.metrics, "Figures for Prometheus.", "text"),
    Route("GET", "/openapi.json", Operations.openapi, "This description.", "any"),
)  # fmt: skip

OPERATIONS: Mapping[str, Route] = {route.operation: route for route in ROUTES}
_BY_PATH: dict[str, dict[str, Route]] = {}
for _route in ROUTES:
    _BY_PATH.setdefault(_route.path, {})[_route.method] = _route


def methods_of(path: str) -> list[str]:
    """Return the methods of a path; none for an unknown path."""
    methods = [*_BY_PATH.get(path, {})]
    return ["HEAD", *methods] if "GET" in methods else methods


def find_route(method: str, path: str) -> Route:
    """Find the route of a request; ``Refusal`` 404 or 405."""
    routes = _BY_PATH.get(path)
    if routes is None:
        raise Refusal(404, "not_found", f"not found: {path[:200]}")
    if (route := routes.get("GET" if method == "HEAD" else method)) is None:
        allowed = ", ".join(methods_of(path))
        raise Refusal(
            405,
            "wrong_method",
            f"method not allowed: {method[:20]} {path}; allowed methods: {allowed}",
            headers=[("allow", allowed)],
        )
    return route
