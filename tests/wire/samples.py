"""One of everything that goes over the wire, as the engine has it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from durably import events
from durably.events import AnyEvent
from durably.models import Health, LogEntry, Progress, RunError, StepRecord
from durably.runtime import to_datetime
from durably.store.records import RunRow
from durably.values.text import dump_json
from durably.wire.requests import Triggered, TriggerRequest
from durably.wire.runs import JobInfo

ID = "01a1f000-0000-7000-8000-000000000001"
AT = 1_793_880_000_123  # milliseconds
TRACEBACK = (
    'Traceback (most recent call last):\n  File "jobs.py", line 7\nValueError: no “number”\n'
)
ERROR = {"type": "ValueError", "message": "no “number”", "step": "parse", "traceback": TRACEBACK}
# All that JSON can hold, and what it cannot hold everywhere: integers beyond 2**53 are told as text.
VALUE: Any = {
    "text": "größe \U0001f600 \u2028 </script> \x00\n\"'\\",
    "lone": "\ud800",
    "integers": [0, -1, 2**53 - 1, -(2**53) + 1],
    "big": [2**53, -(2**53), 2**63, 10**30],
    "floats": [0.1, -0.0, 1e22, 1.5e-300, 123456789012345680.0],
    "nothing": [None, [], {}, ""],
    "": True,
}


def row(status: str, **changes: Any) -> RunRow:
    """A run as it is stored."""
    done = status in ("completed", "failed", "cancelled")
    common: dict[str, Any] = {
        "id": ID,
        "job": "import-csv",
        "status": status,
        "input": dump_json({"name": "Ada"}),
        "output": None,
        "error": None,
        "labels": dump_json({"org": "o1", "größe": "§ 5"}),
        "progress": None,
        "idempotency_key": "never told",
        "concurrency_key": "never told",
        "due_at": None if done else AT + 30_000,
        "lease_owner": "never told",
        "lease_token": "never told",
        "generation": 0 if status == "pending" else 2,
        "recoveries": 0,
        "created_at": AT,
        "started_at": None if status == "pending" else AT + 1_000,
        "ended_at": AT + 61_000 if done else None,
        "updated_at": AT + 61_000 if done else AT + 2_000,
        "scope": "never told",
    }
    return RunRow(**{**common, **changes})


def progress(**fields: Any) -> str:
    return dump_json({"current": 1, "total": None, "message": None, **fields})


RUNS: dict[str, tuple[RunRow, int]] = {
    "pending": (row("pending", input="null", labels="{}"), 0),
    "running": (row("running", progress=progress(total=2.5, message="half “way”")), 1),
    "waiting": (row("waiting", progress=progress(current=0.5)), 3),
    "completed": (row("completed", input=dump_json(VALUE), output=dump_json(VALUE)), 12),
    "completed without a value": (row("completed", output="null"), 0),
    "failed": (row("failed", error=dump_json(ERROR)), 4),
    "failed without a message": (
        row("failed", error=dump_json({**ERROR, "message": "", "step": None, "traceback": None})),
        0,
    ),
    "cancelled before it started": (row("cancelled", started_at=None, generation=0), 0),
}
"""Runs as they are stored, and how many steps of each are committed."""

_STEP: dict[str, Any] = {
    "name": "fetch “users”",
    "index": 0,
    "attempt": 2,
    "started_at": to_datetime(AT + 1_000),
    "completed_at": to_datetime(AT + 2_500),
}
STEPS: dict[str, StepRecord] = {
    "completed": StepRecord(**_STEP, status="completed", output=VALUE, error=None),
    "completed without a value": StepRecord(**_STEP, status="completed", output=None, error=None),
    "failed": StepRecord(**_STEP, status="failed", output=None, error=RunError(**ERROR)),
}

LOGS: dict[str, LogEntry] = {
    level: LogEntry(
        id=f"{ID}:{number}",
        run_id=ID,
        step_name="parse" if number % 2 else None,
        level=level,
        message="line 1\nline 2\r\x1b[31m",
        data=VALUE if number == 1 else None,
        timestamp=to_datetime(AT),
    )
    for number, level in enumerate(("debug", "info", "warning", "error"))
}  # type: ignore[arg-type]

JOBS: dict[str, JobInfo] = {
    "typed": JobInfo("import-csv", {"type": "object", "required": ["name"]}, {"type": "integer"}),
    "of any JSON": JobInfo("größe", {}, {}),
}

HEALTH: dict[str, Health] = {
    "ok": Health("ok", "working"),
    "without a worker": Health("ok", "none"),
    "degraded": Health("unavailable", "working"),
    "down": Health("closed", "stopped"),
}

TRIGGERED: dict[str, Triggered] = {
    "created": Triggered(ID, "created"),
    "idempotent": Triggered(ID, "idempotent"),
    "coalesced": Triggered(ID, "coalesced"),
}

REQUESTS: dict[str, TriggerRequest] = {
    "least": TriggerRequest("import-csv", {}),
    "most": TriggerRequest("import-csv", {"name": "Ada"}, "key 1", "key 2", {"org": "o1"}),
    "coalescing": TriggerRequest("import-csv", {}, None, "key 2", coalesce="skip"),
    "without an object": TriggerRequest("import-csv", [1, None, "größe"]),
}


def _events() -> dict[str, AnyEvent]:
    common: dict[str, Any] = {
        "run_id": ID,
        "job": "import-csv",
        "labels": {"org": "o1"},
        "timestamp": to_datetime(AT) + timedelta(microseconds=900),
        "scope": "never told",
    }
    kept: dict[str, Any] = {**common, "sequence": 17}
    step: dict[str, Any] = {"step_name": "parse", "step_index": 0, "attempt": 2}
    error = RunError(**ERROR)
    log: dict[str, Any] = {"message": "line 1\nline 2", "data": VALUE}
    return {
        "run:trigger": events.RunTrigger(**kept, input=VALUE),
        "run:coalesced": events.RunCoalesced(
            **common, skipped_input=VALUE, skipped_labels={"by": "§ 5"}
        ),
        "run:start": events.RunStart(**kept, attempt=2, input=VALUE),
        "run:progress": events.RunProgress(**common, progress=Progress(1, 2, "half")),
        "run:progress with a count only": events.RunProgress(**common, progress=Progress(0.5)),
        "run:wait": events.RunWait(**kept),
        "run:release": events.RunRelease(**kept),
        "run:retry": events.RunRetry(**kept),
        "run:complete": events.RunComplete(**kept, output=VALUE, duration=61.2345),
        "run:complete without a value": events.RunComplete(**kept, output=None, duration=0.0),
        "run:fail": events.RunFail(**kept, error=error),
        "run:cancel": events.RunCancel(**kept),
        "run:delete": events.RunDelete(**kept),
        "step:start": events.StepStart(**common, **step),
        "step:complete": events.StepComplete(**kept, **step, output=VALUE, duration=0.0124),
        "step:fail": events.StepFail(**kept, **step, error=error),
        "step:cancel": events.StepCancel(**common, **step),
        "log:write kept": events.LogWrite(**kept, **log, step_name="parse", level="warning"),
        "log:write": events.LogWrite(**common, **log, step_name=None, level="debug"),
    }


EVENTS: dict[str, AnyEvent] = _events()
