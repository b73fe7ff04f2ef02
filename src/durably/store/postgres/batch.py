"""Group commit: what waits is written in one transaction with few round trips, one flush at a time.

Writes of one kind are one statement, whatever their number; a statement alone needs no transaction
around it. If a statement is refused, the flush begins anew and takes the writes one by one, each under
a savepoint, so that only the one at fault fails. A flush whose outcome is unknown is repeated: first
the runs are locked, which waits for what may be left of the lost connection, then what was done is
looked up, and the rest is written.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, Generic, NamedTuple, TypeVar

from ...errors import ClosedError, LeaseLost, StorageUnavailableError
from ...models import Lease, RunRow
from ...runtime import Runtime
from ...state import FINAL, Transition
from .. import sql
from ..base import Enqueued, Entry, NewRun, Settlement
from .link import Link, Session
from .trouble import Backoff, Trouble, is_passing

T = TypeVar("T")

logger = logging.getLogger("durably")

MAX_BATCH = 500  # writes in one flush
_LAST_PATIENCE = 10.0  # seconds that a close waits for what is under way


class Write(Generic[T]):
    """A transaction that somebody waits for: on its own, and as one of its kind."""

    kind = ""
    run_id: str | None = None
    """The run whose row it locks."""
    needs_transaction = False
    """Whether there is more to it than one statement."""

    def __init__(self, wakes: bool | None) -> None:
        self.wakes = wakes
        self.tries = 0
        self.deadline: float | None = None
        self.future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

    def alone(self) -> sql.Transaction[T]:
        """The transaction, by itself."""
        raise NotImplementedError


class Enqueue(Write[list[Enqueued]]):
    """New runs."""

    kind = "enqueue"

    def __init__(self, runs: Sequence[NewRun], now: int) -> None:
        super().__init__(wakes=True)
        self.runs, self.now = runs, now
        self.needs_transaction = any(run.idempotency_key is not None for run in runs)

    def alone(self) -> sql.Transaction[list[Enqueued]]:
        return sql.enqueue(self.runs, self.now)


class Record(Write[int]):
    """A holder's line."""

    kind = "record"

    def __init__(self, lease: Lease, entry: Entry) -> None:
        super().__init__(wakes=False)
        self.lease, self.entry, self.run_id = lease, entry, lease.run_id

    def alone(self) -> sql.Transaction[int]:
        return sql.record(self.lease, self.entry, replay=self.tries > 0)


class SaveProgress(Write[None]):
    """How far a run is."""

    kind = "progress"

    def __init__(self, lease: Lease, progress: str, now: int) -> None:
        super().__init__(wakes=False)
        self.lease, self.progress, self.now, self.run_id = lease, progress, now, lease.run_id

    def alone(self) -> sql.Transaction[None]:
        return sql.save_progress(self.lease, self.progress, self.now)


class Settle(Write[tuple[RunRow, int]]):
    """A fenced row of the state table."""

    def __init__(self, lease: Lease, transition: Transition, settlement: Settlement) -> None:
        super().__init__(wakes=settlement.wakes)
        self.lease, self.transition, self.settlement = lease, transition, settlement
        self.kind, self.run_id = transition.name, lease.run_id
        self.needs_transaction = settlement.wakes  # it may have a concurrency key to hand on

    def is_done(self, row: RunRow) -> bool:
        """Whether the row shows that an earlier try was committed."""
        return row.status == self.transition.target and row.lease_token == self.lease.token

    def alone(self) -> sql.Transaction[tuple[RunRow, int]]:
        return sql.settle(self.lease, self.transition, self.settlement, replay=self.tries > 0)


class Result(NamedTuple):
    """What became of a write."""

    write: Write[Any]
    value: Any
    error: BaseException | None


