"""The protocol without a framework: a request in, a response out.

Read ``handle`` from top to bottom: the route, the guard, the query, then the route's operation. What an
operation raises becomes a refusal by one table.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, TypedDict

from ..engine.engine import Engine
from ..errors import (
    ClosedError,
    ConfigurationError,
    InvalidInputError,
    JobNotFoundError,
    RunConflictError,
    RunNotFoundError,
    StorageError,
)
from ..options import flag, one_of
from ..telemetry.tracebacks import hide_frames
from ..wire.published import DIALECTS, Dialect
from ..wire.runs import ErrorPolicy
from ..wire.strict_json import WireError
from .auth import call_hook, check_auth
from .guard import Guard
from .message import Refusal, Request, Response
from .openapi import describe
from .operations import Operations, RequestContext
from .query import Query
from .routes import OPERATIONS, Route, find_route, methods_of
from .sse import Stream
from .streams import Limits, Streams

logger = logging.getLogger("durably")

OnRequest = Callable[[Request], Awaitable[None] | None]
"""A hook that is called, and awaited if it is async, before each request."""


class HandlerOptions(TypedDict, total=False):
    """The options of ``durably.handler``, ``.asgi`` and ``.wsgi``."""

    auth: Any
    public: bool
    origins: Collection[str]
    errors: ErrorPolicy
    compat: str | None
    limits: Limits | None
    on_request: OnRequest | None


class Handler:
    """Answers requests: ``handle(request)``, or one method for each operation.

    Make it with ``durably.handler(...)``.

    ``auth``: who may do what (``durably.http.Auth``). Without it only requests from this machine are
    accepted, unless ``public`` is True. ``origins``: other origins whose pages may send requests,
    exactly as browsers write them (``https://app.example.com``). ``errors``: how much is sent of why
    runs fail. ``compat``: ``"0.15"`` for the published client of the TypeScript library. ``limits``: see
    ``Limits``. ``on_request``: called with each request first, plain or async; it may open the instance,
    or raise a ``Refusal``.

    Raises ``ConfigurationError``.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        auth: Any | None = None,
        public: bool = False,
        origins: Collection[str] = (),
        errors: ErrorPolicy = "message",
        compat: str | None = None,
        limits: Limits | None = None,
        on_request: OnRequest | None = None,
    ) -> None:
        if compat not in DIALECTS:
            known = ", ".join(repr(name) for name in DIALECTS if name)
            raise ConfigurationError(f"compat must be one of {known}, or None; got {compat!r}")
        if auth is not None:
            check_auth(auth)
        for origin in origins:
            if "://" not in origin or origin.endswith("/") or "*" in origin:
                raise ConfigurationError(
                    f"origin {origin!r} must be written as browsers do, as 'https://app.example.com'"
                )
        self._engine = engine
        self._dialect = DIALECTS[compat]
        self._on_request = on_request
        errors = one_of("errors", errors, ("full", "message", "none"))
        self._guard = Guard(auth, public=flag("public", public), origins=origins)
        self._streams = Streams(engine, self._dialect, errors, limits or Limits())
        self._operations = Operations(
            engine,
            self._streams,
            self._dialect,
            errors,
            authenticate=self._guard.authenticate,
            describe=describe,
        )
        if auth is None and public:
            logger.warning("public=True: anybody who can reach this server may do everything")

    @property
    def max_body_bytes(self) -> int:
        """How large the body of a request may be."""
        return self._operations.max_body_bytes

    async def handle(self, request: Request) -> Response:
        """Answer a request. Raises nothing except on cancellation."""
        try:
            if request.method == "OPTIONS" and "access-control-request-method" in request.headers:
                return self._preflight(request)
            route = find_route(request.method, request.path)
        except Refusal as refusal:
            return await self._finish(request, refusal.response())
        return await self._serve(route, request)

    async def _serve(self, route: Route, request: Request) -> Response:
        try:
            answer = await self._answer(route, request)
        except Exception as error:
            refusal = _refusal_of(error, self._dialect)
            if refusal is None:
                number = self._engine.runtime.token()[:12]
                logger.error(
                    "%s %s failed (request %s)", route.method, route.path, number,
                    exc_info=hide_frames(error),
                )  # fmt: skip
                message = f"internal error; the server's log has it as request {number}"
                refusal = Refusal(500, "internal", message, more={"requestId": number})
            answer = refusal.response()
        return await self._finish(request, answer)

    async def _answer(self, route: Route, request: Request) -> Response:
        if self._on_request is not None:
            await call_hook(self._on_request, request)
        caller = await self._guard.admit(request, route)
        query = Query(request, route.parameters, labels=route.labels)
        return await route.perform(self._operations, RequestContext(request, query, caller))

    async def _finish(self, request: Request, response: Response) -> Response:
        headers = [*response.headers, *self._guard.cors(request)]
        body = response.body
        if request.method == "HEAD":
            if isinstance(body, bytes):
                headers.append(("content-length", str(len(body))))
            elif isinstance(body, Stream):
                await body.aclose()
            body = b""
        return Response(response.status, headers, body)

    def _preflight(self, request: Request) -> Response:
        methods = methods_of(request.path)
        if not methods:
            raise Refusal(404, "not_found", f"not found: {request.path[:200]}")
        allowed = [
            ("access-control-allow-methods", ", ".join(methods)),
            (
                "access-control-allow-headers",
                "content-type, x-durably, authorization, last-event-id",
            ),
            ("access-control-max-age", "600"),
        ]
        cors = self._guard.cors(request)
        known = any(name == "access-control-allow-origin" for name, _ in cors)
        return Response(204, [*cors, *(allowed if known else [])], b"")

    # -- each operation, for applications that do the routing

    async def trigger(self, request: Request) -> Response:
        """POST /trigger"""
        return await self._serve(OPERATIONS["trigger"], request)

    async def runs(self, request: Request) -> Response:
        """GET /runs"""
        return await self._serve(OPERATIONS["runs"], request)

    async def run(self, request: Request) -> Response:
        """GET /run?runId="""
        return await self._serve(OPERATIONS["run"], request)

    async def steps(self, request: Request) -> Response:
        """GET /steps?runId="""
        return await self._serve(OPERATIONS["steps"], request)

    async def logs(self, request: Request) -> Response:
        """GET /logs?runId="""
        return await self._serve(OPERATIONS["logs"], request)

    async def retry(self, request: Request) -> Response:
        """POST /retry?runId="""
        return await self._serve(OPERATIONS["retry"], request)

    async def retrigger(self, request: Request) -> Response:
        """POST /retrigger?runId="""
        return await self._serve(OPERATIONS["retrigger"], request)

    async def cancel(self, request: Request) -> Response:
        """POST /cancel?runId="""
        return await self._serve(OPERATIONS["cancel"], request)

    async def delete(self, request: Request) -> Response:
        """DELETE /run?runId="""
        return await self._serve(OPERATIONS["delete"], request)

    async def jobs(self, request: Request) -> Response:
        """GET /jobs"""
        return await self._serve(OPERATIONS["jobs"], request)

    async def subscribe(self, request: Request) -> Response:
        """GET /subscribe?runId="""
        return await self._serve(OPERATIONS["subscribe"], request)

    async def runs_subscribe(self, request: Request) -> Response:
        """GET /runs/subscribe"""
        return await self._serve(OPERATIONS["runs_subscribe"], request)

    @property
    def streams(self) -> int:
        """The number of open streams."""
        return len(self._streams)

    def close_streams(self, while_: Callable[[], bool] | None = None) -> None:
        """End every stream, because the server is stopping; clients reconnect. No stream is opened
        while ``while_()`` is true, by default until the instance is opened again."""
        self._streams.close(while_)


