"""step.transaction on PostgreSQL: one commit for what it writes and its checkpoint, under the fence."""

import asyncio
import socket
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from durably import Durably, Retry, Step, SyncStep, job
from durably.errors import ConfigurationError, RunCancelledError, RunFailedError, StepValueError
from durably.store.postgres import lend
from tests import postgres
from tests.oracle import check_journal
from tests.proxy import Cut, Proxy
from tests.tier import by_tier

CUTS = by_tier(quick=12, ci=40, soak=2000)


@pytest.fixture(autouse=True)
async def consistent(database):
    """Whatever was done, the journal tells a story that holds together."""
    yield
    assert check_journal(await postgres.as_sqlite(database), fifo=False) == []


async def rows(url, query="select n, total from sums order by n"):
    connection = await asyncpg.connect(url)
    try:
        return [tuple(row) for row in await connection.fetch(query)]
    finally:
        await connection.close()


async def add(connection, n: int) -> int:
    await connection.execute("insert into sums values ($1, $2)", n, n * 2)
    return await connection.fetchval("select count(*) from sums")


def adding(*, body=add, retries=0):
    @job("add")
    async def adds(step: Step, n: int) -> int:
        return await step.transaction("add", body, n, returns=int, retries=retries)

    return adds


async def run(durably, n, timeout=30):
    return await durably.get_job("add").trigger_and_wait(n, timeout=timeout)


async def test_effect_and_checkpoint_are_one(make, database):
    @job("sum")
    async def sum_up(step: Step, n: int) -> list[int]:
        return [await step.transaction(f"add-{i}", add, i, returns=int) for i in range(n)]

    durably = await make(sum_up)
    done = await durably.get_job("sum").trigger_and_wait(3, timeout=20)
    assert done.output == [1, 2, 3]
    assert await rows(database) == [(0, 0), (1, 2), (2, 4)]
    assert [s.output for s in await durably.get_steps(done.id)] == [1, 2, 3]


async def test_a_plain_job_has_it_too(make, database):
    @job("add")
    def adds(step: SyncStep, n: int) -> int:
        return step.transaction("add", add, n, returns=int)

    assert (await run(await make(adds), 5)).output == 1
    assert await rows(database) == [(5, 10)]


async def test_many_at_once(make, database):
    """More than are lent at once, also within one run."""

    @job("add")
    async def adds(step: Step, n: int) -> int:
        steps = [step.transaction(f"{i}", add, 10 * n + i, returns=int) for i in range(5)]
        return len(await asyncio.gather(*steps))

    durably = await make(adds, max_concurrent_runs=20)
    for triggered in await durably.get_job("add").batch_trigger(list(range(30))):
        await durably.wait(triggered, 60)
    wanted = [10 * n + i for n in range(30) for i in range(5)]
    assert [n for n, _ in await rows(database)] == wanted


# -- what fails leaves nothing


async def fail(connection, n: int) -> None:
    await add(connection, n)
    raise ValueError("no")


async def tuple_of(connection, n: int):
    await add(connection, n)
    return (1, 2)


async def test_what_raises_leaves_nothing(make, database):
    with pytest.raises(RunFailedError, match="no"):
        await run(await make(adding(body=fail)), 1)
    assert await rows(database) == []


async def test_a_result_that_cannot_be_kept_leaves_nothing(make, database):
    @job("add")
    async def adds(step: Step, n: int) -> None:
        with pytest.raises(StepValueError, match="tuple"):
            await step.transaction("add", tuple_of, n)

    await run(await make(adds), 1)
    assert await rows(database) == []


async def test_a_faulty_statement_is_its_authors_fault(make, database):
    async def faulty(connection, n: int) -> int:
        await add(connection, n)
        return await connection.fetchval("select count(*) from missing")

    with pytest.raises(RunFailedError, match='"missing" does not exist'):
        await run(await make(adding(body=faulty)), 1)
    assert await rows(database) == []


