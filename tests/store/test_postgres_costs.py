"""What PostgreSQL is asked to do: plans, pages and round trips; the same on any machine."""

import asyncio
import json
from collections import Counter

import pytest

from durably import Durably, Step
from durably.runtime import Runtime
from durably.state import NEVER, TRANSITIONS
from durably.store.postgres.connection import Session
from durably.store.postgres.statements import DIALECT
from durably.store.postgres.store import PostgresStore
from durably.store.statements import statements
from tests.tier import by_tier

MANY = by_tier(quick=20_000, ci=100_000, soak=1_000_000)
FILL = """
insert into durably_runs (id, job, status, input, labels, due_at, created_at, updated_at, concurrency_key)
select {prefix} || n, 'job', 'pending', '1', '{{}}', {due}, n, n, {key} from generate_series(1, {count}) as n
"""


@pytest.fixture
async def opened(postgres_url):
    store = PostgresStore(postgres_url, Runtime())
    await store.open()
    await store.migrate()
    yield store
    await store.close()


async def fill(store, count, *, prefix="'run-'", due="n", key="null"):
    async with store._commands.session() as session:
        text = FILL.format(prefix=prefix, due=due, key=key, count=count)
        await session.execute(text, timeout=120)
        await session.execute("analyze durably_runs", timeout=120)


VALUES = {
    "jobs": ["job", "other"], "skipped": 1 << 40, "limit": 10, "look": 500, "owner": "me",
    "token": "t", "seq": 1, "lease": 30_000, "now": 1, "run_id": ["run-1"], "duration": [1], "job": "job", "scope": "",
    "concurrency_key": "k", "id": "run-1", "recoveries": 0, "due_at": 5, "at": [1], "type": ["step:complete"],
    "step": ["s"], "step_index": [0], "started_at": [1], "data": ["1"], "progress": ["{}"], "delay": [1],
    "output": ["1"], "error": [None], "attempt": [1], "before": 5, "after": 1, "position": 1, "first": [1],
    "last": [2], "end": 5, "idempotency_key": "x", "other_type": "log:write", "input": "1", "labels": "{}",
    "lease_owner": "me", "lease_token": "t",
    "key_slot": 0, "seen_slot": -1, "until": 5, "body_runs": [True],
    "size": 1000, "newest": 5, "lent": "x", "channel": "c", "payload": "x", "names": ["x"],
}  # fmt: skip
LISTS = {"token": ["t"], "id": ["x"], "job": ["job"], "input": ["1"], "labels": ["{}"], "scope": [""],
         "idempotency_key": ["i"], "concurrency_key": [None], "may_go": [True]}  # fmt: skip
FULL_SCANS = {"count_runs"}  # for metrics
NOT_OURS = {"writers", "end_lent"}  # of the server's own tables


def value(statement, name):
    many = statement.endswith("_all") or statement in ("runs_of", "no_longer_ours")
    if many and name in LISTS:
        return LISTS[name]
    found = VALUES[name]
    return (
        found[0]
        if isinstance(found, list) and not many and name not in ("jobs", "first", "last", "names")
        else found
    )


def nodes(plan):
    yield plan
    for below in plan.get("Plans", ()):
        yield from nodes(below)


async def explain(session, store, name, options="", **values):
    statement = store._statements[name]
    given = [values.get(n) or value(name, n) for n in statement.names]
    rows = await session._connection.fetch(
        f"explain ({options} format json) {statement.text}", *given
    )
    return json.loads(rows[0][0])[0]["Plan"]


@pytest.mark.parametrize("name", sorted(set(statements(DIALECT)) - FULL_SCANS - NOT_OURS))
async def test_every_statement_is_served_by_indexes(plans, name):
    async with plans._commands.session() as session:
        plan = await explain(session, plans, name)
    scans = [n for n in nodes(plan) if n["Node Type"] == "Seq Scan"]
    assert scans == []
    assert all(
        n.get("Index Cond") or n.get("Recheck Cond") or ordered(n)
        for n in nodes(plan)
        if "Index" in n["Node Type"]
    )


def ordered(node):
    """Some read an index from an end, or one that holds nothing but what they want."""
    return node.get("Index Name") in (
        "durably_runs_parked",
        "durably_runs_running",
        "durably_journal_pkey",
        "durably_runs_ended",
        "durably_runs_busy",
        "durably_runs_place",
        "durably_runs_held",
    )


