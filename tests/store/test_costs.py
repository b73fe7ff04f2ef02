"""The counts behind the speed: exact on any machine, whatever its load."""

import asyncio
import re
from collections import Counter
from pathlib import Path

import pytest

from durably import Durably, Step
from durably import store as store_package
from durably.runtime import Runtime
from durably.store.records import NewRun
from durably.store.sqlite.store import DIALECT, SQLiteStore
from durably.store.statements import statements


class CountingStore(SQLiteStore):
    """Counts what its connections execute."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.seen = Counter()

    def _open_connection(self):
        connection = super()._open_connection()
        connection.set_trace_callback(lambda text: self.seen.update([text.split()[0].lower()]))
        return connection


@pytest.fixture
async def counted(tmp_path):
    runtime = Runtime()
    store = CountingStore(tmp_path / "a.db", runtime)
    durably = Durably(
        tmp_path / "a.db", runtime=runtime, store=store, polling_interval=60, max_concurrent_runs=50
    )
    durably.store = store

    @durably.job("steps")
    async def steps(step: Step, n: int) -> int:
        for i in range(n):
            await step.run(f"s{i}", one)
        return n

    durably.steps = steps
    async with durably:
        yield durably


async def one() -> int:
    return 1


async def counts(durably, work) -> Counter:
    await asyncio.sleep(0.05)
    durably.store.seen.clear()
    await work
    return durably.store.seen


async def test_a_step_is_one_insert_in_one_commit_and_no_select(counted):
    few = dict(await counts(counted, counted.steps.trigger_and_wait(10)))
    many = dict(await counts(counted, counted.steps.trigger_and_wait(110)))
    assert many["insert"] - few["insert"] == 100
    # The claim may or may not have joined the trigger's commit.
    assert abs(many["commit"] - few["commit"] - 100) <= 1
    assert abs(many["begin"] - few["begin"] - 100) <= 1
    assert many.get("select", 0) - few.get("select", 0) <= 1  # a look of the waiting side
    assert many.get("update", 0) == few.get("update", 0)
    assert many.get("savepoint", 0) - few.get("savepoint", 0) <= 4  # not one for each step


async def test_concurrent_steps_share_their_commits(counted):
    seen = await counts(counted, counted.steps.batch_trigger([5] * 100))
    async with asyncio.timeout(30):
        while len(await counted.steps.get_runs(status="completed", limit=200)) < 100:
            await asyncio.sleep(0.02)
    assert seen["insert"] >= 800
    assert seen["commit"] < 200


async def test_a_batch_of_triggers_is_one_commit(counted):
    seen = await counts(counted, counted.steps.batch_trigger([0] * 500))
    assert seen["insert"] >= 1000
    assert seen["commit"] <= 3 + seen["update"] // 10


async def test_a_first_run_reads_no_checkpoints(counted, monkeypatch):
    async def never(run_id):
        raise AssertionError("a first attempt has none")

    monkeypatch.setattr(counted.store, "decided_steps", never)
    assert (await counted.steps.trigger_and_wait(2)).output == 2


async def test_replaying_a_thousand_steps_is_one_query(counted):
    done = await counted.steps.trigger_and_wait(1000)
    row = await counted.store.run(done.id)
    counted.store._connection.execute(
        "update durably_runs set status = 'pending', due_at = 1, ended_at = null, output = null"
    )
    counted.store.seen.clear()
    counted._engine.session.worker.wake()
    again = await counted.wait(done.id)
    assert again.attempt == row.generation + 1
    assert counted.store.seen["select"] < 20
    assert counted.store.seen["insert"] == 2


async def test_steps_of_a_page_of_runs_are_counted_by_one_query(counted):
    for _ in range(5):
        await counted.steps.trigger_and_wait(2)
    counted.store.seen.clear()
    assert [run.steps_done for run in await counted.get_runs()] == [2] * 5
    assert counted.store.seen["select"] == 2


async def test_an_idle_worker_asks_at_most_once_a_poll(tmp_path):
    runtime = Runtime()
    store = CountingStore(tmp_path / "a.db", runtime)
    durably = Durably(tmp_path / "a.db", runtime=runtime, store=store, polling_interval=0.1)

    @durably.job("nothing")
    async def nothing(step: Step) -> None: ...

    async with durably:
        await asyncio.sleep(0.3)
        store.seen.clear()
        await asyncio.sleep(1.0)
        assert sum(store.seen.values()) <= 14
        assert store.seen["begin"] == 0


@pytest.mark.parametrize("count", [2, 2000])
async def test_a_claim_is_as_cheap_for_many_jobs_as_for_few(tmp_path, count):
    store = CountingStore(tmp_path / "a.db", Runtime())
    await store.open()
    await store.migrate()
    jobs = [f"job-{i}" for i in range(count)]
    for n, name in enumerate((jobs[-1], jobs[0], "another", jobs[-1])):
        await store.enqueue([NewRun(f"{n:036d}", name, "1", "{}", None, None)], 10 - n)
    store.seen.clear()
    assert await store.any_due(jobs, 100)
    assert not await store.any_due(jobs[1:-1], 100)
    claims = await store.claim(jobs, "me", 100, 1000, 10, takeover=True)
    assert [int(claimed.row.id) for claimed in claims.taken] == [3, 1, 0]
    assert sum(store.seen.values()) <= 20
    await store.close()


PLANS = {
    "due": {"job": "j", "now": 1, "skipped": "", "limit": 5},
    "evict": {"scope": "", "concurrency_key": "k", "now": 1},
    "key_holders": {"scope": "", "concurrency_key": "k"},
    "blockers": {"scope": "", "concurrency_key": "k"},
    "delays": {"run_id": "x", "now": 1},
    "executed": {"now": 1},
    "unpark": {"scope": "", "concurrency_key": "k", "now": 1},
    "is_parked": {"scope": "", "concurrency_key": "k"},
    "heir": {"scope": "", "concurrency_key": "k", "until": 1},
    "claim": {"id": "x", "owner": "o", "token": "t", "recoveries": 0, "due_at": 1, "now": 1, "key_slot": 0, "seen_slot": 0},
    "let_go": {"run_id": "x", "token": "t", "now": 1},
    "no_longer_ours": {"run_id": "x", "token": "t"},
    "expire_holds": {"owner": "o", "now": 1},
    "is_held_too_long": {"now": 1, "lease": 1},
    "hurry_holds": {"now": 1, "lease": 1},
    "due_jobs": {"jobs": '["j", "k"]', "now": 1, "skipped": 0},
    "any_due": {"jobs": '["j", "k"]', "now": 1},
    "claimed": {"token": "t", "owner": "o"},
    "renew": {"run_id": "x", "token": "t", "due_at": 1, "now": 1},
    "record": {"run_id": "x", "token": "t", "at": 1, "type": "t", "step": "s", "step_index": 1, "started_at": 1, "data": ""},
    "recorded": {"run_id": "x", "step": "s", "attempt": 1},
    "append": {"run_id": "x", "at": 1, "type": "t", "attempt": 1, "started_at": 1, "data": ""},
    "decided": {"run_id": "x", "after": 0, "limit": 5},
    "checkpoint": {"run_id": "x", "step": "s"},
    "journal": {"run_id": "x", "after": 1, "limit": 5},
    "tail": {"position": 1, "limit": 5},
    "purgeable": {"before": 1, "limit": 5, "now": 1},
    "forget_steps": {"run_id": "x"},
    "waits": {"scope": "", "concurrency_key": "k", "job": "j"},
    "enqueued": {"id": "x", "job": "j", "scope": "", "idempotency_key": "k"},
    "owners": {"job": "j", "now": 1},
    "expire": {"job": "j", "owner": "o", "now": 1},
}  # fmt: skip


@pytest.mark.parametrize("name", PLANS)
async def test_every_hot_statement_uses_an_index_and_sorts_nothing(tmp_path, name):
    store = SQLiteStore(tmp_path / "a.db", Runtime())
    await store.open()
    await store.migrate()
    text = statements(DIALECT)[name]
    plan = [row[3] for row in store._connection.execute(f"explain query plan {text}", PLANS[name])]
    await store.close()
    scans = [
        line for line in plan if re.match(r"SCAN durably|SCAN [jr]\b", line) and "INDEX" not in line
    ]
    assert not scans, plan
    assert not [line for line in plan if "TEMP B-TREE FOR ORDER BY" in line], plan


def test_every_named_statement_is_used():
    source = Path(store_package.__file__).parent
    code = "".join(
        path.read_text("utf-8") for path in source.rglob("*.py") if "postgres" not in path.parts
    )
    from durably.state import TRANSITIONS

    moves = {row.name for row in TRANSITIONS}
    assert [n for n in statements(DIALECT) if f'"{n}"' not in code and n not in moves] == []