_REFUSALS: Mapping[type[Exception], tuple[int, str]] = {
    WireError: (400, "invalid_request"),
    InvalidInputError: (400, "invalid_input"),
    ConfigurationError: (400, "invalid_request"),
    JobNotFoundError: (404, "job_not_found"),
    RunNotFoundError: (404, "run_not_found"),
    RunConflictError: (409, "conflict"),
}


def _refusal_of(error: Exception, dialect: Dialect) -> Refusal | None:
    """Turn an error of this library into a refusal. Details of the database are only logged."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, ClosedError):
        logger.warning("refused a request because the instance is closed: %s", error)
        message = "Durably is not started; start it with the server (lifespan=durably.lifespan)"
        return Refusal(503, "not_started", message, headers=[("retry-after", "1")])
    if isinstance(error, StorageError):
        logger.warning("refused a request because the database failed: %s", error)
        again = [("retry-after", "1")]
        return Refusal(503, "unavailable", "database not available", headers=again)
    for kind, (status, code) in _REFUSALS.items():
        if isinstance(error, kind):
            more: dict[str, Any] = {}
            if isinstance(error, WireError):
                code = error.code
            if (path := getattr(error, "path", None)) is not None:
                more["path"] = path
            if isinstance(error, RunConflictError):
                more["status"] = dialect.statuses.get(error.status, error.status)
                error = RunConflictError(error.run_id, error.action, more["status"])
            return Refusal(status, code, str(error), more=more)
    return None
