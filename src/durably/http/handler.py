"""The protocol without a framework: a request in, a response out.

Read ``handle`` top to bottom: route, gate, caller, query, and then the operation, one small method
each. What an operation raises becomes a refusal by one table.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
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
from ..jobs.filter import make_filter
from ..jobs.job import NO_INPUT, Job
from ..jobs.trigger import Trigger, bad_input, missing_input
from ..models import Disposition
from ..options import flag, one_of
from ..state import Status
from ..store.records import JournalRow, RunRow
from ..store.snapshots import log_from_row, steps_from_rows
from ..telemetry.prometheus import CONTENT_TYPE, expose
from ..telemetry.tracebacks import hide_frames
from ..values.codec import Unstorable
from ..values.text import dump_json, load_json
from ..wire.published import DIALECTS, Dialect
from ..wire.requests import (
    Triggered,
    TriggerRequest,
    statuses_from_wire,
    trigger_from_wire,
    trigger_of,
    triggered_to_wire,
)
from ..wire.runs import (
    ErrorPolicy,
    JobInfo,
    health_to_wire,
    job_to_wire,
    log_to_wire,
    run_to_wire,
    step_to_wire,
)
from ..wire.strict_json import WireError, dump
from .auth import Caller, Gate, Operation, check_auth, hear
from .messages import Refusal, Request, Response, respond
from .openapi import describe
from .routes import MAX_NUMBER, OPERATIONS, Query, Route, find_route, methods_of
from .sse import Stream
from .streams import Limits, Streams

logger = logging.getLogger("durably")

ENVELOPE = 16_384  # bytes of a trigger's body beside its input
PAGE_BYTES = (
    4_194_304  # of a page of a list; a single run, step or line that is larger passes alone
)
_AT_ONCE = 4  # pages that are read and encoded
_LARGE = 65_536  # bytes that are not encoded on the event loop


OnRequest = Callable[[Request], Awaitable[None] | None]
"""What is called, and awaited where it is async, before each request."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A request that was let in."""

    request: Request
    route: Route
    query: Query
    caller: Caller


class HandlerOptions(TypedDict, total=False):
    """What ``durably.handler``, ``.asgi`` and ``.wsgi`` pass on."""

    auth: Any
    public: bool
    origins: Collection[str]
    errors: ErrorPolicy
    compat: str | None
    limits: Limits | None
    on_request: OnRequest | None


