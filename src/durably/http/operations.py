"""The operations of the protocol: each takes an admitted request and makes its response.

``routes.ROUTES`` names the operation of each method and path. Operations raise the library's errors;
``handler`` turns them into refusals.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ..engine.engine import Engine
from ..errors import JobNotFoundError, RunConflictError, RunNotFoundError
from ..jobs.filter import make_filter
from ..jobs.job import Job
from ..jobs.trigger import Trigger
from ..models import Disposition
from ..state import Status
from ..store.records import JournalRow, RunRow
from ..store.snapshots import log_from_row, steps_from_rows
from ..telemetry.prometheus import CONTENT_TYPE, expose
from ..telemetry.tracebacks import hide_frames
from ..wire.published import Dialect
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
from ..wire.strict_json import dump
from .auth import Caller, Operation
from .inputs import decode_stored, job_info, parse_input
from .message import Refusal, Request, Response, respond
from .query import MAX_NUMBER, Query
from .streams import Streams

logger = logging.getLogger("durably")

ENVELOPE = 16_384  # bytes of a trigger's body beside its input
PAGE_BYTES = (
    4_194_304  # of a page of a list; one run, step or log line that is larger is still sent
)
_PAGES_AT_ONCE = 4  # that are read and encoded at the same time
_LARGE = 65_536  # bytes; responses from this size on are encoded in a thread


@dataclass(frozen=True, slots=True)
class RequestContext:
    """An admitted request: what it asks for, and who sent it."""

    request: Request
    query: Query
    caller: Caller


class Operations:
    """The operations on one engine.

    ``authenticate`` finds a request's caller again while its stream is open. ``describe`` builds the
    OpenAPI document for these jobs.
    """

    def __init__(
        self,
        engine: Engine,
        streams: Streams,
        dialect: Dialect,
        errors: ErrorPolicy,
        *,
        authenticate: Callable[[Request], Awaitable[Caller]],
        describe: Callable[[Sequence[JobInfo], Dialect], dict[str, Any]],
    ) -> None:
        self._engine, self._streams = engine, streams
        self._dialect = dialect
        self._errors: ErrorPolicy = errors
        self._authenticate, self._describe = authenticate, describe
        self._opened, self._semaphore = 0, asyncio.Semaphore(_PAGES_AT_ONCE)
        self._documents: dict[tuple[str, ...], bytes] = {}

    async def _row(self, context: RequestContext, operation: Operation) -> RunRow:
        """Find the requested run. ``RunNotFoundError`` also for a run that this caller may not access."""
        context.caller.check_access()
        row = await self._engine.runs.get_row(context.query.run_id)
        if row is None or not await context.caller.may_access(row, operation):
            raise RunNotFoundError(context.query.run_id)
        return row

    async def trigger(self, context: RequestContext) -> Response:
        """POST /trigger: create a run, or find the one with the same key."""
        body = await context.request.read(self.max_body_bytes)
        allowed = await context.caller.may_trigger(trigger_from_wire(body, self._dialect))
        row, disposition = await self._enqueue(allowed, context.caller.scope or "")
        may_see = disposition == "created" or await context.caller.recognizes(row)
        wants_run = "return=representation" in context.request.headers.get("prefer", "")
        if not (may_see and wants_run):
            return respond(triggered_to_wire(Triggered(row.id, disposition)))
        encode = await self._run_encoder(row)
        return await self._respond(
            lambda: triggered_to_wire(Triggered(row.id, disposition, encode())), _size_of(row)
        )

    @property
    def max_body_bytes(self) -> int:
        """How large the body of a request may be."""
        return self._engine.options.max_input_bytes + ENVELOPE

    async def _enqueue(
        self, request: TriggerRequest, scope: str, stored: str | None = None
    ) -> tuple[RunRow, Disposition]:
        """Create a run. ``stored``: the input as a run has stored it, which needs no check again."""
        job = self._engine.jobs.get(request.job)
        if job is None:
            raise JobNotFoundError(f"job not found: {request.job[:255]!r}")
        if stored is None:
            input = parse_input(job, request, self._engine.options.max_input_bytes)
        else:
            input = decode_stored(job, stored)
        keys = (request.idempotency_key, request.concurrency_key)
        trigger = Trigger(input, *keys, request.labels, scope, request.coalesce)
        return (await self._engine.runs.enqueue([self._engine.runs.new_run(job, trigger)]))[0]

    async def runs(self, context: RequestContext) -> Response:
        """GET /runs: list runs, newest first."""
        query = context.query
        filter = make_filter(
            query.texts("jobName"),
            statuses_from_wire(query.texts("status"), self._dialect),
            query.labels,
            query.number("limit"),
            query.number("offset"),
            query.text("cursor"),
        )
        filter = await context.caller.scoped(filter, live=False)
        async with self._page_slots:
            page = await self._engine.runs.page_of_runs(filter, PAGE_BYTES)
            counts = await self._engine.runs.count_steps(page.rows)
            now = self._engine.runtime.now()
            return await self._respond(
                lambda: [
                    run_to_wire(row, count, self._dialect, self._errors, now)
                    for row, count in zip(page.rows, counts, strict=True)
                ],
                sum(map(_size_of, page.rows)),
                page.last,
                is_partial=page.last is not None and len(page.rows) < filter.limit,
            )

    async def run(self, context: RequestContext) -> Response:
        """GET /run: one run."""
        row = await self._row(context, "run")
        return await self._respond(await self._run_encoder(row), _size_of(row))

    async def _run_encoder(self, row: RunRow) -> Callable[[], dict[str, Any]]:
        (count,) = await self._engine.runs.count_steps([row])
        now = self._engine.runtime.now()
        return lambda: run_to_wire(row, count, self._dialect, self._errors, now)

    async def steps(self, context: RequestContext) -> Response:
        """GET /steps: a run's steps, in order."""
        row = await self._row(context, "steps")
        after = context.query.number("after")
        async with self._page_slots:
            page = await self._engine.runs.page_of_steps(row.id, after, PAGE_BYTES)
            return await self._respond(
                lambda: [
                    step_to_wire(step, row.id, self._dialect, self._errors)
                    for step in steps_from_rows(page.rows)
                ],
                _size_of_lines(page.rows),
                page.last,
            )

    async def logs(self, context: RequestContext) -> Response:
        """GET /logs: a run's stored log lines, oldest first."""
        row = await self._row(context, "logs")
        after, limit = context.query.number("after"), context.query.number("limit")
        async with self._page_slots:
            page = await self._engine.runs.page_of_logs(row.id, after, limit, PAGE_BYTES)
            return await self._respond(
                lambda: [log_to_wire(log_from_row(line), self._dialect) for line in page.rows],
                _size_of_lines(page.rows),
                page.last,
            )

    @property
    def _page_slots(self) -> asyncio.Semaphore:
        """Limit how many pages are made at once, so that other requests wait for these only.

        Each time that the instance is opened has its own semaphore: it may be on another event loop.
        """
        if self._opened != self._engine.times_opened:
            self._opened, self._semaphore = (
                self._engine.times_opened,
                asyncio.Semaphore(_PAGES_AT_ONCE),
            )
        return self._semaphore

    async def _respond(
        self, encode: Callable[[], Any], size: int, last: object = None, *, is_partial: bool = False
    ) -> Response:
        """Respond with about ``size`` bytes; ``last`` is the cursor of the next page.

        Large responses are encoded in a thread, so that the event loop goes on with other requests and
        the worker.
        """
        headers = [] if last is None else [("durably-next-cursor", str(last))]
        if is_partial:  # for clients that count their pages by an offset
            headers.append(("durably-page", "partial"))
        if size < _LARGE or not self._engine.runtime.threads:
            return respond(encode(), headers=headers)
        return await asyncio.to_thread(lambda: respond(encode(), headers=headers))

    async def retry(self, context: RequestContext) -> Response:
        """POST /retry: resume a failed or cancelled run."""
        row = await self._row(context, "retry")
        await self._engine.runs.retry(row.id)
        return _DONE

    async def retrigger(self, context: RequestContext) -> Response:
        """POST /retrigger: create a run with an old one's input."""
        row = await self._row(context, "retrigger")
        if not Status(row.status).is_final:  # before a hook counts the trigger
            raise RunConflictError(row.id, "retrigger", row.status)
        original = trigger_of(row)
        allowed = await context.caller.may_trigger(original)  # it creates a run, like any trigger
        if allowed == original:
            new_id = (await self._engine.runs.retrigger(row.id)).id
        else:
            stored = row.input if allowed.input == original.input else None
            new_id = (await self._enqueue(allowed, row.scope, stored))[0].id
        return respond({"success": True, "runId": new_id})

    async def cancel(self, context: RequestContext) -> Response:
        """POST /cancel: stop a run."""
        row = await self._row(context, "cancel")
        await self._engine.runs.cancel(row.id)
        return _DONE

    async def delete(self, context: RequestContext) -> Response:
        """DELETE /run: delete a finished run."""
        row = await self._row(context, "delete")
        await self._engine.runs.delete_run(row.id)
        return _DONE

    async def jobs(self, context: RequestContext) -> Response:
        """GET /jobs: the jobs with their schemas."""
        await context.caller.may_read("on_jobs")
        return respond([job_to_wire(job_info(job)) for job in self._engine.jobs.values()])

    async def subscribe(self, context: RequestContext) -> Response:
        """GET /subscribe: stream the events of one run."""
        row = await self._row(context, "subscribe")

        async def is_allowed(caller: Caller) -> bool:
            row = await self._engine.runs.get_row(context.query.run_id)
            return row is None or await caller.may_access(row, "subscribe")

        check = self._recheck(context, is_allowed)
        return await self._streams.of_run(
            row.id, _last_seen(context), context.caller.principal, check
        )

    async def runs_subscribe(self, context: RequestContext) -> Response:
        """GET /runs/subscribe: stream the reduced events of all runs."""
        requested = make_filter(
            context.query.texts("jobName"), (), context.query.labels, 1, 0, None
        )
        filter = await context.caller.scoped(requested, live=True)
        was_away = "last-event-id" in context.request.headers

        async def is_allowed(caller: Caller) -> bool:
            return await caller.scoped(requested, live=True) == filter

        check = self._recheck(context, is_allowed)
        return await self._streams.of_list(
            filter, context.caller.principal, check, was_away=was_away
        )

    def _recheck(
        self, context: RequestContext, is_allowed: Callable[[Caller], Awaitable[bool]]
    ) -> Callable[[], Awaitable[bool]]:
        """Return the check, made from time to time, that a stream's client may still receive it."""

        async def check() -> bool:
            try:
                return await is_allowed(await self._authenticate(context.request))
            except Refusal:
                return False
            except Exception as error:
                text = "a stream ends: checking whether its client may still receive it failed"
                logger.error(text, exc_info=hide_frames(error))
                return False

        return check

    async def healthz(self, context: RequestContext) -> Response:
        """GET /healthz: whether this process works."""
        health = await self._engine.health()
        return respond(health_to_wire(health), 200 if health.is_alive else 503)

    async def readyz(self, context: RequestContext) -> Response:
        """GET /readyz: whether it can be given work."""
        health = await self._engine.health()
        return respond(health_to_wire(health), 200 if health.is_ready else 503)

    async def metrics(self, context: RequestContext) -> Response:
        """GET /metrics: figures for Prometheus."""
        await context.caller.may_read("on_metrics")
        runs = await self._engine.runs.count_runs()
        # Jobs that are not registered here too: perhaps no process registers them, and their runs wait.
        ages = await self._engine.runs.queue_ages(
            job for job, status, _ in runs if not Status(status).is_final
        )
        text = expose(self._engine.metrics, runs, ages, len(self._streams))
        return respond(None, body=text.encode(), kind=CONTENT_TYPE)

    async def openapi(self, context: RequestContext) -> Response:
        """GET /openapi.json: the description of the protocol."""
        jobs: Mapping[str, Job[Any, Any]] = {}
        with suppress(Refusal):
            await context.caller.may_read("on_jobs")
            jobs = self._engine.jobs
        names = tuple(jobs)
        if names not in self._documents:
            document = self._describe([job_info(job) for job in jobs.values()], self._dialect)
            self._documents = {**self._documents, names: dump(document)}
        return respond(None, body=self._documents[names])


_DONE = respond({"success": True})


def _last_seen(context: RequestContext) -> int | None:
    """Return the number after which the client needs events; None if it has none yet."""
    header = context.request.headers.get("last-event-id", "")
    if not header:
        return None if context.query.text("after") is None else context.query.number("after")
    if not (header.isascii() and header.isdigit() and len(header) <= 16) or (
        int(header) > MAX_NUMBER
    ):
        raise Refusal(
            400,
            "invalid_request",
            f"Last-Event-ID must be the id of an event, got {header[:100]!r}",
        )
    return int(header)


def _size_of(row: RunRow) -> int:
    return len(row.input) + len(row.output or "")


def _size_of_lines(lines: Sequence[JournalRow]) -> int:
    return sum(len(line.data or "") for line in lines)
