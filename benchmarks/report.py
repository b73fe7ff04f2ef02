"""The table, and whether the targets are met."""

from __future__ import annotations

import os
import platform
import sqlite3
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from .peers import Peer
from .runner import Results


class Row(NamedTuple):
    """A line of the table: a case's number."""

    letter: str
    case: str
    key: str
    label: str
    digits: int = 0


ROWS = (
    Row("a", "a", "steps_s", "(a) 1 run x 1,000 steps: steps/s"),
    Row("a", "a", "p50_ms", "    p50 of a step, ms", 2),
    Row("a", "a", "cpu_us", "    CPU us a step"),
    Row("b", "b", "steps_s", "(b) 2,000 runs x 5 steps, 50 at a time: steps/s"),
    Row("b", "b", "cpu_us", "    CPU us a step"),
    Row("b", "b-everything", "steps_s", "    with a listener and typed output: steps/s"),
    Row("b", "b-everything", "cpu_us", "    CPU us a step"),
    Row("a", "a-slow", "steps_s", "(a) with fsync + 1 ms: steps/s"),
    Row("b", "b-slow", "steps_s", "(b) with fsync + 1 ms: steps/s"),
    Row("c", "c", "single_s", "(c) triggers one by one: runs/s"),
    Row("c", "c", "batch_s", "    in batches of 1,000: runs/s"),
    Row("d", "d", "p50_ms", "(d) trigger to start, in process: p50 ms", 2),
    Row("d", "d", "p95_ms", "    p95 ms", 2),
    Row("d", "d", "p99_ms", "    p99 ms", 2),
    Row("d", "d-across", "p50_ms", "    from another process: p50 ms", 2),
    Row("d", "d-across", "p95_ms", "    p95 ms", 2),
    Row("d", "d-across", "p99_ms", "    p99 ms", 2),
    Row("e", "e-few", "runs_s", "(e) drain, 1,000 pending: runs/s"),
    Row("e", "e-many", "runs_s", "    100,000 pending, 200,000 finished: runs/s"),
    Row("e", "e-blocked", "runs_s", "    behind 10,000 of one busy key: runs/s"),
    Row("e", "e-claim-few", "claim_ms", "    a claim with 100 pending, CPU ms *", 2),
    Row("e", "e-claim-many", "claim_ms", "    with 100,000 pending, 200,000 finished *", 2),
    Row("f", "f", "replay_ms", "(f) resume after 1,000 steps, ms", 1),
    Row("b", "b", "rss_idle_mb", "(g) memory idle, MB"),
    Row("b", "b", "rss_after_mb", "    after (b), MB"),
)


