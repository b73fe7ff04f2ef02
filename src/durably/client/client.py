"""The client of a Durably server: the calls, types and errors of ``Durably``, over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, Literal, cast, overload

import httpx2
from typing_extensions import Unpack

from ..errors import (
    RunNotFoundError,
)
from ..events import AnyEvent, LogWrite, Resync
from ..handle import JobHandle
from ..jobs.checks import check_coalesce, check_key, check_labels
from ..jobs.filter import make_filter
from ..jobs.job import NO_INPUT, InputOptional, Job, N
from ..jobs.trigger import ClientTriggerOptions, ClientWaitOptions, call_for_event
from ..models import CompletedRun, I, LogEntry, O, Progress, Run, StepRecord
from ..options import optional, positive, text, whole
from ..runtime import Runtime, Seconds
from ..state import Status
from ..store.records import RunFilter
from ..terminal import Show, open_bar, title_of
from ..values.codec import Unstorable
from ..wire.events import ListEvent
from ..wire.requests import TriggerRequest
from ..wire.runs import JobInfo
from .connection import Connection
from .server import PAGE, Server
from .subscription import RunStream, list_events
from .waiting import Waiting, completed_or_raise, draw_progress, encode_input

AnyJob = Job[I, O, N] | JobHandle[I, O, N]
Watch = Callable[[AnyEvent], object]


class DurablyClient:
    """Calls a Durably server over HTTP, with the methods of ``Durably``.

    ``url``: of the API, as ``http://127.0.0.1:8000/api/durably``.
    ``headers``, ``auth``: sent with each request; a bearer token is
    ``headers={"authorization": "Bearer ..."}``, and ``auth=("name", "password")`` is Basic.
    ``timeout``: seconds to connect, and between parts of an answer.
    ``retries``: how often a request without an answer is sent again, where that is harmless.
    ``transport``: an ``httpx2`` transport, for proxies, certificates, or an ASGI application.

    Creating it does no I/O. ``async with`` closes its connections at the end, as ``close()`` does. It
    belongs to the event loop on which it is first used.
    """

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        auth: httpx2.Auth | tuple[str, str] | None = None,
        timeout: Seconds = 30.0,
        retries: int = 3,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        self._connection = Connection(
            url,
            headers=headers or {},
            auth=auth,
            timeout=positive("timeout", timeout),
            retries=whole("retries", retries),
            transport=transport,
            runtime=Runtime(),
        )
        self._server = Server(self._connection)
        self._jobs: dict[str, Job[Any, Any]] = {}

    def __repr__(self) -> str:
        return f"DurablyClient({self._connection.url!r})"

    async def __aenter__(self) -> DurablyClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections; subscriptions end with ``ClosedError``."""
        await self._connection.close()

    # -- trigger and wait

    @overload
    async def trigger(
        self, job: str, input: Any = ..., **options: Unpack[ClientTriggerOptions]
    ) -> Run: ...
    @overload
    async def trigger(
        self, job: AnyJob[None, O], input: None = None, **options: Unpack[ClientTriggerOptions]
    ) -> Run[None, O]: ...
    @overload
    async def trigger(
        self,
        job: AnyJob[I, O, InputOptional],
        input: I = ...,
        **options: Unpack[ClientTriggerOptions],
    ) -> Run[I, O]: ...
    @overload
    async def trigger(
        self, job: AnyJob[I, O], input: I, **options: Unpack[ClientTriggerOptions]
    ) -> Run[I, O]: ...
    async def trigger(
        self,
        job: AnyJob[Any, Any] | str,
        input: Any = NO_INPUT,
        *,
        idempotency_key: str | None = None,
        concurrency_key: str | None = None,
        coalesce: Literal["skip"] | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> Run[Any, Any]:
        """Create a pending run, as ``JobHandle.trigger``.

        With a ``Job`` or a handle the input is checked here and the run is typed; with a name the
        input is plain JSON. Only with an ``idempotency_key`` is a trigger sent again if it is
        unknown whether it arrived.

        Raises ``InvalidInputError``, ``JobNotFoundError``.
        """
        name, known = (job, None) if isinstance(job, str) else (job.name, self._remember(job))
        request = TriggerRequest(
            name,
            encode_input(name, known, input),
            check_key("idempotency_key", idempotency_key),
            check_key("concurrency_key", concurrency_key),
            check_labels(labels or {}),
            coalesce if check_coalesce(coalesce, concurrency_key) else None,
            has_input=input is not NO_INPUT or (known is not None and known.takes_input),
        )
        return await self._server.trigger(request, known)

    @overload
    async def trigger_and_wait(
        self, job: str, input: Any = ..., **options: Unpack[ClientWaitOptions]
    ) -> CompletedRun: ...
    @overload
    async def trigger_and_wait(
        self, job: AnyJob[None, O], input: None = None, **options: Unpack[ClientWaitOptions]
    ) -> CompletedRun[None, O]: ...
    @overload
    async def trigger_and_wait(
        self, job: AnyJob[I, O, InputOptional], input: I = ..., **options: Unpack[ClientWaitOptions]
    ) -> CompletedRun[I, O]: ...
    @overload
    async def trigger_and_wait(
        self, job: AnyJob[I, O], input: I, **options: Unpack[ClientWaitOptions]
    ) -> CompletedRun[I, O]: ...
    async def trigger_and_wait(
        self,
        job: AnyJob[Any, Any] | str,
        input: Any = NO_INPUT,
        *,
        idempotency_key: str | None = None,
        concurrency_key: str | None = None,
        coalesce: Literal["skip"] | None = None,
        labels: Mapping[str, str] | None = None,
        timeout: Seconds | None = None,
        on_progress: Callable[[Progress], object] | None = None,
        on_log: Callable[[LogWrite], object] | None = None,
    ) -> CompletedRun[Any, Any]:
        """``trigger``, then ``wait``; the run keeps the ``disposition`` of its trigger."""
        run: Run[Any, Any] = await self.trigger(
            cast("Any", job),
            input,
            idempotency_key=idempotency_key,
            concurrency_key=concurrency_key,
            coalesce=coalesce,
            labels=labels,
        )
        known = None if isinstance(job, str) else self._remember(job)
        watch = partial(call_for_event, on_progress=on_progress, on_log=on_log)
        done = await self._wait(Waiting(run, known), timeout, watch)
        return replace(done, disposition=run.disposition)

    async def wait(
        self,
        run: Run[I, O] | str,
        timeout: Seconds | None = None,
        *,
        on_progress: Callable[[Progress], object] | None = None,
        on_log: Callable[[LogWrite], object] | None = None,
    ) -> CompletedRun[I, O]:
        """The run once it is completed, as ``Durably.wait``; through any number of lost connections.

        Given a ``Run`` with the types of its job, those hold; given one without, or an id, values are
        plain JSON. ``on_progress`` is called with each ``Progress`` until then, and ``on_log`` with each
        ``events.LogWrite`` that is written from now on. Raises ``RunFailedError``, ``RunCancelledError`` or
        ``WaitTimeoutError``, each with ``.run``; ``RunNotFoundError``.
        """
        watch = partial(call_for_event, on_progress=on_progress, on_log=on_log)
        return await self._wait(self._waiting(run), timeout, watch)

    async def follow(
        self,
        run: Run[I, O] | str,
        timeout: Seconds | None = None,
        *,
        show: Show | None = None,
    ) -> CompletedRun[I, O]:
        """``wait``, with a progress bar on the terminal or in the notebook.

        ``show`` draws instead: it is called with each ``Progress``.
        """
        with nullcontext(show) if show else open_bar(title_of(run)) as draw:
            waiting = self._waiting(run)
            return await self._wait(waiting, timeout, lambda event: draw_progress(event, draw))

    def _waiting(self, run: Run[I, O] | str) -> Waiting[I, O]:
        job = self._jobs.get(run.job) if isinstance(run, Run) else None
        if isinstance(run, Run) and job is not None:
            try:
                job.input.keep(run.input)
            except Unstorable:  # it was triggered or read by name, as plain JSON
                job = None
        return Waiting(run, job)

    async def _wait(
        self, waiting: Waiting[I, O], timeout: Seconds | None, watch: Watch
    ) -> CompletedRun[I, O]:
        limit = optional("timeout", timeout)
        clock = asyncio.timeout(limit)
        try:
            async with clock:
                await self._until_over(waiting, watch)
        except TimeoutError:
            if not clock.expired():
                raise
            await waiting.read_after_timeout(self._server, self._connection, limit or 0.0)
        assert waiting.seen is not None
        return completed_or_raise(waiting.seen)

    async def _until_over(self, waiting: Waiting[Any, Any], watch: Watch) -> None:
        if waiting.seen is None or waiting.seen.is_final:
            waiting.seen = await self._server.run(
                waiting.run_id, waiting.job, patient=self._connection.connected_once
            )
        while not waiting.seen.is_final:
            async with aclosing(self.subscribe(waiting.run_id, after=None)) as events:
                async for event in events:
                    watch(event)
            waiting.seen = await self._server.run(waiting.run_id, waiting.job, patient=True)

    # -- read

    @overload
    async def get_run(self, run_id: str) -> Run | None: ...
    @overload
    async def get_run(self, run_id: str, *, job: AnyJob[I, O]) -> Run[I, O] | None: ...
    async def get_run(
        self, run_id: str, *, job: AnyJob[Any, Any] | None = None
    ) -> Run[Any, Any] | None:
        """A run; None if there is none. Its values are plain JSON, or have the types of ``job``."""
        known = None if job is None else self._remember(job)
        try:
            run = await self._server.run(run_id, known)
        except RunNotFoundError:
            return None
        return run if known is None or run.job == known.name else None

    @overload
    async def get_runs(
        self,
        *,
        job: str | Sequence[str] = (),
        status: Status | str | Sequence[Status | str] = (),
        labels: Mapping[str, str] | None = None,
        limit: int = 50,
        offset: int = 0,
        cursor: str | None = None,
    ) -> list[Run]: ...
    @overload
    async def get_runs(
        self,
        *,
        job: AnyJob[I, O],
        status: Status | str | Sequence[Status | str] = (),
        labels: Mapping[str, str] | None = None,
        limit: int = 50,
        offset: int = 0,
        cursor: str | None = None,
    ) -> list[Run[I, O]]: ...
    async def get_runs(
        self,
        *,
        job: AnyJob[Any, Any] | str | Sequence[str] = (),
        status: Status | str | Sequence[Status | str] = (),
        labels: Mapping[str, str] | None = None,
        limit: int = 50,
        offset: int = 0,
        cursor: str | None = None,
    ) -> list[Run[Any, Any]]:
        """Return the runs that match all filters, newest first, as ``Durably.get_runs``.

        With a ``Job`` or a handle they are typed. More than 200 are fetched page by page.
        """
        known = self._remember(job) if isinstance(job, Job | JobHandle) else None
        names = known.name if known else cast("str | Sequence[str]", job)
        filter = make_filter(names, status, labels, limit, offset, cursor)
        found: list[Run[Any, Any]] = []
        more: RunFilter | None = filter
        while more is not None and len(found) < limit:
            page, more = await self._server.runs(replace(more, limit=limit - len(found)), known)
            found += page
        return found

    async def iter_runs(
        self,
        *,
        job: str | Sequence[str] = (),
        status: Status | str | Sequence[Status | str] = (),
        labels: Mapping[str, str] | None = None,
    ) -> AsyncGenerator[Run]:
        """All runs that match, newest first, fetched in pages as they are needed."""
        more: RunFilter | None = make_filter(job, status, labels, PAGE, 0, None)
        while more is not None:
            page, more = await self._server.runs(more, None)
            for run in page:
                yield run

    async def get_steps(self, run_id: str) -> list[StepRecord]:
        """The steps of a run that completed or failed, in order. Raises ``RunNotFoundError``."""
        return await self._server.steps(run_id)

    async def get_logs(self, run_id: str, *, after: int = 0, limit: int = 1000) -> list[LogEntry]:
        """The kept log lines of a run, oldest first. Raises ``RunNotFoundError``."""
        return await self._server.logs(run_id, whole("after", after), whole("limit", limit, 1))

    async def get_jobs(self) -> list[JobInfo]:
        """The jobs that the server knows: ``name``, ``input_schema``, ``output_schema``."""
        return await self._server.jobs()

    # -- move

    async def retry(self, run_id: str) -> Run:
        """Resume a failed or cancelled run from its checkpoints. Raises ``RunConflictError``."""
        return await self._server.retry(run_id)

    async def retrigger(self, run_id: str) -> Run:
        """A new run of the same input, labels and concurrency key. Raises as ``Durably.retrigger``."""
        return await self._server.retrigger(run_id)

    async def cancel(self, run_id: str) -> Run:
        """Stop a run that is not over. Raises ``RunConflictError``, ``RunNotFoundError``."""
        return await self._server.cancel(run_id)

    async def delete_run(self, run_id: str) -> None:
        """Delete a run that is over. Raises ``RunConflictError``, ``RunNotFoundError``."""
        await self._server.delete(run_id)

    # -- watch

    def subscribe(self, run_id: str, after: int | None = 0) -> AsyncGenerator[AnyEvent]:
        """A run's events, as ``Durably.subscribe``: its journal after a number, then live.

        Reconnects by itself when the connection is lost or the server restarts: journaled
        events come exactly once and in order. ``after=None`` starts with the present state of the run instead
        of its past. Ends when the run is over. Raises ``RunNotFoundError`` when it is iterated,
        ``ServerUnavailableError`` when the server could not be reached in the first place.
        """

        async def is_over() -> bool:
            return (await self._server.run(run_id, None, patient=True)).is_final

        number = None if after is None else whole("after", after)
        return RunStream(self._connection, text("run_id", run_id), number, is_over).events()

    def subscribe_runs(
        self, *, job: str | Sequence[str] = (), labels: Mapping[str, str] | None = None
    ) -> AsyncGenerator[ListEvent | Resync]:
        """Yield the events of all runs that match, without their values. Never ends by itself.

        Starts with a ``Resync``, and yields another one after each reconnect: read the list then.
        Everything that happens later is an event.
        """
        filter = make_filter(job, (), labels, 1, 0, None)
        return list_events(self._connection, filter.jobs, filter.labels)

    def _remember(self, job: AnyJob[I, O]) -> Job[I, O]:
        definition = job.definition if isinstance(job, JobHandle) else job
        self._jobs[definition.name] = definition
        return definition