async def test_a_constraint_that_is_checked_at_the_commit(make, database):
    await postgres.execute(
        database, "alter table sums add unique (n) deferrable initially deferred"
    )

    async def twice(connection, n: int) -> int:
        await add(connection, n)
        return await add(connection, n)

    durably = await make(adding(body=twice))
    with pytest.raises(RunFailedError, match="duplicate key"):
        await run(durably, 1)
    assert await rows(database) == []


async def test_a_failing_try_is_tried_again(make, database):
    tries = []

    async def moody(connection, n: int) -> int:
        tries.append(n)
        await add(connection, n)
        if len(tries) < 3:
            raise OSError("not yet")  # not the database's trouble: only retries= tries it again
        return n

    durably = await make(adding(body=moody, retries=Retry(5, delay=0.01)))
    assert (await run(durably, 7)).output == 7
    assert await rows(database) == [(7, 14)]
    assert len(tries) == 3


async def test_a_committed_one_is_not_called_again(make, database):
    calls = []

    async def count(connection) -> int:
        calls.append(1)
        return await add(connection, len(calls))

    @job("add")
    async def adds(step: Step, n: int) -> int:
        total = await step.transaction("add", count)
        if step.attempt == 1:
            raise RuntimeError("later")
        return total

    durably = await make(adds)
    triggered = await durably.get_job("add").trigger(1)
    with pytest.raises(RunFailedError):
        await durably.wait(triggered, 20)
    await durably.retry(triggered.id)
    assert (await durably.wait(triggered, 20)).output == 1
    assert calls == [1]
    assert await rows(database) == [(1, 2)]


async def test_transactions_that_met_are_tried_again(make, database):
    """Two that lock each other's rows: the server ends one, and both are done in the end."""
    await postgres.execute(database, "insert into sums values (1, 0), (2, 0)")
    both = asyncio.Barrier(2)
    calls = []

    async def cross(connection, n: int) -> int:
        calls.append(n)
        await connection.execute("update sums set total = total + 1 where n = $1", n)
        if len(calls) <= 2:
            await both.wait()
        await connection.execute("update sums set total = total + 1 where n = $1", 3 - n)
        return n

    durably = await make(adding(body=cross))
    for triggered in await durably.get_job("add").batch_trigger([1, 2]):
        await durably.wait(triggered, 30)
    assert await rows(database) == [(1, 2), (2, 2)]
    assert len(calls) >= 3


# -- what is lent


@pytest.mark.parametrize(
    "statement",
    [
        "commit",
        "COMMIT AND CHAIN",
        "end",
        "abort",
        "rollback",
        "rollback work",
        "begin",
        "start  transaction",
        "prepare transaction 'mine'",
        "  -- so\n/* and\nso */ commit",
    ],
)
async def test_what_ends_the_transaction_is_refused(make, database, statement):
    async def meddle(connection, n: int) -> int:
        await add(connection, n)
        for method in (connection.execute, connection.fetch, connection.prepare):
            with pytest.raises(ConfigurationError, match="do not end it"):
                await method(statement)
        return n

    assert (await run(await make(adding(body=meddle)), 1)).output == 1
    assert await rows(database) == [(1, 2)]


@pytest.mark.parametrize(
    "meddle",
    [
        lambda connection: connection.close(),
        lambda connection: connection.terminate(),
        lambda connection: connection.reset(),
        lambda connection: connection.add_listener("x", print),
        lambda connection: connection.set_type_codec("json", encoder=str, decoder=str),
    ],
)
async def test_what_outlives_the_transaction_is_refused(make, database, meddle):
    async def body(connection, n: int) -> int:
        with pytest.raises(ConfigurationError, match="outlives the transaction"):
            meddle(connection)
        with pytest.raises(AttributeError):
            _ = connection.no_such_thing
        return await add(connection, n)

    assert (await run(await make(adding(body=body)), 1)).output == 1
    assert await rows(database) == [(1, 2)]