class Flusher:
    """Writes what waits."""

    def __init__(self, link: Link, runtime: Runtime, trouble: Trouble) -> None:
        self._link = link
        self._runtime = runtime
        self._trouble = trouble
        self._waiting: list[Write[Any]] = []
        self._writing: list[Write[Any]] = []
        self._news = asyncio.Event()
        self._closing = False
        self._task = asyncio.create_task(self._work(), name="durably-flusher")
        self.on_commit: Callable[[bool], None] | None = None

    def submit(self, write: Write[T], *, patience: float | None = None) -> asyncio.Future[T]:
        """Write it with whatever else waits; the future resolves once that is committed."""
        if self._closing:
            raise ClosedError("the database is closed; call init() first")
        if patience is not None:
            write.deadline = self._runtime.monotonic() + patience
        self._waiting.append(write)
        self._news.set()
        return write.future

    async def close(self) -> None:
        """Write what waits; in trouble it is given up."""
        self._closing = True
        self._news.set()
        if self._trouble.why is None:
            await asyncio.wait([self._task], timeout=_LAST_PATIENCE)
        self._task.cancel()
        await asyncio.wait([self._task])
        why = f"; it could not be written: {self._trouble.why}" if self._trouble.why else ""
        error = ClosedError(f"the database was closed{why}")
        _tell([Result(write, None, error) for write in self._writing + self._waiting])

    async def _work(self) -> None:
        while self._waiting or not self._closing:
            await self._news.wait()
            self._news.clear()
            while self._waiting:
                self._writing, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
                await self._persist()

    async def _persist(self) -> None:
        """Commit a batch, however long the storage needs, and tell its callers."""
        backoff = Backoff(self._runtime)
        while self._writing:
            try:
                results = await self._flush(self._writing)
            except Exception as error:  # noqa: BLE001 - whatever it is, the callers hear of it
                if not is_passing(error):
                    results = [Result(write, None, error) for write in self._writing]
                else:
                    self._trouble.note(error)
                    self._give_up_late(error)
                    await backoff.pause(error)
                    continue
            else:
                self._trouble.clear()
                self._announce(results)
            self._writing = []
            _tell(results)

    def _give_up_late(self, error: BaseException) -> None:
        now = self._runtime.monotonic()
        late = [w for w in self._writing if w.deadline is not None and now >= w.deadline]
        self._writing = [w for w in self._writing if w not in late]
        for write in self._writing:
            write.tries += 1
        told = StorageUnavailableError(f"the database cannot be written: {error}")
        _tell([Result(write, None, told) for write in late])

    def _announce(self, results: list[Result]) -> None:
        wakes = [r.write.wakes for r in results if r.error is None and r.write.wakes is not None]
        if self.on_commit and wakes:
            try:
                self.on_commit(any(wakes))
            except Exception:
                logger.exception("others could not be told of a commit")

    # -- one flush

    async def _flush(self, batch: list[Write[Any]]) -> list[Result]:
        async with self._link.session() as session:
            try:
                return await self._together(session, batch)
            except Exception as error:
                if is_passing(error):
                    raise
            return await self._one_by_one(session, batch)

    async def _together(self, session: Session, batch: list[Write[Any]]) -> list[Result]:
        again = any(write.tries for write in batch)
        several = len({write.kind for write in batch}) > 1
        async with AsyncExitStack() as stack:
            if again or several or any(write.needs_transaction for write in batch):
                await stack.enter_async_context(session.transaction())
            if again or several:
                await _lock(session, batch)
            results = await _already_done(session, batch) if again else []
            done = {result.write for result in results}
            kinds: dict[str, list[Any]] = {}
            for write in batch:
                if write not in done:
                    kinds.setdefault(write.kind, []).append(write)
            for kind, writes in kinds.items():
                together: _Together = _KINDS.get(kind, _settle)
                results += await together(session, writes)
        return results

    async def _one_by_one(self, session: Session, batch: list[Write[Any]]) -> list[Result]:
        async with session.transaction():
            await _lock(session, batch)
            return [await self._alone(session, write) for write in batch]

    async def _alone(self, session: Session, write: Write[Any]) -> Result:
        try:
            async with session.transaction():
                return Result(write, await session.run(write.alone()), None)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            if is_passing(error):
                raise
            return Result(write, None, error)


async def _lock(session: Session, batch: list[Write[Any]]) -> None:
    run_ids = [write.run_id for write in batch if write.run_id is not None]
    if run_ids:
        await session.fetch("lock_all", {"run_id": run_ids})


