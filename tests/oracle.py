"""Reads a database's journal from outside and checks it against the state table, row by row."""

import json
import sqlite3
from collections import defaultdict

from durably.state import CLAIM, FINAL, TRANSITIONS, Status

_BY_EVENT = {row.event: row for row in TRANSITIONS}


def check_journal(connection: sqlite3.Connection, *, fifo: bool = True) -> list[str]:
    """Every violation found in the journal of a database; [] when all promises hold."""
    checker = _Checker(fifo=fifo)
    for row in connection.execute(
        "select j.run_id, j.seq, j.type, j.step, j.attempt, r.concurrency_key, r.scope, r.job, j.data"
        "  from durably_journal j left join durably_runs r on r.id = j.run_id order by j.position"
    ):
        checker.read(*row)
    return checker.violations + _check_rows(connection, checker)


class _Checker:
    def __init__(self, *, fifo: bool) -> None:
        self.violations: list[str] = []
        self.status: dict[str, Status] = {}
        self.seq: dict[str, int] = defaultdict(int)
        self.attempt: dict[str, int] = defaultdict(int)
        self.steps: dict[str, set[str]] = defaultdict(set)
        self.holder: dict[tuple[str, str], str] = {}  # by scope and concurrency key
        self.waiting: dict[tuple[str, str], list[str]] = defaultdict(list)
        self.fifo = fifo

    def read(self, run, seq, type, step, attempt, key, scope, job, data) -> None:
        key = key and (scope, key)
        if type == "run:delete":
            self._deleted(run)
            return
        if job is None:
            self.say(f"run {run} has a line {type} but no row")
        if seq != self.seq[run] + 1:
            self.say(f"run {run}: seq {self.seq[run]} is followed by {seq} ({type})")
        self.seq[run] = seq
        if attempt < self.attempt[run]:
            self.say(f"run {run}: {type} of attempt {attempt} after attempt {self.attempt[run]}")
        if type == "run:trigger":
            self.status[run] = Status.PENDING
            if key:
                self.waiting[key].append(run)
        elif type in _BY_EVENT:
            self._moved(run, type, attempt, key)
        else:
            self._wrote(run, type, step, attempt)

    def _moved(self, run, type, attempt, key) -> None:
        row, status = _BY_EVENT[type], self.status.get(run)
        if status not in row.sources:
            self.say(f"run {run}: {type} from {status}")
        self.status[run] = row.target
        if row is CLAIM:
            if attempt != self.attempt[run] + 1:
                self.say(f"run {run}: attempt {self.attempt[run]} is followed by {attempt}")
            self.attempt[run] = attempt
        if key:
            self._key(run, row, key)

    def _key(self, run, row, key) -> None:
        if row is CLAIM:
            if self.holder.get(key, run) != run:
                self.say(f"key {key}: {run} started while {self.holder[key]} runs")
            self.holder[key] = run
            if run in self.waiting[key]:
                if self.fifo and self.waiting[key][0] != run:
                    self.say(f"key {key}: {run} overtook {self.waiting[key][0]}")
                self.waiting[key].remove(run)
        elif self.holder.get(key) == run:
            del self.holder[key]
        if row.target in FINAL and run in self.waiting[key]:
            self.waiting[key].remove(run)

    def _wrote(self, run, type, step, attempt) -> None:
        if self.status.get(run) != Status.RUNNING or attempt != self.attempt[run]:
            self.say(f"run {run}: {type} of attempt {attempt} while {self.status.get(run)}")
        if type == "step:complete":
            if step in self.steps[run]:
                self.say(f"run {run}: step {step} committed twice")
            self.steps[run].add(step)

    def _deleted(self, run) -> None:
        if self.status.get(run, Status.COMPLETED) not in FINAL:
            self.say(f"run {run} was deleted while {self.status[run]}")
        self.status.pop(run, None)

    def say(self, what: str) -> None:
        self.violations.append(what)


def _check_rows(connection: sqlite3.Connection, checker: _Checker) -> list[str]:
    found = []
    rows = {}
    for id, status, generation, output, error, due_at in connection.execute(
        "select id, status, generation, output, error, due_at from durably_runs"
    ):
        rows[id] = status
        if checker.status.get(id) != status:
            found.append(f"run {id} is {status}, its journal says {checker.status.get(id)}")
        if generation != checker.attempt[id]:
            found.append(f"run {id} has generation {generation}, not {checker.attempt[id]}")
        if (output is not None) != (status == "completed"):
            found.append(f"run {id} is {status} with output {output!r}")
        if (error is not None) != (status == "failed"):
            found.append(f"run {id} is {status} with error {error!r}")
        if error is not None:
            json.loads(error)
        if (due_at is None) != (Status(status) in FINAL):
            found.append(f"run {id} is {status} with due_at {due_at}")
    found += [f"run {id} has a journal but no row" for id in checker.status if id not in rows]
    return found