@pytest.mark.parametrize(
    "trick", ["select 1; commit", "select 1; commit; begin", "select 1; rollback"]
)
async def test_a_transaction_that_was_ended_nevertheless_is_noticed(make, database, trick):
    async def body(connection, n: int) -> int:
        await connection.execute(trick)
        return await add(connection, n)

    durably = await make(adding(body=body), adding_after())
    with pytest.raises(RunFailedError, match="do not end it"):
        await run(durably, 1)
    done = (await durably.get_runs())[0]
    assert [step.status for step in await durably.get_steps(done.id)] == ["failed"]
    assert await durably.get_job("after").trigger_and_wait(timeout=20)  # the connection is sane


def adding_after():
    @job("after")
    async def after(step: Step) -> None:
        await step.transaction("add", add, 100)

    return after


async def test_savepoints_are_the_borrowers(make, database):
    async def body(connection, n: int) -> int:
        with pytest.raises(ZeroDivisionError):
            async with connection.transaction():
                await add(connection, 1)
                raise ZeroDivisionError
        await connection.execute("savepoint mine")
        await add(connection, 2)
        await connection.execute("rollback to mine")
        async with connection.transaction():
            statement = await connection.prepare("insert into sums values ($1, 0)")
            await statement.fetch(3)
        async for row in connection.cursor("select n from sums"):
            assert row[0] == 3
        return await add(connection, n)

    await run(await make(adding(body=body)), 4)
    assert await rows(database) == [(3, 0), (4, 8)]


async def test_the_connection_is_lent_for_the_call_only(make, database):
    kept = []

    async def keep(connection, n: int) -> None:
        kept.append(connection)
        kept.append(await connection.prepare("insert into sums values (1, 1)"))
        kept.append(connection.execute)

    @job("add")
    async def adds(step: Step, n: int) -> None:
        await step.transaction("keep", keep, n)
        connection, statement, execute = kept
        with pytest.raises(ConfigurationError, match="now over"):
            await connection.execute("select 1")
        with pytest.raises(asyncpg.InterfaceError):
            await statement.fetch()
        with pytest.raises(asyncpg.InterfaceError):
            await execute("select 1")

    await run(await make(adds), 1)
    assert await rows(database) == []


async def test_a_plain_function_is_refused(make, database):
    @job("add")
    async def adds(step: Step, n: int) -> None:
        with pytest.raises(ConfigurationError, match="the function is 'async def'"):
            await step.transaction("add", lambda connection: 1)

    await run(await make(adds), 1)


async def test_users_statements_have_the_servers_own_settings(make, database):
    found = {}

    async def look(connection, n: int) -> None:
        for setting in (
            "statement_timeout",
            "idle_in_transaction_session_timeout",
            "enable_seqscan",
        ):
            found[setting] = await connection.fetchval("select current_setting($1)", setting)
        found["name"] = await connection.fetchval("show application_name")
        sock = connection.in_use()._transport.get_extra_info("socket")
        found["keepalive"] = sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)

    done = await run(await make(_looking(look)), 1)
    assert found.pop("name") == f"durably {done.id} 1 0"
    assert found == {
        "statement_timeout": "0",
        "idle_in_transaction_session_timeout": "0",
        "enable_seqscan": "on",
        "keepalive": 1,
    }


def _looking(look):
    @job("add")
    async def looks(step: Step, n: int) -> None:
        await step.transaction("look", look, n)

    return looks


# -- while the function runs


class Gate:
    """A function that writes and then waits to be let on."""

    def __init__(self):
        self.inside, self.open = asyncio.Event(), asyncio.Event()
        self.calls = 0

    async def __call__(self, connection, n: int) -> int:
        self.calls += 1
        total = await add(connection, n)
        self.inside.set()
        await self.open.wait()
        return total


@pytest.mark.parametrize("isolation", ["read committed", "serializable"])
async def test_it_may_take_longer_than_a_lease(make, database, isolation):
    """Heartbeats go on meanwhile, and so do the other runs."""
    name = urlsplit(database).path[1:]
    await postgres.execute(
        database, f"alter database {name} set default_transaction_isolation to '{isolation}'"
    )

    @job("other")
    async def other(step: Step, n: int) -> int:
        return await step.run("one", lambda: n)

    gate = Gate()
    durably = await make(adding(body=gate), other, stale_threshold=1)
    triggered = await durably.get_job("add").trigger(1)
    await asyncio.wait_for(gate.inside.wait(), 30)
    until = asyncio.get_running_loop().time() + 2
    while asyncio.get_running_loop().time() < until:
        await durably.get_job("other").trigger_and_wait(1, timeout=20)
    gate.open.set()
    done = await durably.wait(triggered, 20)
    assert (done.output, done.attempt, gate.calls) == (1, 1, 1)
    assert await rows(database) == [(1, 2)]