class Handler:
    """``handle(request)``, and each operation by itself. Make it with ``durably.handler(...)``.

    ``auth``: who may do what (``durably.http.Auth``). Without it only this machine is answered,
    unless ``public`` is True. ``origins``: other origins whose pages may call, exactly as browsers
    write them (``https://app.example.com``). ``errors``: how much is told of why runs fail.
    ``compat``: ``"0.15"`` speaks as the published client of the TypeScript library wants it.
    ``limits``: see ``Limits``. ``on_request``: called with each request before anything else is done
    about it, plain or async; it may open the instance, or raise a ``Refusal``.
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
            raise ConfigurationError(f"compat must be one of {known}, or None; not {compat!r}")
        if auth is not None:
            check_auth(auth)
        for origin in origins:
            if "://" not in origin or origin.endswith("/") or "*" in origin:
                raise ConfigurationError(
                    f"origin {origin!r} is not written as browsers do, as 'https://app.example.com'"
                )
        self._engine = engine
        self._vocabulary = DIALECTS[compat]
        self._errors: ErrorPolicy = one_of("errors", errors, ("full", "message", "none"))
        self._on_request = on_request
        self._opened, self._semaphore = 0, asyncio.Semaphore(_AT_ONCE)
        self._documents: dict[tuple[str, ...], bytes] = {}
        self._gate = Gate(auth, public=flag("public", public), origins=origins)
        self._streams = Streams(engine, self._vocabulary, self._errors, limits or Limits())
        if auth is None and public:
            logger.warning("public=True: anybody who reaches this server can do everything")

    @property
    def max_body_bytes(self) -> int:
        """How large the body of a request may be."""
        return self._engine.options.max_input_bytes + ENVELOPE

    # -- the way of a request

    async def handle(self, request: Request) -> Response:
        """Answer a request. Raises nothing but what cancels it."""
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
            refusal = _refusal_of(error, self._vocabulary)
            if refusal is None:
                number = self._engine.runtime.token()[:12]
                logger.error(
                    "%s %s failed (request %s)", route.method, route.path, number,
                    exc_info=hide_frames(error),
                )  # fmt: skip
                message = f"something went wrong here; the log knows it as request {number}"
                refusal = Refusal(500, "internal", message, more={"requestId": number})
            answer = refusal.response()
        return await self._finish(request, answer)

    async def _answer(self, route: Route, request: Request) -> Response:
        if self._on_request is not None:
            await hear(self._on_request, request)
        self._gate.check_peer(request)
        self._gate.check_embedding(request)
        if route.is_unsafe:
            self._gate.check_origin(request)
        caller = Caller(None, None, None) if route.open else await self._gate.admit(request)
        ask = Ask(request, route, Query(request, route), caller)
        operation: Callable[[Ask], Awaitable[Response]] = getattr(self, f"_{route.operation}")
        return await operation(ask)

    async def _finish(self, request: Request, response: Response) -> Response:
        headers = [*response.headers, *self._gate.cors(request)]
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
            raise Refusal(404, "not_found", "there is nothing at this path")
        allowed = [
            ("access-control-allow-methods", ", ".join(methods)),
            (
                "access-control-allow-headers",
                "content-type, x-durably, authorization, last-event-id",
            ),
            ("access-control-max-age", "600"),
        ]
        cors = self._gate.cors(request)
        known = any(name == "access-control-allow-origin" for name, _ in cors)
        return Response(204, [*cors, *(allowed if known else [])], b"")

    async def _row(self, ask: Ask, operation: Operation) -> RunRow:
        """The run that is asked for, if it is this caller's: else there is none."""
        ask.caller.check_access()
        row = await self._engine.runs.get_row(ask.query.run_id)
        if row is None or not await ask.caller.may_access(row, operation):
            raise RunNotFoundError(ask.query.run_id)
        return row

    # -- each operation by itself, for those who route themselves

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

    # -- what they do

    async def _trigger(self, ask: Ask) -> Response:
        body = await ask.request.read(self._engine.options.max_input_bytes + ENVELOPE)
        allowed = await ask.caller.may_trigger(trigger_from_wire(body, self._vocabulary))
        row, disposition = await self._enqueue(allowed, ask.caller.scope or "")
        may_see = disposition == "created" or await ask.caller.recognizes(row)
        asked = "return=representation" in ask.request.headers.get("prefer", "")
        if not (may_see and asked):
            return respond(triggered_to_wire(Triggered(row.id, disposition)))
        make = await self._wire_of(row)
        return await self._respond(
            lambda: triggered_to_wire(Triggered(row.id, disposition, make())), _size_of(row)
        )

    async def _enqueue(
        self, request: TriggerRequest, scope: str, stored: str | None = None
    ) -> tuple[RunRow, Disposition]:
        """``stored``: the input, if it is that of a run, which was admitted once."""
        job = self._engine.jobs.get(request.job)
        if job is None:
            raise JobNotFoundError(f"there is no job {request.job[:255]!r} here")
        if stored is None:
            input = _input(job, request, self._engine.options.max_input_bytes)
        else:
            input = _stored_input(job, stored)
        keys = (request.idempotency_key, request.concurrency_key)
        trigger = Trigger(input, *keys, request.labels, scope, request.coalesce)
        return (await self._engine.runs.enqueue([self._engine.runs.new_run(job, trigger)]))[0]

    async def _runs(self, ask: Ask) -> Response:
        query = ask.query
        filter = make_filter(
            query.texts("jobName"),
            statuses_from_wire(query.texts("status"), self._vocabulary),
            query.labels,
            query.number("limit"),
            query.number("offset"),
            query.text("cursor"),
        )
        filter = await ask.caller.scoped(filter, live=False)
        async with self._turns:
            page = await self._engine.runs.page_of_runs(filter, PAGE_BYTES)
            counts = await self._engine.runs.count_steps(page.rows)
            now = self._engine.runtime.now()
            return await self._respond(
                lambda: [
                    run_to_wire(row, count, self._vocabulary, self._errors, now)
                    for row, count in zip(page.rows, counts, strict=True)
                ],
                sum(map(_size_of, page.rows)),
                page.last,
                is_partial=page.last is not None and len(page.rows) < filter.limit,
            )

    async def _run(self, ask: Ask) -> Response:
        row = await self._row(ask, "run")
        return await self._respond(await self._wire_of(row), _size_of(row))

    async def _wire_of(self, row: RunRow) -> Callable[[], dict[str, Any]]:
        (count,) = await self._engine.runs.count_steps([row])
        now = self._engine.runtime.now()
        return lambda: run_to_wire(row, count, self._vocabulary, self._errors, now)

    async def _steps(self, ask: Ask) -> Response:
        row = await self._row(ask, "steps")
        after = ask.query.number("after")
        async with self._turns:
            page = await self._engine.runs.page_of_steps(row.id, after, PAGE_BYTES)
            return await self._respond(
                lambda: [
                    step_to_wire(step, row.id, self._vocabulary, self._errors)
                    for step in steps_from_rows(page.rows)
                ],
                _size_of_lines(page.rows),
                page.last,
            )

    async def _logs(self, ask: Ask) -> Response:
        row = await self._row(ask, "logs")
        after, limit = ask.query.number("after"), ask.query.number("limit")
        async with self._turns:
            page = await self._engine.runs.page_of_logs(row.id, after, limit, PAGE_BYTES)
            return await self._respond(
                lambda: [log_to_wire(log_from_row(line), self._vocabulary) for line in page.rows],
                _size_of_lines(page.rows),
                page.last,
            )

    @property
    def _turns(self) -> asyncio.Semaphore:
        """A few pages are made at once. However many are wanted, other requests wait for these only.

        One for each time that the instance was opened, which may be on another event loop.
        """
        if self._opened != self._engine.times_opened:
            self._opened, self._semaphore = self._engine.times_opened, asyncio.Semaphore(_AT_ONCE)
        return self._semaphore

    async def _respond(
        self, make: Callable[[], Any], size: int, last: object = None, *, is_partial: bool = False
    ) -> Response:
        """An answer of about ``size`` bytes, and after what the next page begins. What is large is
        encoded in a thread: meanwhile the event loop serves the others, and the worker."""
        headers = [] if last is None else [("durably-next-cursor", str(last))]
        if is_partial:  # for clients that count their pages by an offset
            headers.append(("durably-page", "partial"))
        if size < _LARGE or not self._engine.runtime.threads:
            return respond(make(), headers=headers)
        return await asyncio.to_thread(lambda: respond(make(), headers=headers))

    async def _retry(self, ask: Ask) -> Response:
        row = await self._row(ask, "retry")
        await self._engine.runs.retry(row.id)
        return _DONE

    async def _retrigger(self, ask: Ask) -> Response:
        row = await self._row(ask, "retrigger")
        if not Status(row.status).is_final:  # before a hook counts it
            raise RunConflictError(row.id, "retrigger", row.status)
        again = trigger_of(row)
        allowed = await ask.caller.may_trigger(again)  # it makes a new run, like any trigger
        if allowed == again:
            new_id = (await self._engine.runs.retrigger(row.id)).id
        else:
            stored = row.input if allowed.input == again.input else None
            new_id = (await self._enqueue(allowed, row.scope, stored))[0].id
        return respond({"success": True, "runId": new_id})

    async def _cancel(self, ask: Ask) -> Response:
        row = await self._row(ask, "cancel")
        await self._engine.runs.cancel(row.id)
        return _DONE

    async def _delete(self, ask: Ask) -> Response:
        row = await self._row(ask, "delete")
        await self._engine.runs.delete_run(row.id)
        return _DONE

    async def _jobs(self, ask: Ask) -> Response:
        await ask.caller.may_read("on_jobs")
        return respond([job_to_wire(_info(job)) for job in self._engine.jobs.values()])

    async def _subscribe(self, ask: Ask) -> Response:
        row = await self._row(ask, "subscribe")

        async def may(now: Caller) -> bool:
            row = await self._engine.runs.get_row(ask.query.run_id)
            return row is None or await now.may_access(row, "subscribe")

        check = self._still(ask, may)
        return await self._streams.of_run(row.id, _last_seen(ask), ask.caller.principal, check)

    async def _runs_subscribe(self, ask: Ask) -> Response:
        asked = make_filter(ask.query.texts("jobName"), (), ask.query.labels, 1, 0, None)
        filter = await ask.caller.scoped(asked, live=True)
        was_away = "last-event-id" in ask.request.headers

        async def may(now: Caller) -> bool:
            return await now.scoped(asked, live=True) == filter

        check = self._still(ask, may)
        return await self._streams.of_list(filter, ask.caller.principal, check, was_away=was_away)

    def _still(
        self, ask: Ask, may: Callable[[Caller], Awaitable[bool]]
    ) -> Callable[[], Awaitable[bool]]:
        """What asks, from time to time, whether a stream's client may still have it."""

        async def check() -> bool:
            try:
                return await may(await self._gate.admit(ask.request))
            except Refusal:
                return False
            except Exception as error:
                text = "a stream ends: whether it may go on could not be decided"
                logger.error(text, exc_info=hide_frames(error))
                return False

        return check

    @property
    def streams(self) -> int:
        """How many streams are open."""
        return len(self._streams)

    def close_streams(self, while_: Callable[[], bool] | None = None) -> None:
        """End every stream, and begin no more while ``while_()`` is true, by default until the
        instance is opened again: the server is stopping. The clients come back."""
        self._streams.close(while_)

    async def _healthz(self, ask: Ask) -> Response:
        health = await self._engine.health()
        return respond(health_to_wire(health), 200 if health.is_alive else 503)

    async def _readyz(self, ask: Ask) -> Response:
        health = await self._engine.health()
        return respond(health_to_wire(health), 200 if health.is_ready else 503)

    async def _metrics(self, ask: Ask) -> Response:
        await ask.caller.may_read("on_metrics")
        runs = await self._engine.runs.count_runs()
        # Also those that are not registered here: perhaps no process registers them, and their runs wait.
        ages = await self._engine.runs.queue_ages(
            job for job, status, _ in runs if not Status(status).is_final
        )
        text = expose(self._engine.metrics, runs, ages, self.streams)
        return respond(None, body=text.encode(), kind=CONTENT_TYPE)

    async def _openapi(self, ask: Ask) -> Response:
        jobs: Mapping[str, Job[Any, Any]] = {}
        with suppress(Refusal):
            await ask.caller.may_read("on_jobs")
            jobs = self._engine.jobs
        names = tuple(jobs)
        if names not in self._documents:
            document = describe([_info(job) for job in jobs.values()], self._vocabulary)
            self._documents = {**self._documents, names: dump(document)}
        return respond(None, body=self._documents[names])


