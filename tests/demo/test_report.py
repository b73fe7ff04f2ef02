"""The demo's story is told from what happened, and it would tell of what must not happen."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from durably import StepRecord
from durably.demo.census import Begin
from durably.demo.index_stdlib import Totals
from durably.demo.report import attempts, describe, differences, repeated
from durably.events import AnyEvent, RunStart, StepComplete

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
COMMON: dict[str, Any] = {"run_id": "r", "job": "j", "labels": {}, "timestamp": NOON}


def start(attempt: int) -> AnyEvent:
    return RunStart(**COMMON, attempt=attempt)


def complete(name: str, attempt: int) -> AnyEvent:
    return StepComplete(
        **COMMON, step_name=name, step_index=0, attempt=attempt, output=None, duration=0.0
    )


def begin(step: str, pid: int, seconds: int = 0) -> Begin:
    return Begin(step, pid, round(NOON.timestamp() * 1000) + seconds * 1000)


def record(name: str) -> StepRecord:
    return StepRecord(name, 0, "completed", None, None, 1, NOON, NOON)


def test_attempts_by_the_journal() -> None:
    events = [
        start(1), complete("list-files", 1), complete("index-0", 1),
        start(2), complete("index-1", 2), complete("index-2", 2),
    ]  # fmt: skip
    begins = [begin("index-0", 1), begin("index-1", 1), begin("index-1", 2), begin("index-2", 2)]
    first, second = attempts(events, begins)
    assert (first.skipped, first.committed, first.again) == ([], ["list-files", "index-0"], [])
    assert second.skipped == ["list-files", "index-0"]
    assert second.committed == ["index-1", "index-2"]
    assert second.again == ["index-1"]
    assert list(describe([first, second], begins)) == [
        "2 attempts, by 2 workers:",
        "  attempt 1: 2 steps committed",
        "  attempt 2: 2 steps committed",
        "    skipped, from their checkpoints: 2 steps (list-files … index-0)",
        "    ran again, begun before and not committed: index-1",
        "By the steps' own notes, 2 of the index-… steps were entered once, 1 twice.",
    ]


def test_a_committed_step_that_began_again_would_be_found() -> None:
    assert repeated([record("a")], [begin("a", 1, -2), begin("a", 2, -1)]) == []
    assert repeated([record("a")], [begin("a", 1, -2), begin("a", 2, 1)]) == ["a"]


def test_a_difference_would_be_named() -> None:
    one = Totals(modules=1, unparsable=0, classes=2, functions=3, lines=4, most_imported={"os": 1})
    assert differences(one, one.model_copy()) == []
    other = one.model_copy(update={"lines": 5})
    assert differences(one, other) == ["lines: 4 by the resumed run, 5 by the plain count"]