async def test_cancelled_while_it_runs(make, database):
    gate = Gate()
    durably = await make(adding(body=gate), adding_after())
    triggered = await durably.get_job("add").trigger(1)
    await asyncio.wait_for(gate.inside.wait(), 30)
    assert (await durably.cancel(triggered.id)).status == "cancelled"
    with pytest.raises(RunCancelledError):
        await durably.wait(triggered, 20)
    await durably.get_job("after").trigger_and_wait(timeout=20)
    assert await rows(database) == [(100, 200)]


async def test_cancelled_in_mid_statement(make, database):
    inside = asyncio.Event()

    async def slow(connection, n: int) -> int:
        await add(connection, n)
        inside.set()
        return await connection.fetchval("select 1 from pg_sleep(60)")

    durably = await make(adding(body=slow))
    triggered = await durably.get_job("add").trigger(1)
    await asyncio.wait_for(inside.wait(), 30)
    await asyncio.sleep(0.1)
    await durably.cancel(triggered.id)
    busy = "select 1 from pg_stat_activity where query like 'select 1 from pg_sleep%' and state = 'active'"
    async with asyncio.timeout(20):
        while await rows(database, busy):
            await asyncio.sleep(0.05)
    assert await rows(database) == []


async def test_cancelled_by_another_process(make, database):
    gate = Gate()
    durably = await make(adding(body=gate))
    other = await make(worker=False)
    triggered = await durably.get_job("add").trigger(1)
    await asyncio.wait_for(gate.inside.wait(), 30)
    await other.cancel(triggered.id)
    gate.open.set()  # whichever is first, the fence or the heartbeat that tells of it
    with pytest.raises(RunCancelledError):
        await durably.wait(triggered, 20)
    await durably.stop()
    assert await rows(database) == []


@pytest.fixture
async def taken_over(make, database):
    """A holder without heartbeats, within its function, whose run another has taken."""
    gate = Gate()
    asleep = await make(adding(body=gate), stale_threshold=0.3, max_concurrent_runs=1)
    asleep._engine.store.renew = lambda *_: None

    async def take(jobs):
        triggered = await asleep.get_job("add").trigger(1)
        await asyncio.wait_for(gate.inside.wait(), 30)
        await make(jobs)
        return triggered, asleep, gate

    return take


async def test_a_zombies_writes_vanish(taken_over, database):
    @job("add")
    async def adds(step: Step, n: int) -> int:
        return 7

    triggered, asleep, gate = await taken_over(adds)
    assert (await asleep.wait(triggered, 20)).output == 7
    gate.open.set()
    await asleep.stop()
    assert await rows(database) == []
    assert gate.calls == 1


async def test_a_stopped_holders_locks_stand_in_nobodys_way(taken_over, database):
    """Its transaction is ended by the one who has the run now, before the function begins."""
    await postgres.execute(database, "create unique index on sums (n)")
    triggered, asleep, gate = await taken_over(adding())
    done = await asleep.wait(triggered, 20)
    assert (done.output, done.attempt) == (1, 2)
    gate.open.set()
    await asleep.stop()
    assert await rows(database) == [(1, 2)]
    assert gate.calls == 1


async def test_steps_side_by_side_let_each_other_live(make, database):
    """Also on a second attempt, when what an earlier one left open is ended."""

    @job("add")
    async def adds(step: Step, n: int) -> int:
        if step.attempt == 1:
            raise RuntimeError("again")
        gates = [Gate() for _ in range(3)]
        calls = [
            asyncio.create_task(step.transaction(f"{i}", gate, i, returns=int))
            for i, gate in enumerate(gates)
        ]
        for gate in gates:
            await asyncio.wait_for(gate.inside.wait(), 30)
        for gate in gates:
            gate.open.set()
        await asyncio.gather(*calls)
        return sum(gate.calls for gate in gates)

    durably = await make(adds)
    triggered = await durably.get_job("add").trigger(1)
    with pytest.raises(RunFailedError):
        await durably.wait(triggered, 20)
    await durably.retry(triggered.id)
    assert (await durably.wait(triggered, 20)).output == 3