_DONE = respond({"success": True})
_REFUSALS: Mapping[type[Exception], tuple[int, str]] = {
    WireError: (400, "invalid_request"),
    InvalidInputError: (400, "invalid_input"),
    ConfigurationError: (400, "invalid_request"),
    JobNotFoundError: (404, "job_not_found"),
    RunNotFoundError: (404, "run_not_found"),
    RunConflictError: (409, "conflict"),
}


def _refusal_of(error: Exception, dialect: Dialect) -> Refusal | None:
    """How an error of ours is told. What is wrong with the database is nobody's business outside."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, ClosedError):
        logger.warning("a request came while this was closed: %s", error)
        message = (
            "Durably is not started here: begin it with the server (lifespan=durably.lifespan)"
        )
        return Refusal(503, "not_started", message, headers=[("retry-after", "1")])
    if isinstance(error, StorageError):
        logger.warning("a request could not be answered: %s", error)
        again = [("retry-after", "1")]
        return Refusal(503, "unavailable", "the database is not available", headers=again)
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


def _last_seen(ask: Ask) -> int | None:
    """The number after which the client wants the journal; None: it knows nothing yet."""
    header = ask.request.headers.get("last-event-id", "")
    if not header:
        return None if ask.query.text("after") is None else ask.query.number("after")
    if not (header.isascii() and header.isdigit() and len(header) <= 16) or (
        int(header) > MAX_NUMBER
    ):
        raise Refusal(400, "invalid_request", "Last-Event-ID must be a number that an event had")
    return int(header)


def _size_of(row: RunRow) -> int:
    return len(row.input) + len(row.output or "")


def _size_of_lines(lines: Sequence[JournalRow]) -> int:
    return sum(len(line.data or "") for line in lines)


def _input(job: Job[Any, Any], wanted: TriggerRequest, limit: int) -> Any:
    """An input as the job's type; ``{}``, which a missing one is, does for a job that takes none."""
    given = wanted.input
    if given == {} and not wanted.has_input:
        if job.default is not None:
            return NO_INPUT
        for nothing in ("{}", "null"):
            with suppress(Unstorable):
                return job.input.parse(nothing)
        raise missing_input(job, 'send one as "input"')
    if not job.takes_input and given == {}:
        given = None
    text = dump_json(given)
    if len(text) > limit:
        message = f"the input has {len(text):,} bytes as ASCII, over the limit of {limit:,}"
        raise Refusal(413, "too_large", message)
    try:
        return job.input.parse(text)
    except Unstorable as problem:
        raise bad_input(job, problem) from None


def _stored_input(job: Job[Any, Any], text: str) -> Any:
    try:
        return job.input.decode(text)
    except Unstorable as problem:
        raise bad_input(job, problem) from None


def _info(job: Job[Any, Any]) -> JobInfo:
    input = job.input.schema()
    if job.default is not None:
        input = {**input, "default": load_json(job.default)}
    return JobInfo(job.name, input, job.output.schema(written=True))
