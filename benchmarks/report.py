"""The table, and whether the targets are met."""

from __future__ import annotations

import os
import platform
import sqlite3
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from .peers import Peer
from .runner import NOISE, Results
from .server import PostgresServer


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
    Row("http", "http-trigger-1", "triggers_s", "(h) HTTP, 1 connection: triggers/s"),
    Row("http", "http-trigger-16", "triggers_s", "    16 connections: triggers/s"),
    Row("http", "http-events-1", "events_s", "    to 1 subscriber: events/s"),
    Row("http", "http-events-100", "events_s", "    to 100 subscribers: events/s"),
    Row("http", "http-events-1000", "events_s", "    to 1,000 subscribers: events/s"),
    Row("http", "http-first", "trigger_p50_ms", "    trigger to first event: p50 ms", 2),
    Row("http", "http-first", "trigger_p99_ms", "    p99 ms", 2),
    Row("http", "http-first", "subscribe_p50_ms", "    subscription to first event: p50 ms", 2),
    Row("http", "http-first", "subscribe_p99_ms", "    p99 ms", 2),
    Row("browser", "browser", "steps_s", "(i) in Chromium, 1 run x 1,000 steps: steps/s"),
    Row("browser", "browser", "p50_ms", "    p50 of a step, ms", 2),
    Row("browser", "browser", "p99_ms", "    p99 ms", 2),
    Row("browser", "browser-boot", "cold_ms", "    first visit to first step, ms"),
    Row("browser", "browser-boot", "warm_ms", "    later visits, ms"),
    Row("browser", "browser-boot", "raw_mb", "    files, MB", 1),
    Row("browser", "browser-boot", "gzip_mb", "    files with gzip, MB", 1),
)

POSTGRES_ROWS = (
    Row("postgres", "pg-one", "steps_s", "1 run x 1,000 steps: steps/s"),
    Row("postgres", "pg-one", "p50_ms", "    p50 of a step, ms", 2),
    Row("postgres", "pg-one", "cpu_us", "    CPU us a step"),
    Row("postgres", "pg-many", "steps_s", "2,000 runs x 5 steps, 50 at a time: steps/s"),
    Row("postgres", "pg-many", "cpu_us", "    CPU us a step"),
    Row("postgres", "pg-jobs", "runs_s", "jobs without steps, 50 at a time: runs/s"),
    Row("postgres", "pg-jobs", "cpu_us", "    CPU us a run"),
    Row("postgres", "pg-start", "p50_ms", "trigger to start, in process: p50 ms", 2),
    Row("postgres", "pg-start", "p95_ms", "    p95 ms", 2),
    Row("postgres", "pg-start-across", "p50_ms", "    from another process: p50 ms", 2),
    Row("postgres", "pg-start-across", "p95_ms", "    p95 ms", 2),
    Row("postgres", "pg-claim-few", "claim_ms", "a claim of 10 runs, 100 pending: ms", 2),
    Row("postgres", "pg-claim-many", "claim_ms", "    100,000 pending: ms", 2),
    Row("postgres", "pg-claim-behind", "claim_ms", "    10,000 more behind a busy key: ms", 2),
    Row("postgres", "pg-drain-few", "runs_s", "drain, 5,000 pending: runs/s"),
    Row("postgres", "pg-drain-many", "runs_s", "    100,000 pending: runs/s"),
    Row("postgres", "pg-two-one", "runs_s", "drain of 5 trivial steps, 1 worker: runs/s"),
    Row("postgres", "pg-two", "runs_s", "    2 workers: runs/s"),
    Row("postgres", "pg-two-waiting-one", "runs_s", "    steps of 20 ms, 1 worker: runs/s"),
    Row("postgres", "pg-two-waiting", "runs_s", "    2 workers: runs/s"),
)


