"""Snapshots and events, made from stored rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import fields
from typing import Any, TypeVar

from ..events import EVENT_TYPES, AnyEvent
from ..models import (
    CompletedRun,
    Disposition,
    I,
    LogEntry,
    O,
    Progress,
    Run,
    RunError,
    StepRecord,
)
from ..runtime import to_datetime
from ..state import Status
from ..values.codec import PLAIN, Codec
from ..values.text import dump_json, load_json
from .records import JournalRow, RunRow

E = TypeVar("E", bound=AnyEvent)


def run_from_row(
    row: RunRow,
    input_codec: Codec[I] | None = None,
    output_codec: Codec[O] | None = None,
    disposition: Disposition | None = None,
    now: int | None = None,
    steps_done: int = 0,
) -> Run[I, O]:
    """The snapshot of a row, as of ``now``; plain JSON values where no codec is given."""
    return run_class(row.status)(
        id=row.id,
        job=row.job,
        status=Status(row.status),
        input=(input_codec or PLAIN).decode(row.input),
        output=None if row.output is None else (output_codec or PLAIN).decode(row.output),
        error=error_from_json(row.error),
        progress=progress_from_json(row.progress),
        labels=load_json(row.labels),
        idempotency_key=row.idempotency_key,
        concurrency_key=row.concurrency_key,
        attempt=row.generation,
        created_at=to_datetime(row.created_at),
        started_at=None if row.started_at is None else to_datetime(row.started_at),
        ended_at=None if row.ended_at is None else to_datetime(row.ended_at),
        updated_at=to_datetime(row.updated_at),
        scope=row.scope,
        stopping=is_stopping(row, now),
        disposition=disposition,
        steps_done=steps_done,
    )


def run_class(status: str) -> type[Run[Any, Any]]:
    """The class of a run with that status."""
    return CompletedRun if status == Status.COMPLETED else Run


def is_stopping(row: RunRow, now: int | None) -> bool:
    """Whether the body of a run that is over may still run. (A holder that died says nothing more.)"""
    return row.held_until is not None and (now is None or row.held_until > now)


def error_from_json(text: str | None) -> RunError | None:
    """A stored error."""
    return None if text is None else RunError(**_known(RunError, text))


def progress_from_json(text: str | None) -> Progress | None:
    """A stored progress."""
    return None if text is None else Progress(**_known(Progress, text))


def _known(cls: type[RunError | Progress], text: str) -> dict[str, Any]:
    """What this version knows of a stored value, which a newer one may have written."""
    value: dict[str, Any] = load_json(text)
    return {field.name: value[field.name] for field in fields(cls) if field.name in value}


def progress_to_json(progress: Progress) -> str:
    """The text that a progress is kept as."""
    return dump_json(
        {"current": progress.current, "total": progress.total, "message": progress.message}
    )


def step_from_row(row: JournalRow) -> StepRecord:
    """A journaled step."""
    failed = row.type == "step:fail"
    return StepRecord(
        name=row.step or "",
        index=row.step_index or 0,
        status="failed" if failed else "completed",
        output=None if failed else load_json(row.data),
        error=error_from_json(row.data) if failed else None,
        attempt=row.attempt,
        started_at=to_datetime(row.at if row.started_at is None else row.started_at),
        completed_at=to_datetime(row.at),
    )


def steps_from_rows(rows: Iterable[JournalRow]) -> list[StepRecord]:
    """The steps that journaled lines describe, in the order of their calls."""
    found: dict[str, StepRecord] = {}
    for row in rows:
        record = step_from_row(row)
        found[record.name] = record  # a later attempt's end of a step replaces its failure
    return sorted(found.values(), key=lambda record: record.index)


def log_from_row(row: JournalRow) -> LogEntry:
    """A journaled log line."""
    data = load_json(row.data)
    return LogEntry(
        id=f"{row.run_id}:{row.seq}",
        run_id=row.run_id,
        step_name=row.step,
        level=data["level"],
        message=data["message"],
        data=data["data"],
        timestamp=to_datetime(row.at),
    )


def event_of_run(
    kind: Callable[..., E],
    row: RunRow,
    at: int,
    seq: int | None = None,
    *,
    labels: dict[str, str] | None = None,
    **details: Any,
) -> E:
    """An event of a run, at a time in milliseconds; ``seq`` if it is journaled.

    ``labels`` are the row's, for those who decoded them before.
    """
    return kind(
        run_id=row.id,
        job=row.job,
        labels=load_json(row.labels) if labels is None else labels,
        timestamp=to_datetime(at),
        sequence=seq,
        scope=row.scope,
        **details,
    )


def event_from_row(row: JournalRow, input: str | None = None) -> AnyEvent | None:
    """The event of a line of the journal; None of a type that only a newer version knows.

    ``input`` is its run's, as it is stored, where the event is to tell it.
    """
    kind = EVENT_TYPES.get(row.type)
    return None if kind is None else kind(**_common(row), **_details(row, input))


def _common(row: JournalRow) -> dict[str, Any]:
    # The row that tells of a deletion outlives its run, so it carries the run's job and scope; one that
    # an earlier version wrote, its labels too.
    gone: dict[str, Any] = load_json(row.data) if row.type == "run:delete" else {}
    return {
        "run_id": row.run_id,
        "job": row.job or gone.get("job", ""),
        "labels": load_json(row.labels) if row.labels else gone.get("labels", {}),
        "timestamp": to_datetime(row.at),
        "sequence": row.seq,
        "scope": gone.get("scope", "") if row.scope is None else row.scope,
    }


def _details(row: JournalRow, input: str | None) -> dict[str, Any]:
    seconds = 0.0 if row.started_at is None else max(0, row.at - row.started_at) / 1000
    match row.type:
        case "run:trigger":
            return {"input": load_json(input)}
        case "run:start":
            return {"attempt": row.attempt, "input": load_json(input)}
        case "run:complete":
            return {"output": load_json(row.output), "duration": seconds}
        case "run:fail":
            return {"error": error_from_json(row.data)}
        case "step:complete":
            return {**_step(row), "output": load_json(row.data), "duration": seconds}
        case "step:fail":
            return {**_step(row), "error": error_from_json(row.data)}
        case "log:write":
            data = load_json(row.data)
            return {"step_name": row.step} | {
                key: data[key] for key in ("level", "message", "data")
            }
        case _:
            return {}


def _step(row: JournalRow) -> dict[str, Any]:
    return {
        "step_name": row.step or "",
        "step_index": row.step_index or 0,
        "attempt": row.attempt,
    }
