"""Creating, moving, awaiting and deleting runs, and the events of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing, nullcontext
from typing import Any

from .. import events
from ..errors import (
    InvalidInputError,
    JobNotFoundError,
    RunCancelledError,
    RunConflictError,
    RunFailedError,
    RunNotFoundError,
    WaitTimeoutError,
)
from ..jobs.checks import check_coalesce, check_key, check_labels, check_scope
from ..jobs.job import NO_INPUT, Job
from ..jobs.trigger import Trigger, bad_input, call_for_event, missing_input
from ..models import CompletedRun, Disposition, I, O, Progress, Run
from ..options import duration, optional, whole
from ..runtime import Seconds, milliseconds
from ..state import CANCEL, RETRY, Status
from ..store.records import NewRun, RunRow
from ..store.snapshots import event_of_run, run_from_row
from ..telemetry.logs import logger
from ..terminal import Show, open_bar, title_of
from ..values.codec import Kept, Unstorable
from ..values.text import dump_json, load_json
from ..worker.attempt import EXECUTING
from ..worker.context import WorkerContext
from .options import Options
from .reading import RunReader, checked_id, snapshot
from .retention import delete_old
from .session import Session


class Runs(RunReader):
    """All that can be done with runs, whichever process executes them."""

    def __init__(
        self,
        context: WorkerContext,
        jobs: Mapping[str, Job[Any, Any]],
        options: Options,
        require_open: Callable[[], Session],
    ) -> None:
        super().__init__(context.store, context.runtime, jobs, require_open)
        self._context = context
        self._options = options
        self._waiting_jobs: set[str] = set()
        """The jobs that were seen to wait for a run."""

    # -- creating

    async def enqueue(
        self, new: Sequence[NewRun], connection: Any = None
    ) -> list[tuple[RunRow, Disposition]]:
        """Store checked runs and publish their events; each row, and what its trigger came to.

        Within the transaction of a ``connection`` nothing is published: it may be rolled back.
        """
        session = self._require_open()
        if connection is not None:
            within = await self._store.enqueue_within(connection, new, self._runtime.now())
            return [_disposed(run, *made) for run, made in zip(new, within, strict=True)]
        if session.worker is not None:
            session.worker.wake()  # already: an idle worker's claim then joins the same commit
        enqueued = await self._store.enqueue(new, self._runtime.now())
        done = [_disposed(run, *made) for run, made in zip(new, enqueued, strict=True)]
        for run, (row, disposition) in zip(new, done, strict=True):
            if disposition != "idempotent" and self._context.has_listeners(row.id):
                self._publish_enqueued(run, row, disposition)
        return done

    def _publish_enqueued(self, new: NewRun, row: RunRow, disposition: Disposition) -> None:
        if disposition == "created":
            self._publish(events.RunTrigger, row, row.created_at, 1, input=load_json(row.input))
        else:
            skipped = {
                "skipped_input": load_json(new.input),
                "skipped_labels": load_json(new.labels),
            }
            self._publish(events.RunCoalesced, row, self._runtime.now(), **skipped)

    def _publish(
        self,
        kind: Callable[..., events.AnyEvent],
        row: RunRow,
        at: int,
        seq: int | None = None,
        **details: Any,
    ) -> None:
        if self._context.has_listeners(row.id):
            self._context.publish(event_of_run(kind, row, at, seq, **details))

    def new_run(self, job: Job[I, Any], item: Trigger[I]) -> NewRun:
        """Check an input and its options; nothing is stored yet."""
        labels = check_labels(item.labels) if item.labels else {}
        self._check_schema_of(labels)
        return NewRun(
            self._runtime.run_id(),
            job.name,
            self._input_of(job, item.input),
            dump_json(labels) if labels else "{}",
            check_key("idempotency_key", item.idempotency_key),
            check_key("concurrency_key", item.concurrency_key),
            check_scope(item.scope),
            check_coalesce(item.coalesce, item.concurrency_key),
        )

    def _input_of(self, job: Job[I, Any], given: I) -> str:
        if given is NO_INPUT and job.default is not None:
            input = job.default
        elif given is NO_INPUT and job.takes_input:
            raise missing_input(job, "pass one, or give the parameter a default")
        else:
            try:
                kept: Kept[I] = job.input.accept(None if given is NO_INPUT else given)
            except Unstorable as problem:
                raise bad_input(job, problem) from None
            input = kept.text
        limit = self._options.max_input_bytes
        if len(input) > limit:
            raise InvalidInputError(
                f"the input of job {job.name!r} has {len(input):,} bytes, over the limit of "
                f"{limit:,} (max_input_bytes); keep it elsewhere and pass a reference to it"
            )
        return input

    def _check_schema_of(self, labels: Mapping[str, str]) -> None:
        if labels and self._options.labels is not None:
            self._options.labels.check(labels)

    # -- waiting

    async def wait(
        self,
        run: Run[I, O] | str,
        timeout: Seconds | None = None,
        *,
        on_progress: Callable[[Progress], object] | None = None,
        on_log: Callable[[events.LogWrite], object] | None = None,
    ) -> CompletedRun[I, O]:
        """The run once it is completed, whichever process executes it."""
        feed = self._require_open().feed
        run_id = run.id if isinstance(run, Run) else checked_id(run)
        self._warn_of_wait(run_id)
        job = self._jobs.get(run.job) if isinstance(run, Run) else None
        limit = optional("timeout", timeout)
        clock = asyncio.timeout(limit)
        try:
            async with clock:
                if on_progress is not None or on_log is not None:
                    async with aclosing(self.resume(run_id, 0)) as stream:
                        async for event in stream:
                            call_for_event(event, on_progress, on_log)
                row, steps_done = await feed.finished(run_id)
        except TimeoutError:
            if not clock.expired():
                raise
            row, steps_done = await self._ended_by_now(run_id, job, limit or 0.0)
        return _completed(snapshot(row, job, self._runtime.now(), steps_done))

    async def _ended_by_now(
        self, run_id: str, job: Job[Any, Any] | None, limit: float
    ) -> tuple[RunRow, int]:
        """The row of a run that ended just when the time was up, and how many steps it committed."""
        row = await self._store.run(run_id)
        if row is None:
            raise RunNotFoundError(run_id) from None
        if not Status(row.status).is_final:
            late = f"run {run_id} is still {row.status} after {limit:g} s"
            raise WaitTimeoutError(late, (await self.snapshots([row], job))[0]) from None
        return row, (await self.count_steps([row]))[0]

    async def follow(
        self,
        run: Run[I, O] | str,
        timeout: Seconds | None = None,
        *,
        show: Show | None = None,
    ) -> CompletedRun[I, O]:
        """``wait``, with a progress bar on the terminal or under the cell of a notebook."""
        with nullcontext(show) if show else open_bar(title_of(run)) as draw:
            return await self.wait(run, timeout, on_progress=draw)

    def _warn_of_wait(self, run_id: str) -> None:
        """Once for each job: a run that waits for another keeps its slot from it."""
        attempt = EXECUTING.get()
        if attempt is None or not attempt.is_ours or attempt.job_name in self._waiting_jobs:
            return
        self._waiting_jobs.add(attempt.job_name)
        logger.warning(
            "run %s (%s) waits for run %s within its job: it holds one of %d slots (max_concurrent_runs) "
            "meanwhile, and when all slots wait, nothing runs; trigger without waiting, or wait outside "
            "of the job", attempt.run_id, attempt.job_name, run_id, self._options.max_concurrent_runs,
        )  # fmt: skip

    # -- moving

    async def retry(self, run_id: str) -> Run:
        """Resume a failed or cancelled run from its checkpoints: the same run, pending again."""
        self._require_open()
        row, seq = await self._store.move(checked_id(run_id), RETRY, self._runtime.now())
        self._publish(events.RunRetry, row, row.updated_at, seq)
        return (await self.snapshots([row], None))[0]

    async def retrigger(self, run_id: str) -> Run:
        """Start over: a new run of the same input, labels, concurrency key and scope, nothing reused.

        Raises ``InvalidInputError`` where its input or its labels do not fit any more.
        """
        row = await self.get_row(run_id)
        if row is None:
            raise RunNotFoundError(run_id)
        if not Status(row.status).is_final:
            raise RunConflictError(run_id, "retrigger", row.status)
        job = self._jobs.get(row.job)
        if job is None:
            raise JobNotFoundError(f"job {row.job!r} of run {run_id} is not registered here")
        try:
            job.input.decode(row.input)
        except Unstorable as problem:
            raise bad_input(job, problem) from None
        try:
            self._check_schema_of(load_json(row.labels))
        except InvalidInputError as error:
            raise InvalidInputError(f"run {run_id} cannot be started over: {error}") from None
        new_id = self._runtime.run_id()
        new = NewRun(new_id, row.job, row.input, row.labels, None, row.concurrency_key, row.scope)
        return run_from_row((await self.enqueue([new]))[0][0])

    async def cancel(self, run_id: str) -> Run:
        """Stop a run that is not over. A running async step is cancelled, here at once and in another
        process by its next heartbeat; the step's result is not kept."""
        session = self._require_open()
        row, seq = await self._store.move(checked_id(run_id), CANCEL, self._runtime.now())
        if session.worker is not None:
            session.worker.cancel_local(run_id, row.generation)
        self._publish(events.RunCancel, row, row.updated_at, seq)
        return (await self.snapshots([row], None))[0]

    # -- deleting

    async def delete_run(self, run_id: str) -> None:
        """Delete a run that is over, with all that was kept of it."""
        self._require_open()
        row = await self._store.delete(checked_id(run_id), self._runtime.now())
        if row is not None:
            self.publish_deletion(row, self._runtime.now())

    async def purge_runs(self, *, older_than: Seconds, limit: int | None = None) -> int:
        """Delete the runs that ended longer ago than ``older_than``; how many they were.

        ``limit``: at most so many, 1 or more; those that ended first. Nothing is deleted, with a warning
        in the log, for an hour after this process's clock has jumped: it may be wrong.
        """
        clock = self._require_open().clock
        age = milliseconds(duration("older_than", older_than))
        if limit is not None:
            whole("limit", limit, 1)
        if not clock.is_steady():
            logger.warning("purge_runs deletes nothing: the clock jumped less than an hour ago")
        return await delete_old(
            self._store, self._runtime, age, self.publish_deletion, clock.is_steady, limit=limit
        )

    def publish_deletion(self, row: RunRow, at: int) -> None:
        """Publish that a run was deleted, at a time in milliseconds."""
        self._publish(events.RunDelete, row, at)


def _completed(run: Run[I, O]) -> CompletedRun[I, O]:
    """A run that is over, if it completed; else the error that carries it."""
    if run.status is Status.FAILED:
        raise RunFailedError(f"run {run.id} ({run.job}) failed: {run.error}", run)
    if run.status is Status.CANCELLED:
        raise RunCancelledError(f"run {run.id} ({run.job}) was cancelled", run)
    assert isinstance(run, CompletedRun)
    return run


def _disposed(new: NewRun, row: RunRow, created: bool) -> tuple[RunRow, Disposition]:
    """What a trigger came to: a run that is not new has its idempotency key, or waits already."""
    if created:
        return row, "created"
    known = new.idempotency_key is not None and new.idempotency_key == row.idempotency_key
    return row, "idempotent" if known else "coalesced"
