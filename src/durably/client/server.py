"""The operations of a server, one method each: the request, and how its answer is decoded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from ..errors import (
    DurablyError,
    InvalidValueError,
    RunConflictError,
    RunNotFoundError,
)
from ..jobs.job import Job
from ..models import LogEntry, Run, StepRecord
from ..options import text
from ..state import Status
from ..store.records import RunFilter
from ..values.codec import Unstorable
from ..values.text import dump_json
from ..wire import requests, runs
from ..wire.requests import RUN_ID, Triggered, TriggerRequest
from ..wire.runs import JobInfo
from .connection import Answer, Connection
from .errors import RequestRefusedError
from .refusals import RequestSpec

T = TypeVar("T")
AnyRun = Run[Any, Any]

PAGE = 200  # the most runs that a server lists at once
_TRIGGER_HINT = "with idempotency_key= it can be sent again without creating a second run"
_CHANGE_HINT = "check with get_run()"


class Server:
    """The operations of the protocol."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    # -- read

    async def run(self, run_id: str, job: Job[Any, Any] | None, *, patient: bool = False) -> AnyRun:
        """Fetch a run, with the types of a job. Raises ``RunNotFoundError``."""
        spec = RequestSpec("GET", "/run", [(RUN_ID, text("run_id", run_id))], run_id=run_id)
        return await self._get(spec, lambda answer: _run(answer.data, job), patient=patient)

    async def runs(
        self, filter: RunFilter, job: Job[Any, Any] | None
    ) -> tuple[list[AnyRun], RunFilter | None]:
        """Fetch a page of runs, and the filter for the next page, if there is one."""
        query = requests.runs_to_query(
            filter.jobs,
            filter.statuses,
            filter.labels,
            min(filter.limit, PAGE),
            filter.offset,
            filter.after,
        )
        page, cursor = await self._get(
            RequestSpec("GET", "/runs", query),
            lambda answer: ([_run(data, job) for data in answer.data], answer.next_cursor),
        )
        return page, replace(filter, after=cursor, offset=0) if cursor else None

    async def steps(self, run_id: str) -> list[StepRecord]:
        """Fetch the steps of a run."""
        run_id = text("run_id", run_id)
        found: dict[str, StepRecord] = {}
        after: str | None = "0"
        while after is not None:
            query = [(RUN_ID, run_id), ("after", after)] if found else [(RUN_ID, run_id)]
            spec = RequestSpec("GET", "/steps", query, run_id=run_id)
            steps, after = await self._page(spec, runs.step_from_wire)
            found |= {
                step.name: step for step in steps
            }  # a later end of a step replaces its failure
        return sorted(found.values(), key=lambda step: step.index)

    async def logs(self, run_id: str, after: int, limit: int) -> list[LogEntry]:
        """Fetch the stored log lines of a run."""
        run_id = text("run_id", run_id)
        found: list[LogEntry] = []
        more: str | None = str(after)
        while more is not None and (not found or len(found) < limit):
            query = [(RUN_ID, run_id), ("after", more), ("limit", str(limit - len(found)))]
            lines, more = await self._page(
                RequestSpec("GET", "/logs", query, run_id=run_id), runs.log_from_wire
            )
            found += lines
        return found

    async def _page(
        self, spec: RequestSpec, make: Callable[[Any], T]
    ) -> tuple[list[T], str | None]:
        """Fetch a page of a list, and the cursor of the next one, if there is one."""
        return await self._get(spec, lambda answer: ([*map(make, answer.data)], answer.next_cursor))

    async def jobs(self) -> list[JobInfo]:
        """Fetch the jobs of the server."""
        spec = RequestSpec("GET", "/jobs")
        return await self._get(spec, lambda answer: [*map(runs.job_from_wire, answer.data)])

    async def _get(
        self, spec: RequestSpec, make: Callable[[Answer], T], *, patient: bool = False
    ) -> T:
        made = await self._connection.send(spec, make, patient=patient)
        assert made is not None, "only changes of a run can be done by a try whose answer was lost"
        return made

    # -- change

    async def trigger(self, request: TriggerRequest, job: Job[Any, Any] | None) -> AnyRun:
        """Create a run, or find the one that has the key."""
        spec = RequestSpec(
            "POST",
            "/trigger",
            body=dump_json(requests.trigger_to_wire(request)).encode(),
            action="trigger",
            repeatable=request.idempotency_key is not None,
            hint=_TRIGGER_HINT,
        )
        run = await self._triggered(spec, job)
        return replace(run, idempotency_key=request.idempotency_key)

    async def retrigger(self, run_id: str) -> AnyRun:
        """Create a run with an old one's input."""
        return await self._triggered(_change("POST", "/retrigger", run_id, "retrigger"), None)

    async def retry(self, run_id: str) -> AnyRun:
        """Make a failed or cancelled run pending again."""
        return await self._changed(_change("POST", "/retry", run_id, "retry"))

    async def cancel(self, run_id: str) -> AnyRun:
        """Cancel a run."""
        return await self._changed(_change("POST", "/cancel", run_id, "cancel", _is_cancelled))

    async def delete(self, run_id: str) -> None:
        """Delete a run."""
        spec = _change("DELETE", "/run", run_id, "delete", _is_gone)
        await self._connection.send(spec, lambda answer: answer.data["success"])

    async def _triggered(self, spec: RequestSpec, job: Job[Any, Any] | None) -> AnyRun:
        made = await self._get(spec, lambda answer: requests.triggered_from_wire(answer.data))
        run = await self._of(made, job) if made.run is None else _run(made.run, job)
        return replace(run, disposition=made.disposition)

    async def _of(self, made: Triggered, job: Job[Any, Any] | None) -> AnyRun:
        """Fetch a run of which the server returned only the id."""
        try:
            return await self.run(made.run_id, job)
        except RunNotFoundError:
            url = self._connection.url
            text = f"{url}: run {made.run_id} was triggered, but reading it is not allowed"
            raise RequestRefusedError(text, url=url) from None

    async def _changed(self, spec: RequestSpec) -> AnyRun:
        data = await self._connection.send(spec, lambda answer: answer.data.get("run"))
        return await self.run(spec.run_id, None) if data is None else _run(data, None)


def _change(
    method: str,
    path: str,
    run_id: str,
    action: str,
    means_done: Callable[[DurablyError], bool] | None = None,
) -> RequestSpec:
    return RequestSpec(
        method,
        path,
        [(RUN_ID, text("run_id", run_id))],
        action=action,
        run_id=run_id,
        repeatable=means_done is not None,
        hint=_CHANGE_HINT,
        means_done=means_done or (lambda _: False),
    )


def _is_cancelled(refused: DurablyError) -> bool:
    return isinstance(refused, RunConflictError) and refused.status == Status.CANCELLED


def _is_gone(refused: DurablyError) -> bool:
    return isinstance(refused, RunNotFoundError)


def _run(data: Any, job: Job[Any, Any] | None) -> AnyRun:
    """Decode a run, with the types of its job if that is the one given."""
    run: AnyRun = runs.run_from_wire(data)
    if job is None or job.name != run.job:
        return run
    try:
        return runs.run_from_wire(data, job.input, job.output)
    except Unstorable as problem:
        raise InvalidValueError(
            f"run {data['id']} on the server does not fit job {job.name!r}: {problem}; "
            "get_run(run_id) without job= returns it as plain JSON",
            path=problem.path,
        ) from None