async def _already_done(session: Session, batch: list[Write[Any]]) -> list[Result]:
    """What an earlier try, whose outcome is unknown, did commit. (New runs are known by their ids.)"""
    records = [w for w in batch if isinstance(w, Record) and w.entry.type == "step:complete"]
    settles = [write for write in batch if isinstance(write, Settle)]
    results: list[Result] = []
    if records:
        asked = [(w.lease.run_id, w.entry.step, w.lease.generation) for w in records]
        params = _columns(("run_id", "step", "attempt"), asked)
        for n, seq in await session.fetch("recorded_all", params):
            results.append(Result(records[n - 1], seq, None))
    if settles:
        run_ids = [write.lease.run_id for write in settles]
        found = await session.fetch("runs_of", {"run_id": run_ids})
        rows = {row[0]: RunRow._make(row) for row in found}
        for write in settles:
            row = rows.get(write.lease.run_id)
            if row and write.is_done(row):
                results.append(Result(write, (row, 0), None))
    return results


async def _enqueue(session: Session, writes: list[Enqueue]) -> list[Result]:
    runs = [run for write in writes for run in write.runs]
    params = {**_columns(NewRun._fields, runs), "now": writes[-1].now}
    rows = await session.fetch("enqueue_all", params)
    new = {row[0]: Enqueued(RunRow._make(row), True) for row in rows}
    results: list[Result] = []
    for write in writes:
        found: list[Enqueued] = []
        for run in write.runs:  # what is not new has a known key
            if run.id in new:
                found.append(new[run.id])
            else:
                found.append(await session.run(sql.enqueue_one(run, write.now)))
        results.append(Result(write, found, None))
    return results


async def _record(session: Session, writes: list[Record]) -> list[Result]:
    if len(writes) == 1:  # one run, step after step: the plain statement is quicker
        (write,) = writes
        try:
            number = await session.run(sql.record(write.lease, write.entry))
            return [Result(write, number, None)]
        except LeaseLost as lost:
            return [Result(write, None, lost)]
    params = {
        **_columns(("run_id", "token"), [write.lease[:2] for write in writes]),
        **_columns(Entry._fields, [write.entry for write in writes]),
    }
    seqs = {row[0]: row[1] for row in await session.fetch("record_all", params)}
    return [_or_lost(write, seqs.get(n)) for n, write in enumerate(writes, 1)]


async def _save_progress(session: Session, writes: list[SaveProgress]) -> list[Result]:
    last = {write.lease[:2]: write.progress for write in writes}
    given = [(*lease, progress) for lease, progress in last.items()]
    params = {**_columns(("run_id", "token", "progress"), given), "now": writes[-1].now}
    rows = await session.fetch("progress_all", params)
    held = {(row[0], row[1]) for row in rows}
    lost = [write.lease[:2] not in held for write in writes]
    return [
        Result(write, None, LeaseLost(write.lease.run_id) if gone else None)
        for write, gone in zip(writes, lost, strict=True)
    ]


async def _settle(session: Session, writes: list[Settle]) -> list[Result]:
    names = ("run_id", "token", "delay", "output", "error", "progress")
    given = [_settlement(write) for write in writes]
    params = {**_columns(names, given), "now": writes[-1].settlement.now}
    rows = await session.fetch(f"{writes[0].kind}_all", params)
    moved = {row[0]: (RunRow._make(row[2:]), row[1]) for row in rows}
    if writes[0].transition.frees_key:
        for row, _ in moved.values():
            await session.run(sql.hand_on_key(row))
    return [_or_lost(write, moved.get(n)) for n, write in enumerate(writes, 1)]


def _settlement(write: Settle) -> tuple[str | int | None, ...]:
    (run_id, token, *_), new = write.lease, write.settlement
    final = write.transition.target in FINAL or new.due_at is None
    delay = None if final else (new.due_at or 0) - new.now
    return run_id, token, delay, new.output, new.error, new.progress


_Together = Callable[[Session, Any], Awaitable[list[Result]]]
_KINDS: dict[str, _Together] = {
    "enqueue": _enqueue,
    "record": _record,
    "progress": _save_progress,
}


def _or_lost(write: Record | Settle, value: Any) -> Result:
    if value is None:
        return Result(write, None, LeaseLost(write.lease.run_id))
    return Result(write, value, None)


def _columns(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> Mapping[str, list[Any]]:
    """Rows as one list for each column, which is how a statement takes many."""
    return dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))


def _tell(results: list[Result]) -> None:
    for write, value, error in results:
        if write.future.done():  # its caller was cancelled meanwhile
            continue
        if error is not None:
            write.future.set_exception(error)
        else:
            write.future.set_result(value)
