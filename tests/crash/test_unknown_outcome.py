"""K10: a commit that took effect although it failed is recognized, wherever the run is by then."""

from collections.abc import Callable
from typing import TypeVar

import pytest

from durably.errors import LeaseLost
from durably.state import CANCEL, COMPLETE, RETRY, Transition
from durably.store import statements, transactions
from durably.store.base import Notice, RunRow, Store
from durably.store.records import NewRun, Settlement
from durably.store.sqlite.store import SQLiteStore

T = TypeVar("T")


async def _triggered(store: Store) -> str:
    new = NewRun("r1", "job", "null", "{}", None, None)
    await store.enqueue([new], 1)
    return new.id


async def _lines(store: Store, run_id: str) -> list[str]:
    return [line.type for line in await store.journal(run_id)]


async def _again(
    store: Store, run_id: str, transition: Transition, now: int, tries: list[int]
) -> tuple[RunRow, int]:
    """As the store does after a try whose outcome nobody knows."""
    return await _written(store, lambda: transactions.move(run_id, transition, now, tries))


async def _written(store: Store, make: Callable[[], statements.Transaction[T]]) -> T:
    write = store._write if isinstance(store, SQLiteStore) else store._command
    return await write(lambda _: make(), notice=Notice.DUE)


async def test_a_retry_whose_run_was_claimed_meanwhile(store) -> None:
    run_id = await _triggered(store)
    await store.move(run_id, CANCEL, 2)
    await store.move(run_id, RETRY, 3)
    assert len((await store.claim(["job"], "w", 4, 1000, 1, takeover=True)).taken) == 1
    row, seq = await _again(store, run_id, RETRY, 3, [3])
    assert (row.status, seq) == ("running", 3)
    assert await _lines(store, run_id) == ["run:trigger", "run:cancel", "run:retry", "run:start"]


async def test_a_cancel_whose_run_was_retried_meanwhile(store) -> None:
    run_id = await _triggered(store)
    await store.move(run_id, CANCEL, 2)
    await store.move(run_id, RETRY, 3)
    row, seq = await _again(store, run_id, CANCEL, 2, [2])
    assert (row.status, seq) == ("pending", 2)
    assert await _lines(store, run_id) == ["run:trigger", "run:cancel", "run:retry"]


async def test_a_move_that_was_not_committed_is_done(store) -> None:
    run_id = await _triggered(store)
    row, _ = await _again(store, run_id, CANCEL, 2, [])
    assert row.status == "cancelled"


async def test_a_move_that_was_not_committed_is_not_taken_for_an_earlier_one(store) -> None:
    run_id = await _triggered(store)
    await store.move(run_id, CANCEL, 2)
    await store.move(run_id, RETRY, 2)
    row, seq = await _again(store, run_id, CANCEL, 2, [4])
    assert (row.status, seq) == ("cancelled", 4)
    assert await _lines(store, run_id) == ["run:trigger", "run:cancel", "run:retry", "run:cancel"]


async def test_another_holders_completion_is_not_taken_for_ours(store) -> None:
    run_id = await _triggered(store)
    (old,) = (await store.claim(["job"], "old", 2, 1000, 1, takeover=True)).taken
    store.clock.at += 2000
    later = store.clock.now()
    (new,) = (await store.claim(["job"], "new", later, 1000, 1, takeover=True)).taken
    done = Settlement(later, output="1")
    await store.settle(new.lease, COMPLETE, done)
    with pytest.raises(LeaseLost):
        await _written(store, lambda: transactions.settle(old.lease, COMPLETE, done, replay=True))
    row, _ = await _written(
        store, lambda: transactions.settle(new.lease, COMPLETE, done, replay=True)
    )
    assert (row.id, row.status) == (run_id, "completed")