def header(
    peers: Mapping[str, Peer], repeat: int, quick: bool, server: PostgresServer | None
) -> str:
    """What was measured, where and when."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    load = " ".join(f"{value:.2f}" for value in os.getloadavg())
    how = f"{'quick, ' if quick else ''}median of {repeat}"
    lines = [
        f"{time.strftime('%Y-%m-%d %H:%M')}, load average before {load}, {how}",
        f"{os.cpu_count()} cores, {_cpu_model()}, {memory:.0f} GB, {platform.system()}",
        f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, Node {_node_version()}",
        *([f"PostgreSQL: {server.settings}"] if server else []),
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


def tables(results: Results, peers: Mapping[str, Peer]) -> str:
    """A table of what runs on SQLite, one of what runs on PostgreSQL, and notes."""
    found = [
        _table(results, rows, {name: peer for name, peer in there.items() if not peer.missing})
        for rows, there in (
            (ROWS, {name: peer for name, peer in peers.items() if not peer.on_postgres}),
            (POSTGRES_ROWS, {name: peer for name, peer in peers.items() if peer.on_postgres}),
        )
    ]
    return "\n\n".join(filter(None, [*found, "\n".join(_notes(results, peers))]))


def _table(results: Results, rows: Sequence[Row], columns: Mapping[str, Peer]) -> str:
    """One line for each number, one column for each peer."""
    lines: list[list[str]] = [["", *(peer.title for peer in columns.values())]]
    for row in rows:
        cells = [_cell(results, row, column) for column in columns]
        if any(cells):
            lines.append([row.label, *cells])
    return _aligned(lines) if len(lines) > 1 else ""


def _cell(results: Results, row: Row, column: str) -> str:
    value = results.median(row.case, column, row.key)
    if value is None:
        return "failed" if (row.case, column) in results.failures else ""
    return f"{value:,.{row.digits}f}{' ?' if results.noise(row.case, column) > NOISE else ''}"


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
    notes: list[str] = []
    if any(case.startswith("e-claim") for case, _ in results.found):
        notes.append(
            "* durably: the statements of one claim of 10 runs; the original: a claim of its one run."
        )
    for (case, column), why in results.failures.items():
        title = peers[column].title if column in peers else "all"
        notes.append(f"! {case}, {title}: {why}")
    return notes


Number = tuple[str, str, str]
"""A case, a column and a key of its result."""


class Target(NamedTuple):
    """What we want to reach: a number of ours, or its ratio to another."""

    label: str
    number: Number
    over: Number | None
    limit: float
    at_least: bool
    unit: str

    def value(self, results: Results) -> float | None:
        """What was measured of it."""
        value = results.median(*self.number)
        if value is None or self.over is None:
            return value
        other = results.median(*self.over)
        return value / other if other else None

    def disturbed(self, results: Results) -> bool:
        """Whether other processes used the machine meanwhile."""
        numbers = [self.number] if self.over is None else [self.number, self.over]
        return any(results.noise(case, column) > NOISE for case, column, _ in numbers)


def _ratio(label: str, case: str, key: str, other: str, limit: float) -> Target:
    return Target(label, (case, "ours", key), (case, other, key), limit, True, "x")


def _pg(label: str, number: tuple[str, str], limit: float, unit: str = "x", **over: str) -> Target:
    """Of PostgreSQL: against another column or another case; a time is at most, a rate at least."""
    case, key = number
    other = (over.get("case", case), over.get("column", "pg"), key) if over else None
    return Target(label, (case, "pg", key), other, limit, not key.endswith("_ms"), unit)


def _at_most(label: str, case: str, key: str, limit: float, unit: str) -> Target:
    return Target(label, (case, "ours", key), None, limit, False, unit)


def _many_to_few(label: str, cases: tuple[str, str], key: str, limit: float, up: bool) -> Target:
    return Target(label, (cases[0], "ours", key), (cases[1], "ours", key), limit, up, "x")


TARGETS = (
    _ratio("(a) against the original", "a", "steps_s", "original", 2.5),
    _ratio("(a) against DBOS", "a", "steps_s", "dbos", 8),
    _ratio("(b) against the original", "b", "steps_s", "original", 15),
    _ratio("(b) against DBOS", "b", "steps_s", "dbos", 50),
    _ratio("(b) against raw SQL", "b", "steps_s", "raw", 0.25),
    _ratio("(b) fsync + 1 ms, the original", "b-slow", "steps_s", "original", 15),
    _ratio("(b) fsync + 1 ms, DBOS", "b-slow", "steps_s", "dbos", 50),
    _ratio("(b) fsync + 1 ms, raw SQL", "b-slow", "steps_s", "raw", 0.25),
    _at_most("(b) CPU a step, everything on", "b-everything", "cpu_us", 300, "us"),
    _ratio("(c) one by one, the original", "c", "single_s", "original", 1.5),
    _ratio("(c) batches, the original", "c", "batch_s", "original", 5),
    _at_most("(d) in process, p50", "d", "p50_ms", 1.5, "ms"),
    _at_most("(d) another process, p50", "d-across", "p50_ms", 3, "ms"),
    _many_to_few("(e) drain, many to few", ("e-many", "e-few"), "runs_s", 0.85, True),
    _many_to_few("(e) claim, many to few", ("e-claim-many", "e-claim-few"), "claim_ms", 1.5, False),
    _at_most("(f) resume", "f", "replay_ms", 20, "ms"),
    _at_most("(g) memory idle", "b", "rss_idle_mb", 50, "MB"),
    _pg("1 run, absurd", ("pg-one", "steps_s"), 2, column="absurd"),
    _pg("1 run, DBOS", ("pg-one", "steps_s"), 7, column="pg_dbos"),
    _pg("2,000 runs, absurd", ("pg-many", "steps_s"), 12, column="absurd"),
    _pg("2,000 runs, DBOS", ("pg-many", "steps_s"), 35, column="pg_dbos"),
    _pg("2,000 runs, raw rows", ("pg-many", "steps_s"), 0.1, column="pg_raw"),
    _pg("jobs, pgqueuer", ("pg-jobs", "runs_s"), 1, column="pgqueuer"),
    _pg("trigger to start, p50", ("pg-start", "p50_ms"), 2, "ms"),
    _pg("    another process, p50", ("pg-start-across", "p50_ms"), 4, "ms"),
    _pg("claim, 100,000 to 100", ("pg-claim-many", "claim_ms"), 1.5, case="pg-claim-few"),
    _pg("claim, behind a key", ("pg-claim-behind", "claim_ms"), 1.5, case="pg-claim-few"),
    _pg("drain, 100,000 to 5,000", ("pg-drain-many", "runs_s"), 0.85, case="pg-drain-few"),
    _pg("two workers, trivial steps", ("pg-two", "runs_s"), 1.6, case="pg-two-one"),
    _pg("    steps of 20 ms", ("pg-two-waiting", "runs_s"), 1.6, case="pg-two-waiting-one"),
)


def targets(results: Results) -> str:
    """Each target that could be measured, met or missed; a question mark where it was not quiet."""
    lines = [["target", "measured", "wanted", ""]]
    for target in TARGETS:
        if (value := target.value(results)) is not None:
            met = value >= target.limit if target.at_least else value <= target.limit
            verdict = "PASS" if met else "MISS"
            if target.disturbed(results):
                verdict += " ?"
            wanted = f"{'>=' if target.at_least else '<='} {target.limit:g} {target.unit}"
            lines.append([target.label, f"{value:.2f} {target.unit}", wanted, verdict])
    return _aligned(lines)


def noise(results: Results) -> str:
    """How quiet the machine was."""
    found = [one["others"] for several in results.found.values() for one in several]
    if not found:
        return "nothing was measured"
    disturbed = sum(others > NOISE for others in found)
    return (
        f"other processes used {sum(found) / len(found):.2f} cores on average; {disturbed} of "
        f"{len(found)} measurements were disturbed (more than {NOISE:g} cores)"
    )
