"""The truth about what happened: a file of effects, and the database as the harness itself reads it.

The effects file is opened O_APPEND by every process under test and gets one line for each thing that
cannot be taken back: a step's body began, a caller was told something. The harness compares it with
the database (``place``), knowing nothing of the product but its two tables.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from .place import Journaled, Place, Snapshot, place_of

FINAL = ("run:complete", "run:fail", "run:cancel")
STATUS_AFTER = {
    "run:trigger": "pending",
    "run:start": "running",
    "run:complete": "completed",
    "run:fail": "failed",
    "run:cancel": "cancelled",
    "run:retry": "pending",
    "run:release": "pending",
}


class Line(NamedTuple):
    """A line of the effects file."""

    kind: str
    pid: int
    words: list[str]


@dataclass
class World:
    """A database, its effects file, and everything found wrong between them so far."""

    folder: Path
    apart: Path | None = None
    """The effects file, where it is not beside the database."""
    url: str = ""
    """Of a PostgreSQL database; "" for a file in the folder."""
    place: Place = field(init=False)
    wrong: Counter[str] = field(default_factory=Counter)
    samples: list[str] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    begun: Counter[tuple[str, str]] = field(default_factory=Counter)
    bodies: dict[str, int] = field(default_factory=dict)
    """The attempt that came to each value."""
    attempts: set[tuple[str, int]] = field(default_factory=set)
    """Run and attempt of each body."""
    endings: set[tuple[str, int]] = field(default_factory=set)
    """Run and attempt of each job that returned."""
    acked: dict[str, str] = field(default_factory=dict)
    """Idempotency key to the id that its caller was told."""
    deleted: set[str] = field(default_factory=set)
    doomed: set[str] = field(default_factory=set)
    """Runs whose deletion was asked for; whether it was done is not known yet."""
    _offset: int = 0
    _committed: set[tuple[str, str]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.place = place_of(self.folder, self.url)

    @property
    def database(self) -> Path:
        return self.folder / "runs.db"

    @property
    def effects(self) -> Path:
        return self.apart or self.folder / "effects"

    @property
    def steps(self) -> int:
        return len(self.begun)

    @property
    def repeats(self) -> int:
        return self.begun.total() - len(self.begun)

    def found(self, what: str, detail: str) -> None:
        self.wrong[what] += 1
        if len(self.samples) < 20:
            self.samples.append(f"{what}: {detail}")

    def close(self) -> None:
        """Disconnect from the database."""
        self.place.close()

    # -- observing

    def new_lines(self) -> list[Line]:
        """What was appended to the effects file since the last look."""
        if not self.effects.exists():
            return []
        with self.effects.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        data = data[: data.rfind(b"\n") + 1]
        self._offset += len(data)
        new = []
        for text in data.decode().splitlines():
            kind, pid, *words = text.split(" ")
            new.append(Line(kind, int(pid), words))
        for line in new:
            self._take(line)
        self.lines += new
        return new

    def _take(self, line: Line) -> None:
        if line.kind == "begin":
            step = (line.words[0], line.words[1])
            self.begun[step] += 1
            self.bodies[line.words[3]] = int(line.words[2])
            self.attempts.add((line.words[0], int(line.words[2])))
            if step in self._committed:
                self.found("begun_after_commit", f"{line} was committed before")
        elif line.kind == "ending":
            self.endings.add((line.words[0], int(line.words[1])))
        elif line.kind == "ack":
            key, run_id = line.words
            known = self.acked.setdefault(key, run_id)
            if known != run_id:
                self.found("duplicated", f"key {key} gave {known}, then {run_id}")
        elif line.kind == "deleting":
            self.doomed.add(line.words[0])
        elif line.kind == "deleted":
            self.deleted.add(line.words[0])

    def look(self, *, dead: bool = True) -> Snapshot:
        """Read both; ``dead`` when no process is at work, so that they must agree exactly.

        First the database, then the effects: what began after this look is compared with what was
        committed before it.
        """
        self.new_lines()
        snapshot = self.place.read(dead=dead)
        if not dead:  # whoever wrote to the database wrote to the effects before
            self.new_lines()
        if dead:
            self._compare(snapshot)
        self._check_journal(snapshot)
        self._committed |= snapshot.committed
        return snapshot

    def _compare(self, now: Snapshot) -> None:
        """What a caller was told, or saw, must be in the file."""
        committed = now.committed
        values = {
            (line.run_id, line.step): json.loads(line.data or "null")
            for lines in now.journal.values()
            for line in lines
            if line.type == "step:complete"
        }
        for key, run_id in self.acked.items():
            if run_id not in now.runs and run_id not in self.doomed:
                self.found("lost", f"key {key}: run {run_id} was acknowledged and is gone")
        for run_id in self.deleted & now.runs.keys():
            self.found("undeleted", run_id)
        for line in self.lines:
            if line.kind == "raised":
                self.found("raised", " ".join(line.words))
            if line.kind not in ("got", "told") or line.words[0] not in now.runs:
                continue
            run_id, step = line.words[0], line.words[1]
            if line.kind == "told":
                if not any(entry.type == step for entry in now.journal[run_id]):
                    self.found("lost", f"{run_id}: {step} was told and is not in the journal")
                continue
            nonce = line.words[3]
            if (run_id, step) not in committed:
                self.found("lost", f"the value of step {step} of {run_id} was given and is gone")
            elif values[run_id, step]["nonce"] != nonce:
                self.found(
                    "changed", f"step {step} of {run_id} gave {nonce}, kept {values[run_id, step]}"
                )

    # -- the journal by itself

    def _check_journal(self, now: Snapshot) -> None:
        if now.integrity != "ok":
            self.found("corrupt", now.integrity)
        keys = Counter(
            (row["job"], row["scope"], row["idempotency_key"])
            for row in now.runs.values()
            if row["idempotency_key"] is not None
        )
        for key, count in keys.items():
            if count > 1:
                self.found("duplicated", f"{count} runs of {key}")
        for run_id, row in now.runs.items():
            lines = now.journal.get(run_id, [])
            self._check_run(row, lines)
        for run_id, lines in now.journal.items():
            if run_id not in now.runs and [line.type for line in lines] != ["run:delete"]:
                self.found("torn", f"journal of {run_id} without its run: {lines}")

    def _check_run(self, row: dict[str, Any], lines: list[Journaled]) -> None:
        run_id = row["id"]
        if [line.seq for line in lines] != list(range(1, len(lines) + 1)):
            self.found("gap", f"{run_id}: {[line.seq for line in lines]}")
        states = [line for line in lines if line.type.startswith("run:")]
        if not states or STATUS_AFTER[states[-1].type] != row["status"]:
            self.found("torn", f"{run_id} is {row['status']} after {states[-1:]}")
        attempt, over, started = 0, False, 0
        steps: set[str] = set()
        for line in lines:
            if line.attempt < attempt:
                self.found("stale_accepted", f"{run_id}: {line} after attempt {attempt}")
            attempt = max(attempt, line.attempt)
            if over and line.type != "run:retry":
                self.found("after_the_end", f"{run_id}: {line}")
            over = line.type in FINAL
            if line.type == "run:start":
                started = line.attempt
            elif line.type == "run:complete" and (run_id, line.attempt) not in self.endings:
                self.found("stale_accepted", f"{line}, but that attempt has not returned")
            elif line.type == "step:complete":
                if line.attempt != started:
                    self.found("stale_accepted", f"{run_id}: {line} in attempt {started}")
                self._check_author(line)
                if line.step in steps:
                    self.found("duplicated", f"{run_id}: step {line.step} committed twice")
                steps.add(line.step or "")

    def _check_author(self, line: Journaled) -> None:
        """A value is kept in the attempt in which its body ran, by the worker that ran it."""
        value = json.loads(line.data or "null")
        nonce = value.get("nonce") if isinstance(value, dict) else None
        if nonce is not None and self.bodies.get(nonce) != line.attempt:
            self.found("stale_accepted", f"{line}, its body ran in {self.bodies.get(nonce)}")

    def check_order(self, now: Snapshot) -> None:
        """In runs whose steps follow each other: none began before the one before was committed."""
        committed: dict[str, set[str]] = defaultdict(set)
        for run_id, step in now.committed:
            committed[run_id].add(step)
        for run_id, step in self.begun:
            if run_id in now.runs and step.isdigit():
                missing = [str(i) for i in range(int(step)) if str(i) not in committed[run_id]]
                if missing:
                    self.found("lost", f"{run_id}: step {step} began, {missing} are not there")
        for run_id, row in now.runs.items():
            indexes = [
                (line.step_index, line.step)
                for line in now.journal[run_id]
                if line.type == "step:complete" and (line.step or "").isdigit()
            ]
            if any(str(index) != step for index, step in indexes) or indexes != sorted(indexes):
                self.found("disorder", f"{run_id} ({row['job']}): {indexes}")

    def check_keys(self, now: Snapshot) -> None:
        """Runs with one concurrency key of one scope never ran together."""
        lines = sorted(line for lines in now.journal.values() for line in lines)
        holders: dict[tuple[str, str], str] = {}
        for line in lines:
            row = now.runs.get(line.run_id)
            if row is None or row["concurrency_key"] is None or not line.type.startswith("run:"):
                continue
            key = row["scope"], row["concurrency_key"]
            if line.type == "run:start":
                holder = holders.setdefault(key, line.run_id)
                if holder != line.run_id:
                    self.found("overlap", f"{line.run_id} started while {holder} held {key}")
            elif holders.get(key) == line.run_id:
                del holders[key]

    def check_completed(self, now: Snapshot) -> None:
        """At the end: every acknowledged run is completed, with the values that were kept."""
        for run_id in self.acked.values():
            if run_id in self.deleted or run_id not in now.runs:
                continue
            row = now.runs[run_id]
            if row["status"] != "completed":
                self.found("stuck", f"{run_id} is {row['status']}: {row['error']}")
                continue
            kept = [
                json.loads(line.data or "null")["nonce"]
                for line in now.journal[run_id]
                if line.type == "step:complete" and (line.step or "").isdigit()
            ]
            if json.loads(row["output"])["nonces"] != kept:
                self.found("changed", f"{run_id}: output {row['output']}, kept {kept}")
            ends = [line for line in now.journal[run_id] if line.type == "run:complete"]
            said = json.loads(row["progress"] or "{}").get("message")
            spoke = (run_id, ends[0].attempt) in self.attempts
            if said and spoke and said != f"attempt {ends[0].attempt}":
                self.found("stale_accepted", f"{run_id}: progress {said}, ended in {ends[0]}")
            if len(ends) != 1:
                self.found("duplicated", f"{run_id} completed {len(ends)} times")
