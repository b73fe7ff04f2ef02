"""T4: a zombie's write against another's claim, by two stores on one database."""

import asyncio
import random

import pytest

from durably.errors import LeaseLost
from durably.runtime import Runtime
from durably.state import COMPLETE, FAIL, RELEASE
from durably.store.records import Entry, NewRun, Settlement
from durably.store.sqlite.store import SQLiteStore
from tests import postgres
from tests.conftest import ManualPostgresStore
from tests.oracle import check_journal
from tests.tier import by_tier

ROUNDS = by_tier(quick=40, ci=500, soak=20_000)


class Worker(Runtime):
    offset = 0

    def now(self):
        return super().now() + self.offset


async def _write(store, lease, kind, now):
    moves = {"complete": COMPLETE, "fail": FAIL, "release": RELEASE}
    if kind == "record":
        await store.record(lease, Entry("step:complete", now, "step", 0, now, "1"))
    elif kind == "progress":
        await store.save_progress(lease, '{"current":1}', now)
    elif kind == "renew":
        if not await store.holds(lease, now):
            raise LeaseLost(lease.run_id)
    else:
        values = {"complete": {"output": "1"}, "fail": {"error": '{"type":"E","message":""}'}}
        settlement = Settlement(now, now if kind == "release" else None, **values.get(kind, {}))
        await store.settle(lease, moves[kind], settlement)


@pytest.fixture(params=["sqlite", "postgres"])
async def stores(request, tmp_path):
    """Two stores on one database, as of two processes; and what tells of violations."""
    if request.param == "sqlite":
        pair = [SQLiteStore(tmp_path / "a.db", Worker()) for _ in range(2)]
    else:
        url = await postgres.create_database()
        pair = [ManualPostgresStore(url, Worker()) for _ in range(2)]
    for store in pair:
        await store.open()
        await store.migrate()
    yield pair
    if request.param == "sqlite":
        assert check_journal(pair[0]._connection, fifo=False) == []
    else:
        assert check_journal(await postgres.as_sqlite(url), fifo=False) == []
    for store in pair:
        await store.close()
    if request.param == "postgres":
        await postgres.drop_database(url)


@pytest.mark.parametrize("kind", ["record", "progress", "renew", "complete", "fail", "release"])
async def test_either_the_write_or_the_claim_comes_first(stores, kind):
    rng, (old, new) = random.Random(kind), stores
    won = {"write": 0, "claim": 0}
    head_start = 2.0  # of the claim, which takes longer than most writes: both must win some
    for i in range(ROUNDS):
        run = NewRun(f"{i:036d}", f"job{i}", "1", "{}", None, None)
        now = old._runtime.now()
        await old.enqueue([run], now)
        (held,) = (await old.claim([run.job], "old", now, 1000, 1, takeover=True)).taken
        later, pauses = now + 1001, [rng.random() * 0.002 for _ in "ab"]
        pauses[0] *= head_start

        async def write(held=held, later=later, pause=pauses[0]):
            await asyncio.sleep(pause)
            await _write(old, held.lease, kind, later)

        async def take(run=run, later=later, pause=pauses[1]):
            await asyncio.sleep(pause)
            return (await new.claim([run.job], "new", later, 1000, 1, takeover=True)).taken

        wrote, taken = await asyncio.gather(write(), take(), return_exceptions=True)
        assert wrote is None or isinstance(wrote, LeaseLost), wrote
        won["claim" if wrote is not None else "write"] += 1
        head_start *= 1.25 if wrote is None else 0.8
        if wrote is not None:  # refused: then the other must hold it
            assert taken
            assert taken[0].lease.generation == held.lease.generation + 1
        with pytest.raises(LeaseLost):  # whoever won, an old lease is worth nothing after a claim
            if not taken:
                raise LeaseLost("not taken")
            await _write(old, held.lease, kind, later)
    assert min(won.values()) > 0, won
