"""How records look in a session: short, and escaped where they are HTML."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Any

from durably import LogEntry, Progress, Run, RunError, StepRecord
from durably.models import CompletedRun
from durably.state import Status

NOW = datetime(2026, 1, 2, tzinfo=UTC)
HOSTILE = "</pre></td><script>alert(1)</script><img src=x onerror=\"alert('2')\">&amp;"
RUN: Run = Run(
    id="019ad2f8-3c5e-7abc-8000-000000001f0a", job="work", status=Status.RUNNING, input=None, output=None,
    error=None, progress=None, labels={}, idempotency_key=None, concurrency_key=None, attempt=1,
    created_at=NOW, started_at=NOW, ended_at=None, updated_at=NOW,
)  # fmt: skip


def test_a_repr_says_what_a_record_is_and_no_more() -> None:
    assert repr(RUN) == f"Run(id='{RUN.id}', job='work', status=<Status.RUNNING: 'running'>)"
    done = CompletedRun(**{name: getattr(RUN, name) for name in RUN.__dataclass_fields__})
    done = replace(done, status=Status.COMPLETED, output=["x" * 5_000] * 5_000)
    assert repr(done).startswith("CompletedRun(id=")
    assert "output=['xxx" in repr(done)
    assert len(repr(done)) < 1_000
    error = RunError("ValueError", "m" * 5_000, "one", "traceback" * 5_000)
    step = StepRecord("one", 0, "failed", None, error, 1, NOW, NOW)
    entry = LogEntry("1", RUN.id, None, "info", "m" * 5_000, {"a": 1}, NOW)
    for record in (error, step, entry, replace(RUN, error=error)):
        assert len(repr(record)) < 400
        assert repr(record).startswith(f"{type(record).__name__}(")
    assert repr(entry).endswith("data={'a': 1})")


def test_a_progress_reads_as_it_is_shown() -> None:
    assert str(Progress(1, 2, "half")) == "1/2 half"
    assert str(Progress(3)) == "3"


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.seen: set[str] = set()
        self.said = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.seen.add(tag)
        assert [name for name, _ in attrs if name != "style"] == []

    def handle_data(self, data: str) -> None:
        self.said += data


def test_the_table_of_a_run_holds_no_markup_of_the_runs_own() -> None:
    error = RunError(HOSTILE, HOSTILE, HOSTILE, HOSTILE)
    hostile = replace(
        RUN, id=HOSTILE, job=HOSTILE, input={HOSTILE: HOSTILE}, output=HOSTILE, error=error,
        labels={HOSTILE: HOSTILE}, progress=Progress(1, None, HOSTILE),
    )  # fmt: skip
    tags = Tags(hostile._repr_html_())
    assert tags.seen == {"table", "tr", "th", "td", "details", "summary", "pre"}
    assert tags.said.count("<script>alert(1)</script>") >= 8
    assert Tags(RUN._repr_html_()).seen == {"table", "tr", "th", "td"}
