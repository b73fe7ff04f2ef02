"""What waits to be written: each a transaction to somebody, and of a kind that is written together."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

from ...state import Status, Transition
from .. import claiming, enqueuing, journal, records, statements, transactions
from ..records import Claims, Enqueued, Entry, Lease, NewRun, RunRow, Settlement

T = TypeVar("T")

MAX_BYTES = 1_048_576  # of values in one statement, unless a single one has more
_STARTED = 2  # the number of a new run's second line


class Write(Generic[T]):
    """A transaction that somebody waits for: on its own, and as one of its kind."""

    kind = ""
    run_id: str | None = None
    """The run whose row it locks."""
    size = 0
    """About how many bytes its values have."""
    needs_transaction = False
    """Whether there is more to it than one statement."""

    def __init__(self, wakes: bool | None) -> None:
        self.wakes = wakes
        self.tries = 0
        self.deadline: float | None = None
        self.future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

    def alone(self) -> statements.Transaction[T]:
        """The transaction, by itself."""
        raise NotImplementedError


class Enqueue(Write[list[Enqueued]]):
    """New runs."""

    kind = "enqueue"

    def __init__(self, runs: Sequence[NewRun], now: int) -> None:
        super().__init__(wakes=True)
        self.runs, self.now = runs, now
        self.size = sum(len(run.input) for run in runs)
        self.coalesces = any(run.coalesce for run in runs)
        has_keys = any(run.idempotency_key is not None for run in runs)
        self.needs_transaction = has_keys or self.coalesces or self.size > MAX_BYTES

    def alone(self) -> statements.Transaction[list[Enqueued]]:
        return enqueuing.enqueue(self.runs, self.now)


class Claim(Write[Claims]):
    """A worker that is woken for new runs takes them as they are stored, if nothing else is due."""

    kind = "enqueue"

    def __init__(self, ask: records.ClaimRequest) -> None:
        super().__init__(wakes=None)
        self.ask = ask

    def choose(self, runs: Sequence[NewRun]) -> set[str]:
        """The ids of those that it may take."""
        jobs = set(self.ask.jobs)
        free = [run.id for run in runs if run.job in jobs and run.concurrency_key is None]
        return set(free[: self.ask.limit])

    def of(self, new: Mapping[str, RunRow]) -> Claims:
        """What it took of runs that are new."""
        taken = [row for row in new.values() if row.status == Status.RUNNING]
        claimed = [claiming.as_claimed(row, self.ask, seq=_STARTED, resumed=False) for row in taken]
        return Claims(claimed, more=not taken or len(taken) < len(new))

    def alone(self) -> statements.Transaction[Claims]:
        again = self.tries > 0  # what was not written includes the renewals of live workers
        ask = self.ask._replace(takeover=False) if again else self.ask
        return claiming.claim(ask, replay=again)


class Record(Write[int]):
    """A holder's line."""

    kind = "record"

    def __init__(self, lease: Lease, entry: Entry) -> None:
        super().__init__(wakes=False)
        self.lease, self.entry, self.run_id = lease, entry, lease.run_id
        self.size = len(entry.data or "")

    def alone(self) -> statements.Transaction[int]:
        return journal.record(self.lease, self.entry, replay=self.tries > 0)


class SaveProgress(Write[None]):
    """How far a run is."""

    kind = "progress"

    def __init__(self, lease: Lease, progress: str, now: int) -> None:
        super().__init__(wakes=False)
        self.lease, self.progress, self.now, self.run_id = lease, progress, now, lease.run_id

    def alone(self) -> statements.Transaction[None]:
        return journal.save_progress(self.lease, self.progress, self.now)


class Settle(Write[tuple[RunRow, int]]):
    """A fenced row of the state table."""

    def __init__(self, lease: Lease, transition: Transition, settlement: Settlement) -> None:
        super().__init__(wakes=settlement.wakes)
        self.lease, self.transition, self.settlement = lease, transition, settlement
        self.kind, self.run_id = transition.name, lease.run_id
        self.size = len(settlement.output or "") + len(settlement.error or "")
        # It may have a concurrency key to hand on, and the results of steps to delete.
        self.needs_transaction = settlement.wakes or settlement.forget_steps

    def is_done(self, row: RunRow) -> bool:
        """Whether the row shows that an earlier try was committed."""
        return row.status == self.transition.target and row.lease_token == self.lease.token

    def alone(self) -> statements.Transaction[tuple[RunRow, int]]:
        return transactions.settle(
            self.lease, self.transition, self.settlement, replay=self.tries > 0
        )


def new_runs(runs: Sequence[NewRun], now: int, claim: Claim | None = None) -> dict[str, Any]:
    """What the statement that stores new runs is given: a claim may take some of them."""
    chosen = claim.choose(runs) if claim else set[str]()
    return {
        **columns(NewRun._fields, runs),
        "now": now,
        "may_go": [run.id in chosen for run in runs],
        "jobs": list(claim.ask.jobs) if claim else [],
        "lease_owner": claim.ask.owner if claim else None,
        "lease_token": claim.ask.token if claim else None,
        "lease": claim.ask.lease if claim else 0,
    }


def portions(runs: Sequence[NewRun]) -> Iterator[Sequence[NewRun]]:
    """New runs, as many at once as one statement should take."""
    first = size = 0
    for n, run in enumerate(runs):
        size += len(run.input)
        if n > first and size > MAX_BYTES:
            yield runs[first:n]
            first, size = n, len(run.input)
    if runs:
        yield runs[first:]


def columns(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> Mapping[str, list[Any]]:
    """Rows as one list for each column, which is how a statement takes many."""
    return dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