# -- trouble


def through(url, proxy):
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{parts.username}@127.0.0.1:{proxy.port}"))


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_a_cut_at_any_message(database, after):
    """Also between the commit and its answer: then the journal says what became of it."""

    @job("add")
    async def adds(step: Step, n: int) -> int:
        for i in range(2):
            await step.transaction(f"{i}", add, 10 * n + i, returns=int)
        return n

    async with Proxy(urlsplit(database).port) as proxy:
        durably = Durably(through(database, proxy), jobs=[adds], polling_interval=0.05)
        async with durably:
            await run(durably, 0)
            before = proxy.chunks
            await run(durably, 1)
            messages = proxy.chunks - before
            for n in range(2, 2 + CUTS // 2):
                proxy.arm(Cut(n * 7 % messages, after))
                done = await run(durably, n, timeout=60)
                assert (done.output, done.attempt) == (n, 1)
            assert proxy.cuts > CUTS // 4
    wanted = [10 * n + i for n in range(2 + CUTS // 2) for i in range(2)]
    assert [n for n, _ in await rows(database)] == wanted


async def test_a_backend_that_is_ended_in_the_middle(make, database):
    calls = []

    async def harmed(connection, n: int) -> int:
        calls.append(n)
        total = await add(connection, n)
        if len(calls) < 4:
            await postgres.execute(
                database, f"select pg_terminate_backend({connection.get_server_pid()})"
            )
        return total

    done = await run(await make(adding(body=harmed)), 1)
    assert (done.output, done.attempt, len(calls)) == (1, 1, 4)
    assert await rows(database) == [(1, 2)]


async def test_a_server_that_only_reads_is_waited_for(make, database, caplog, monkeypatch):
    """As after a failover, until the connection leads to the successor; the function is not called."""
    monkeypatch.setattr(lend, "_MAX_LOSSES", 1)  # it is none
    before, calls = asyncio.Event(), []

    async def count(connection, n: int) -> int:
        calls.append(n)
        return await add(connection, n)

    @job("add")
    async def adds(step: Step, n: int) -> int:
        await step.run("before", before.wait)
        return await step.transaction("add", count, n, returns=int)

    durably = await make(adds)
    triggered = await durably.get_job("add").trigger(1)
    await durably.get_run(triggered.id)  # all the other connections are open by now
    name = urlsplit(database).path[1:]
    only_reads = f"alter database {name} set default_transaction_read_only to"
    await postgres.execute(postgres.server_url(), f"{only_reads} on")
    before.set()
    try:
        async with asyncio.timeout(30):
            while "the server only reads" not in caplog.text:
                await asyncio.sleep(0.02)
        assert calls == []
    finally:
        await postgres.execute(postgres.server_url(), f"{only_reads} off")
    assert (await durably.wait(triggered, 60)).output == 1
    assert calls == [1]


async def test_a_write_in_a_transaction_that_only_reads_is_its_authors_fault(make, database):
    async def reads(connection, n: int) -> int:
        await connection.execute("set transaction read only")
        return await add(connection, n)

    with pytest.raises(RunFailedError, match="read-only transaction"):
        await run(await make(adding(body=reads)), 1)


async def test_a_function_that_ends_its_backend_each_time(make, database, monkeypatch):
    monkeypatch.setattr(lend, "_MAX_LOSSES", 3)

    async def harmful(connection, n: int) -> int:
        await add(connection, n)
        return await connection.fetchval("select 1 from pg_terminate_backend(pg_backend_pid())")

    with pytest.raises(RunFailedError, match=r"the connection was lost.*the last 3 times"):
        await run(await make(adding(body=harmful)), 1)
    assert await rows(database) == []