@pytest.fixture
async def plans(opened):
    await fill(opened, 2000)
    return opened


def pages(plan):
    return plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]


async def cost_of_a_claim(store):
    async with store._commands.session() as session, session.transaction():
        plan = await explain(session, store, "claim_due", "analyze, buffers,", due_at=5, limit=10)
        assert plan["Actual Rows"] == 10
        read = pages(plan)
    async with store._commands.session() as session:
        await session.execute(
            "update durably_runs set status = 'pending', due_at = 1 where status = 'running'"
        )
    return read


async def test_the_cost_of_a_claim_does_not_grow_with_the_backlog(opened):
    await fill(opened, 100)
    few = await cost_of_a_claim(opened)
    await fill(opened, MANY, prefix="'more-'")
    many = await cost_of_a_claim(opened)
    assert many < 3 * few + 100, (few, many)


async def test_the_cost_of_a_claim_does_not_grow_with_what_waits_behind_a_key(opened):
    await fill(opened, 100)
    few = await cost_of_a_claim(opened)
    await fill(opened, MANY, prefix="'behind-'", due=f"{NEVER}", key="'busy'")
    many = await cost_of_a_claim(opened)
    assert many < 3 * few + 100, (few, many)


async def test_all_that_waits_behind_a_busy_key_is_parked_in_few_claims(opened):
    await fill(opened, 5000, prefix="'behind-'", key="'busy'")
    await fill(opened, 10, prefix="'free-'", due="1000000 + n")
    claims, taken = 0, []
    while len(taken) < 11:
        claims += 1
        taken += (await opened.claim(["job"], "me", 0, 30_000, 20, takeover=True)).taken
    assert claims <= 2
    async with opened._commands.session() as session:
        rows = await session.fetch(
            "select count(*) from durably_runs where due_at = :never and key_slot = -1",
            {"never": NEVER},
        )
    assert rows[0][0] == 4999


# -- round trips


async def one() -> int:
    return 1


@pytest.fixture
async def counted(postgres_url, monkeypatch):
    seen = Counter()
    fetch, execute = Session.fetch, Session.execute

    async def counting_fetch(self, name, params):
        seen[name] += 1
        return await fetch(self, name, params)

    async def counting_execute(self, text, **options):
        seen[text] += 1
        return await execute(self, text, **options)

    monkeypatch.setattr(Session, "fetch", counting_fetch)
    monkeypatch.setattr(Session, "execute", counting_execute)
    durably = Durably(postgres_url, polling_interval=60, max_concurrent_runs=50)
    durably.seen = seen

    @durably.job("steps")
    async def steps(step: Step, n: int) -> int:
        for i in range(n):
            await step.run(f"s{i}", one)
        return n

    durably.steps = steps
    async with durably:
        yield durably


async def test_a_step_is_one_round_trip(counted):
    await counted.steps.trigger_and_wait(1)
    counted.seen.clear()
    await counted.steps.trigger_and_wait(100)
    assert counted.seen["record"] == 100
    assert sum(counted.seen.values()) < 120, counted.seen


async def test_a_trigger_beside_an_idle_worker_is_one_commit(counted):
    for _ in range(2):  # after the first one it looks around, as it does once a poll
        await counted.steps.trigger_and_wait(0)
        await asyncio.sleep(0.3)
        counted.seen.clear()
    await counted.steps.trigger_and_wait(0)
    assert counted.seen["enqueue_all"] == counted.seen["complete_all"] == 1
    assert counted.seen["claim_due"] == 0


async def test_concurrent_steps_share_their_round_trips(counted):
    counted.seen.clear()
    await counted.steps.batch_trigger([5] * 200)
    async with asyncio.timeout(60):
        while len(await counted.steps.get_runs(status="completed", limit=200)) < 200:
            await asyncio.sleep(0.05)
    writes = sum(n for name, n in counted.seen.items() if name.endswith("_all") or name == "record")
    assert writes < 300, counted.seen
    assert counted.seen["enqueue_all"] == 1


async def test_an_idle_worker_asks_at_most_once_a_poll(counted):
    await asyncio.sleep(0.3)
    counted.seen.clear()
    await asyncio.sleep(1.5)
    assert sum(counted.seen.values()) <= 1, counted.seen


def test_the_table_has_a_statement_for_many_of_each_fenced_row():
    named = statements(DIALECT)
    assert {f"{row.name}_all" for row in TRANSITIONS if row.fenced} <= set(named)
