"""What is written at once, and what becomes of more than a line can carry."""

import asyncio
from urllib.parse import urlsplit

import pytest

from durably import Durably, Step
from durably.runtime import Runtime
from durably.state import COMPLETE
from durably.store.postgres import connection
from durably.store.postgres.flush import choose
from durably.store.postgres.store import PostgresStore
from durably.store.postgres.writes import MAX_BYTES, Record, Settle, portions
from durably.store.records import Entry, Lease, NewRun, Settlement
from tests.proxy import Proxy

from .test_postgres_faults import through

PATIENCE = 60  # seconds


def record(run_id, size):
    return Record(Lease(run_id, "t", 1, 1), Entry("step:complete", 1, "s", 0, 1, "x" * size))


def settle(run_id, size=1):
    return Settle(Lease(run_id, "t", 1, 1), COMPLETE, Settlement(1, output="x" * size))


async def test_a_flush_is_bounded_in_bytes():
    writes = [record(f"r{n}", MAX_BYTES // 2) for n in range(5)]
    batch, rest = choose(writes, 500, large=True)
    assert (batch, rest) == (writes[:2], writes[2:])


async def test_a_large_write_goes_alone():
    small, large = [record(f"r{n}", 1) for n in range(2)], record("large", MAX_BYTES + 1)
    assert choose([large, *small], 500, large=True) == ([large], small)
    assert choose([large, *small], 500, large=False) == (small, [large])
    assert choose([small[0], large, small[1]], 500, large=True) == (small, [large])


async def test_the_writes_of_a_run_keep_their_order():
    """Its end is not written before the step that it waits for."""
    large, end, other = record("r", MAX_BYTES + 1), settle("r"), settle("other")
    assert choose([large, end, other], 500, large=False) == ([other], [large, end])


async def test_a_flush_is_bounded_in_number():
    writes = [record(f"r{n}", 1) for n in range(10)]
    assert choose(writes, 4, large=True) == (writes[:4], writes[4:])


def test_many_large_inputs_are_several_statements():
    runs = [NewRun(f"r{n}", "job", "x" * size, "{}", None, None) for n, size in enumerate(
        [1, 1, MAX_BYTES, 1, 2 * MAX_BYTES, 1, 1])]  # fmt: skip
    found = [[run.id for run in portion] for portion in portions(runs)]
    assert found == [["r0", "r1"], ["r2"], ["r3"], ["r4"], ["r5", "r6"]]
    assert list(portions([])) == []


@pytest.fixture
async def slow(postgres_url, monkeypatch):
    """A line that carries less than a flush has within the time that one may take."""
    monkeypatch.setattr(connection, "COMMAND_TIMEOUT", 0.5)
    async with Proxy(urlsplit(postgres_url).port) as proxy:
        proxy.rate = 1_000_000
        yield through(postgres_url, proxy)


async def test_what_is_too_much_at_once_is_written_by_parts(slow):
    durably = Durably(slow, max_concurrent_runs=12)
    text = "x" * 300_000
    returns = asyncio.Barrier(10)

    @durably.job("large")
    async def large(step: Step) -> str:
        await returns.wait()
        return text

    async with asyncio.timeout(PATIENCE), durably:
        runs = await large.batch_trigger([None] * 10)
        for run in runs:
            assert (await durably.wait(run)).attempt == 1


async def test_a_single_value_is_given_more_time(slow):
    durably = Durably(slow)

    @durably.job("large")
    async def large(step: Step) -> int:
        return len(await step.run("s", lambda: "x" * 1_500_000))

    async with asyncio.timeout(PATIENCE), durably:
        done = await durably.wait(await large.trigger())
    assert (done.output, done.attempt) == (1_500_000, 1)


async def test_small_writes_have_their_turn_between_large_ones(postgres_url):
    store = PostgresStore(postgres_url, Runtime())
    await store.open()
    await store.migrate()
    await store.enqueue([NewRun(f"r{n}", "job", "1", "{}", None, None) for n in range(6)], 1)
    leases = {}
    while len(leases) < 6:
        for claimed in (await store.claim(["job"], "o", 1, 60_000, 6, takeover=False)).taken:
            leases[claimed.row.id] = claimed.lease
    order = []
    for run_id, lease in sorted(leases.items()):
        size = MAX_BYTES + 10 if run_id < "r5" else 1
        entry = Entry("step:complete", 1, "s", 0, 1, f'"{"x" * size}"')
        store.record(lease, entry).add_done_callback(lambda _, r=run_id: order.append(r))
    async with asyncio.timeout(PATIENCE):
        while len(order) < 6:
            await asyncio.sleep(0.01)
    assert order.index("r5") == 1
    await store.close()


async def test_a_batch_of_many_large_inputs_is_stored_in_one_transaction(postgres_url):
    store = PostgresStore(postgres_url, Runtime())
    await store.open()
    await store.migrate()
    runs = [NewRun(f"r{n}", "job", "1" * (MAX_BYTES // 2), "{}", None, None) for n in range(7)]
    found = await store.enqueue(runs, 1)
    assert [(row.id, created) for row, created in found] == [(run.id, True) for run in runs]
    await store.close()