def header(peers: Mapping[str, Peer], repeat: int, quick: bool) -> str:
    """What was measured, where and when."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    load = " ".join(f"{value:.2f}" for value in os.getloadavg())
    how = f"{'quick, ' if quick else ''}median of {repeat}"
    lines = [
        f"{time.strftime('%Y-%m-%d %H:%M')}, load average before {load}, {how}",
        f"{os.cpu_count()} cores, {_cpu_model()}, {memory:.0f} GB, {platform.system()}",
        f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, Node {_node_version()}",
        *(f"- {peer.title}: {peer.settings}" for peer in peers.values()),
    ]
    lines += [
        f"! {peer.title} is left out: {peer.missing}" for peer in peers.values() if peer.missing
    ]
    return "\n".join(lines)


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _node_version() -> str:
    try:
        done = subprocess.run(["node", "--version"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return "none"
    return done.stdout.strip()


def table(results: Results, peers: Mapping[str, Peer]) -> str:
    """One line for each number, one column for each peer."""
    columns = [name for name in peers if peers[name].missing is None]
    lines: list[list[str]] = [["", *(peers[name].title for name in columns)]]
    for row in ROWS:
        cells = [_cell(results, row, column) for column in columns]
        if any(cells):
            lines.append([row.label, *cells])
    return "\n".join([_aligned(lines), "", *_notes(results, peers)])


def _cell(results: Results, row: Row, column: str) -> str:
    if (row.case, column) in results.failures:
        return "failed"
    value = results.median(row.case, column, row.key)
    return "" if value is None else f"{value:,.{row.digits}f}"


def _aligned(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]

    def text(line: Sequence[str]) -> str:
        first, *rest = line
        cells = [
            first.ljust(widths[0]),
            *(c.rjust(w) for c, w in zip(rest, widths[1:], strict=True)),
        ]
        return "| " + " | ".join(cells) + " |"

    rule = ["-" * widths[0], *("-" * (w - 1) + ":" for w in widths[1:])]
    return "\n".join([text(lines[0]), text(rule), *(text(line) for line in lines[1:])])


def _notes(results: Results, peers: Mapping[str, Peer]) -> list[str]:
    notes = [
        "* durably: the statements of one claim of 10 runs; the original: a claim of its one run."
    ]
    for (case, column), why in results.failures.items():
        title = peers[column].title if column in peers else "all"
        notes.append(f"! {case}, {title}: {why}")
    return notes


class Target(NamedTuple):
    """What we want to reach: the value, and whether it is enough."""

    label: str
    value: Callable[[Results], float | None]
    limit: float
    at_least: bool
    unit: str


def _ratio(case: str, key: str, other: str) -> Callable[[Results], float | None]:
    return _quotient((case, "ours", key), (case, other, key))


def _quotient(
    one: tuple[str, str, str], other: tuple[str, str, str]
) -> Callable[[Results], float | None]:
    def value(results: Results) -> float | None:
        a, b = results.median(*one), results.median(*other)
        return None if a is None or not b else a / b

    return value


def _ours(case: str, key: str) -> Callable[[Results], float | None]:
    return lambda results: results.median(case, "ours", key)


TARGETS = (
    Target("(a) against the original", _ratio("a", "steps_s", "original"), 2.5, True, "x"),
    Target("(a) against DBOS", _ratio("a", "steps_s", "dbos"), 8, True, "x"),
    Target("(b) against the original", _ratio("b", "steps_s", "original"), 15, True, "x"),
    Target("(b) against DBOS", _ratio("b", "steps_s", "dbos"), 50, True, "x"),
    Target("(b) against raw SQL", _ratio("b", "steps_s", "raw"), 0.25, True, "x"),
    Target("(b) + 1 ms, the original", _ratio("b-slow", "steps_s", "original"), 15, True, "x"),
    Target("(b) + 1 ms, DBOS", _ratio("b-slow", "steps_s", "dbos"), 50, True, "x"),
    Target("(b) + 1 ms, raw SQL", _ratio("b-slow", "steps_s", "raw"), 0.25, True, "x"),
    Target("(b) CPU with everything on", _ours("b-everything", "cpu_us"), 300, False, "us a step"),
    Target("(c) single, the original", _ratio("c", "single_s", "original"), 1.5, True, "x"),
    Target("(c) batches, the original", _ratio("c", "batch_s", "original"), 5, True, "x"),
    Target("(d) in process, p50", _ours("d", "p50_ms"), 1.5, False, "ms"),
    Target("(d) another process, p50", _ours("d-across", "p50_ms"), 3, False, "ms"),
    Target(
        "(e) drain of many against few",
        _quotient(("e-many", "ours", "runs_s"), ("e-few", "ours", "runs_s")),
        0.85,
        True,
        "x",
    ),
    Target(
        "(e) claim at many against few",
        _quotient(("e-claim-many", "ours", "claim_ms"), ("e-claim-few", "ours", "claim_ms")),
        1.5,
        False,
        "x",
    ),
    Target("(f) resume", _ours("f", "replay_ms"), 20, False, "ms"),
    Target("(g) idle memory", _ours("b", "rss_idle_mb"), 50, False, "MB"),
)


def targets(results: Results) -> str:
    """Each target that could be measured, met or missed."""
    lines = [["target", "measured", "wanted", ""]]
    for target in TARGETS:
        if (value := target.value(results)) is not None:
            met = value >= target.limit if target.at_least else value <= target.limit
            wanted = f"{'>=' if target.at_least else '<='} {target.limit:g} {target.unit}"
            shown = f"{value:.2f} {target.unit}"
            lines.append([target.label, shown, wanted, "PASS" if met else "MISS"])
    return _aligned(lines)
