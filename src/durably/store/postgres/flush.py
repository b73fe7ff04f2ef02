"""Group commit: what waits is written in one transaction with few round trips, one flush at a time.

A flush is bounded in number and in bytes. What is larger than that is written alone, and between two such
flushes the small ones have theirs. One that could not be done is tried again by halves, and a single write
with more time, so that nothing is repeated for ever that the line or the server is too slow for.

Writes of one kind are one statement, whatever their number; a statement alone needs no transaction
around it. If a statement is refused, the flush starts over and takes the writes one by one, each under
a savepoint, so that only the one at fault fails. A flush whose outcome is unknown is repeated: first
the runs are locked, which waits for what may be left of the lost connection, then what was done is
looked up, and the rest is written.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, TypeVar

from ...errors import ClosedError, Interrupt, LeaseLost, StorageUnavailableError
from ...runtime import Runtime
from ...state import FINAL, Status
from ...telemetry.logs import logger
from .. import enqueuing, journal, keys, records
from ..records import Claims, Enqueued, Entry, RunRow
from . import connection, positions
from .connection import Link, Session
from .driver import ServerError
from .errors import Backoff, LostConnectionError, Trouble, is_conflict, is_passing, translated
from .writes import (
    MAX_BYTES,
    Claim,
    Enqueue,
    Record,
    SaveProgress,
    Settle,
    Write,
    columns,
    new_runs,
    portions,
)

T = TypeVar("T")


MAX_BATCH = 500  # writes in one flush
_MAX_DOUBLINGS = 4  # of the time that a single write may take
_LAST_PATIENCE = 10.0  # seconds that a close waits for what is under way


class Result(NamedTuple):
    """What became of a write."""

    write: Write[Any]
    value: Any
    error: BaseException | None


class Flusher:
    """Writes what waits."""

    def __init__(self, link: Link, runtime: Runtime, trouble: Trouble, table: str) -> None:
        self._link = link
        self._table = table  # the journal's full name
        self._runtime = runtime
        self._trouble = trouble
        self._waiting: list[Write[Any]] = []
        self._writing: list[Write[Any]] = []
        self._news = asyncio.Event()
        self._closing = False
        self._most = MAX_BATCH
        self._last_was_large = False
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

    def join(self, ask: records.ClaimRequest) -> asyncio.Future[Claims] | None:
        """Let a claim take what is about to be stored, in the same commit; None if nothing is."""
        if self._closing or not any(isinstance(write, Enqueue) for write in self._waiting):
            return None
        return self.submit(Claim(ask))

    async def close(self) -> None:
        """Write what waits; in trouble it is given up."""
        self._closing = True
        self._news.set()
        try:
            if self._trouble.why is None:
                await asyncio.wait([self._task], timeout=_LAST_PATIENCE)
        finally:
            self._task.cancel()
        await asyncio.wait([self._task])
        why = f"; it could not be written: {self._trouble.why}" if self._trouble.why else ""
        error = ClosedError(f"the database was closed{why}")
        _resolve([Result(write, None, error) for write in self._writing + self._waiting])

    async def _work(self) -> None:
        while self._waiting or not self._closing:
            await self._news.wait()
            self._news.clear()
            while self._waiting:
                self._writing, self._waiting = self._choose()
                await self._persist()
                self._most = min(MAX_BATCH, 2 * self._most)

    def _choose(self) -> tuple[list[Write[Any]], list[Write[Any]]]:
        """What is written next, and what waits on."""
        batch, rest = choose(self._waiting, self._most, large=not self._last_was_large)
        if not batch:
            batch, rest = choose(self._waiting, self._most, large=True)
        self._last_was_large = batch[0].size > MAX_BYTES
        return batch, rest

    async def _persist(self) -> None:
        """Commit a batch, however long the storage needs, and tell its callers."""
        backoff, doublings = Backoff(self._runtime), 0
        while self._writing:
            try:
                results = await self._flush(self._writing, doublings)
            except (Exception, Interrupt) as failed:  # noqa: BLE001 - the callers hear of it
                error = await self._examine(failed)
                if not is_passing(error):
                    results = [Result(write, None, error) for write in self._writing]
                else:
                    self._trouble.note(error)
                    self._give_up_late(error)
                    if _may_be_too_much(error):
                        self._halve()
                        single = len(self._writing) == 1
                        doublings = min(doublings + single, _MAX_DOUBLINGS)
                    await backoff.pause(error)
                    continue
            else:
                self._trouble.clear()
                self._announce(results)
            self._writing = []
            _resolve(results)

    async def _examine(self, error: Exception | Interrupt) -> Exception | Interrupt:
        if isinstance(error, Interrupt):
            return error
        return await positions.after(self._link, error, self._table)

    def _halve(self) -> None:
        """Less at once, from now on."""
        self._most = max(1, len(self._writing) // 2)
        self._waiting = self._writing[self._most :] + self._waiting
        self._writing = self._writing[: self._most]

    def _give_up_late(self, error: BaseException) -> None:
        now = self._runtime.monotonic()
        every = self._writing + self._waiting
        late = {w for w in every if w.deadline is not None and now >= w.deadline}
        self._writing = [w for w in self._writing if w not in late]
        self._waiting = [w for w in self._waiting if w not in late]
        for write in self._writing:
            write.tries += 1
        late_error = StorageUnavailableError(f"the database cannot be written: {error}")
        _resolve([Result(write, None, late_error) for write in late])

    def _announce(self, results: list[Result]) -> None:
        wakes = [r.write.wakes for r in results if r.error is None and r.write.wakes is not None]
        if self.on_commit and wakes:
            try:
                self.on_commit(any(wakes))
            except Exception:
                logger.exception("other processes could not be notified of a commit")

    # -- one flush

    async def _flush(self, batch: list[Write[Any]], doublings: int) -> list[Result]:
        async with self._link.session() as session:
            if doublings:
                session.limit = connection.COMMAND_TIMEOUT * 2**doublings
            try:
                return await self._together(session, batch)
            except Exception as error:
                if is_passing(error) or positions.is_taken(error):
                    raise
            return await self._one_by_one(session, batch)

    async def _together(self, session: Session, batch: list[Write[Any]]) -> list[Result]:
        again = any(write.tries for write in batch)
        several = len({write.kind for write in batch}) > 1
        if not (again or several or any(write.needs_transaction for write in batch)):
            return await _by_kind(session, batch)  # one statement
        async with session.transaction():
            await _lock_keys(session, batch)
            if again or several:
                await _lock(session, batch)
            results = await _already_done(session, batch) if again else []
            done = {result.write for result in results}
            return results + await _by_kind(session, [w for w in batch if w not in done])

    async def _one_by_one(self, session: Session, batch: list[Write[Any]]) -> list[Result]:
        async with session.transaction():
            await _lock_keys(session, batch)
            await _lock(session, batch)
            return [await self._alone(session, write) for write in batch]

    async def _alone(self, session: Session, write: Write[Any]) -> Result:
        try:
            async with session.transaction():
                return Result(write, await session.run(write.alone()), None)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            if is_passing(error) or positions.is_taken(error):
                raise
            return Result(write, None, error)


def choose(
    waiting: list[Write[Any]], most: int, *, large: bool
) -> tuple[list[Write[Any]], list[Write[Any]]]:
    """The first writes that fit into one flush, and the rest; the writes of a run keep their order.

    One that is ``large`` goes alone, or not at all.
    """
    batch: list[Write[Any]] = []
    rest: list[Write[Any]] = []
    size, passed = 0, set[str | None]()
    for n, write in enumerate(waiting):
        if len(batch) >= most or size > MAX_BYTES:
            return batch, rest + waiting[n:]
        fits = size + write.size <= MAX_BYTES or (large and not batch)
        if fits and write.run_id not in passed:
            batch.append(write)
            size += write.size
        else:
            rest.append(write)
            if write.run_id is not None:
                passed.add(write.run_id)
    return batch, rest


def _may_be_too_much(error: BaseException) -> bool:
    """Whether less at once may succeed: it took too long, or broke the connection."""
    kinds = (TimeoutError, LostConnectionError, ServerError)
    return isinstance(error, kinds) and not is_conflict(error)


async def _by_kind(session: Session, batch: list[Write[Any]]) -> list[Result]:
    kinds: dict[str, list[Any]] = {}
    for write in batch:
        kinds.setdefault(write.kind, []).append(write)
    results: list[Result] = []
    for kind, writes in kinds.items():
        together: _Together = _KINDS.get(kind, _settle)
        results += await together(session, writes)
    return results


async def _lock_keys(session: Session, batch: list[Write[Any]]) -> None:
    names = enqueuing.keys_to_lock(run for w in batch if isinstance(w, Enqueue) for run in w.runs)
    if names:
        await session.fetch("lock_keys", {"names": names})


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
        requested = [(w.lease.run_id, w.entry.step, w.lease.generation) for w in records]
        params = columns(("run_id", "step", "attempt"), requested)
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


async def _enqueue(session: Session, writes: list[Enqueue | Claim]) -> list[Result]:
    enqueues = [w for w in writes if isinstance(w, Enqueue) and not w.coalesces]
    coalescing = [w for w in writes if isinstance(w, Enqueue) and w.coalesces]
    claims = [write for write in writes if isinstance(write, Claim)]
    small = sum(write.size for write in enqueues) <= MAX_BYTES
    joined = next((claim for claim in claims if enqueues and small and not claim.tries), None)
    new = await _store_new(session, enqueues, joined) if enqueues else {}
    taken = {run_id for run_id, row in new.items() if row.status == Status.RUNNING}
    results: list[Result] = []
    for write in enqueues:
        write.wakes = not taken.issuperset(run.id for run in write.runs)
        found: list[Enqueued] = []
        for run in write.runs:  # what is not new has a known key
            if run.id in new:
                row = new[run.id]
                found.append(Enqueued(_as_stored(row) if run.id in taken else row, True))
            else:
                found.append(await session.run(enqueuing.enqueue_one(run, write.now)))
        results.append(Result(write, found, None))
    for write in coalescing:  # run by run: each may wait already, also for one before it
        results.append(Result(write, await session.run(write.alone()), None))  # noqa: PERF401
    for claim in claims:
        if claim is joined:
            results.append(Result(claim, claim.of(new), None))
        else:  # what it was to take was written before
            async with session.transaction():
                results.append(Result(claim, await session.run(claim.alone()), None))
    return results


async def _store_new(
    session: Session, writes: list[Enqueue], claim: Claim | None
) -> dict[str, RunRow]:
    """Store runs, as taken those that a claim may take; the new ones, as they are now."""
    runs = [run for write in writes for run in write.runs]
    new: dict[str, RunRow] = {}
    for portion in portions(runs):
        params = new_runs(portion, writes[-1].now, claim)
        rows = await session.fetch("enqueue_all", params)
        new |= {row[0]: RunRow._make(row) for row in rows}
    return new


def _as_stored(row: RunRow) -> RunRow:
    """A new run before it was taken."""
    return row._replace(
        status=Status.PENDING,
        due_at=row.created_at,
        lease_owner=None,
        lease_token=None,
        generation=0,
        started_at=None,
    )


async def _record(session: Session, writes: list[Record]) -> list[Result]:
    if len(writes) == 1:  # one run, step after step: the plain statement is quicker
        (write,) = writes
        try:
            number = await session.run(journal.record(write.lease, write.entry))
            return [Result(write, number, None)]
        except LeaseLost as lost:
            return [Result(write, None, lost)]
    params = {
        **columns(("run_id", "token"), [write.lease[:2] for write in writes]),
        **columns(Entry._fields, [write.entry for write in writes]),
    }
    seqs = {row[0]: row[1] for row in await session.fetch("record_all", params)}
    return [_or_lost(write, seqs.get(n)) for n, write in enumerate(writes, 1)]


async def _save_progress(session: Session, writes: list[SaveProgress]) -> list[Result]:
    last = {write.lease[:2]: write.progress for write in writes}
    given = [(*lease, progress) for lease, progress in last.items()]
    params = {**columns(("run_id", "token", "progress"), given), "now": writes[-1].now}
    rows = await session.fetch("progress_all", params)
    held = {(row[0], row[1]) for row in rows}
    lost = [write.lease[:2] not in held for write in writes]
    return [
        Result(write, None, LeaseLost(write.lease.run_id) if gone else None)
        for write, gone in zip(writes, lost, strict=True)
    ]


async def _settle(session: Session, writes: list[Settle]) -> list[Result]:
    names = ("run_id", "token", "delay", "body_runs", "output", "error", "progress")
    given = [_settlement(write) for write in writes]
    params = {**columns(names, given), "now": writes[-1].settlement.now}
    rows = await session.fetch(f"{writes[0].kind}_all", params)
    moved = {row[0]: (RunRow._make(row[2:]), row[1]) for row in rows}
    done = [write for n, write in enumerate(writes, 1) if n in moved]
    forgetting = [w.lease.run_id for w in done if w.settlement.forget_steps]
    if forgetting:
        await session.fetch("forget_steps_all", {"run_id": forgetting})
    if writes[0].transition.frees_key:
        for row, _ in moved.values():
            await session.run(keys.hand_on_key(row, writes[-1].settlement.now))
    return [_or_lost(write, moved.get(n)) for n, write in enumerate(writes, 1)]


def _settlement(write: Settle) -> tuple[str | int | bool | None, ...]:
    (run_id, token, *_), new = write.lease, write.settlement
    final = write.transition.target in FINAL or new.due_at is None
    delay = None if final else (new.due_at or 0) - new.now
    return run_id, token, delay, new.body_runs, new.output, new.error, new.progress


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


def _resolve(results: list[Result]) -> None:
    for write, value, error in results:
        if write.future.done():  # its caller was cancelled meanwhile
            continue
        if error is not None:
            found = translated(error) if isinstance(error, Exception) else error
            write.future.set_exception(found)
        else:
            write.future.set_result(value)
