"""The same SQL without an engine: what is left when nothing but SQLite costs anything.

The engine's own transactions are walked through once, in memory, to learn every statement and its
parameters. The timed part executes that list, grouped into commits as large as the engine's.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Generator, Sequence
from typing import Any

from durably.state import COMPLETE
from durably.store import claiming, enqueuing, journal, records, statements, transactions
from durably.store.records import Entry, Lease, NewRun, Settlement
from durably.store.sqlite.store import DIALECT

from .meter import Meter, Result, drive

Statement = tuple[str, Any]
NOW = 1_700_000_000_000
STATEMENTS = statements.statements(DIALECT)


class Script:
    """Statements in the order in which the engine would execute them, a list for each commit."""

    def __init__(self) -> None:
        self.commits: list[list[Statement]] = []
        self._scratch = _database(":memory:")

    def commit(self, operations: Sequence[Generator[Any, Any, Any]], *, guarded: bool) -> list[Any]:
        """Learn one commit; each guarded operation has a savepoint of its own."""
        batch: list[Statement] = []
        results: list[Any] = []
        for operation in operations:
            if guarded:
                batch.append(("savepoint one", ()))
            results.append(self._learn(operation, batch))
            if guarded:
                batch.append(("release one", ()))
        self.commits.append(batch)
        return results

    def _learn(self, operation: Generator[Any, Any, Any], batch: list[Statement]) -> Any:
        try:
            name, params = next(operation)
            while True:
                text = STATEMENTS.get(name, name)
                batch.append((text, params))
                rows = self._scratch.execute(text, params).fetchall()
                name, params = operation.send(rows)
        except StopIteration as stop:
            return stop.value

    def execute(self, path: str) -> Meter:
        connection = _database(path)
        execute = connection.execute
        meter = Meter()
        for batch in self.commits:
            execute("begin immediate")
            for text, params in batch:
                execute(text, params).fetchall()
            execute("commit")
        meter.stop()
        connection.close()
        return meter


def _database(path: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, cached_statements=256)
    for pragma in (
        "journal_mode = wal",
        "synchronous = full",
        "wal_autocheckpoint = 4000",
        "cache_size = -16000",
    ):
        connection.execute(f"pragma {pragma}")
    for _, script in sorted(statements.migrations(DIALECT).items()):
        connection.executescript(script)
    return connection


def concurrent(db: str, runs: int, steps: int, concurrency: int) -> Result:
    script = Script()
    new = [NewRun(f"{i:026}", "plain", str(i), "{}", None, None) for i in range(runs)]
    script.commit([enqueuing.enqueue(new, NOW)], guarded=False)
    for first in range(0, runs, concurrency):
        ask = records.ClaimRequest(["plain"], "me", f"t{first}", NOW, 30_000, concurrency, True)
        leases: list[Lease] = [
            claimed.lease for claimed in script.commit([claiming.claim(ask)], guarded=True)[0].taken
        ]
        for n in range(steps):
            entry = Entry("step:complete", NOW, f"step-{n}", n, NOW, str(n + 1))
            script.commit([journal.record(lease, entry) for lease in leases], guarded=False)
        done = Settlement(NOW, output="1")
        script.commit(
            [transactions.settle(lease, COMPLETE, done) for lease in leases], guarded=True
        )
    return script.execute(db).per_step(runs * steps)


def sequential(db: str, steps: int) -> Result:
    script = Script()
    new = [NewRun("0" * 26, "plain", "0", "{}", None, None)]
    script.commit([enqueuing.enqueue(new, NOW)], guarded=False)
    ask = records.ClaimRequest(["plain"], "me", "token", NOW, 30_000, 1, True)
    lease = script.commit([claiming.claim(ask)], guarded=False)[0].taken[0].lease
    for n in range(steps):
        entry = Entry("step:complete", NOW, f"step-{n}", n, NOW, str(n + 1))
        script.commit([journal.record(lease, entry)], guarded=False)
    return script.execute(db).per_step(steps)


if __name__ == "__main__":
    drive((concurrent, sequential))
