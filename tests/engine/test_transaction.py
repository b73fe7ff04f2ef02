"""step.transaction: what it writes and its checkpoint are kept together or not at all."""

import sqlite3

import pytest

from durably import Retry, Step, SyncStep, job
from durably.errors import ConfigurationError, RunFailedError, StepValueError


@pytest.fixture
def database(tmp_path):
    """A file: that is where it is, so far."""
    return tmp_path / "app.db"


def table(durably):
    with sqlite3.connect(durably.database) as database:
        database.execute("create table sums (n integer primary key, total integer)")
    database.close()


def rows(durably):
    with sqlite3.connect(durably.database) as database:
        found = database.execute("select n, total from sums order by n").fetchall()
    database.close()
    return found


def add(connection, n: int) -> int:
    connection.execute("insert into sums values (?, ?)", (n, n * 2))
    return connection.execute("select count(*) from sums").fetchone()[0]


async def test_effect_and_checkpoint_are_one(make):
    @job("sum")
    async def sum_up(step: Step, n: int) -> list[int]:
        return [await step.transaction(f"add-{i}", add, i) for i in range(n)]

    durably = await make(sum_up)
    table(durably)
    done = await durably.get_job("sum").trigger_and_wait(3, timeout=20)
    assert done.output == [1, 2, 3]
    assert rows(durably) == [(0, 0), (1, 2), (2, 4)]
    assert [s.output for s in await durably.get_steps(done.id)] == [1, 2, 3]


async def test_a_plain_job_has_it_too(make):
    @job("sum")
    def sum_up(step: SyncStep) -> int:
        return step.transaction("add", add, 5)

    durably = await make(sum_up)
    table(durably)
    assert (await durably.get_job("sum").trigger_and_wait(timeout=20)).output == 1
    assert rows(durably) == [(5, 10)]


async def test_what_raises_leaves_nothing(make):
    def fail(connection) -> None:
        add(connection, 1)
        raise ValueError("no")

    @job("sum")
    async def sum_up(step: Step) -> None:
        await step.transaction("add", fail)

    durably = await make(sum_up)
    table(durably)
    with pytest.raises(RunFailedError, match="no"):
        await durably.get_job("sum").trigger_and_wait(timeout=20)
    assert rows(durably) == []


async def test_a_result_that_cannot_be_kept_leaves_nothing(make):
    def tuple_of(connection):
        add(connection, 1)
        return (1, 2)

    @job("sum")
    async def sum_up(step: Step) -> None:
        with pytest.raises(StepValueError, match="tuple"):
            await step.transaction("add", tuple_of)

    durably = await make(sum_up)
    table(durably)
    await durably.get_job("sum").trigger_and_wait(timeout=20)
    assert rows(durably) == []


async def test_a_failing_try_is_tried_again(make):
    tries = []

    def moody(connection, n: int) -> int:
        tries.append(n)
        add(connection, n)
        if len(tries) < 3:
            raise OSError("not yet")
        return n

    @job("sum")
    async def sum_up(step: Step) -> int:
        return await step.transaction("add", moody, 7, retries=Retry(5, delay=0.01))

    durably = await make(sum_up)
    table(durably)
    assert (await durably.get_job("sum").trigger_and_wait(timeout=20)).output == 7
    assert rows(durably) == [(7, 14)]
    assert len(tries) == 3


async def test_a_committed_one_is_not_called_again(make):
    calls = []

    def count(connection) -> int:
        calls.append(1)
        return add(connection, len(calls))

    @job("sum")
    async def sum_up(step: Step) -> int:
        total = await step.transaction("add", count)
        if step.attempt == 1:
            raise RuntimeError("later")
        return total

    durably = await make(sum_up)
    table(durably)
    run = await durably.get_job("sum").trigger()
    with pytest.raises(RunFailedError):
        await durably.wait(run, 20)
    await durably.retry(run.id)
    assert (await durably.wait(run, 20)).output == 1
    assert calls == [1]
    assert rows(durably) == [(1, 2)]


@pytest.mark.parametrize(
    ("statement", "why"),
    [
        ("commit", "do not end it"),
        ("rollback", "do not end it"),
        ("savepoint mine", "do not end it"),
        ("pragma synchronous = off", "pragma synchronous"),
        ("attach ':memory:' as other", "attach"),
        ("update durably_runs set status = 'completed'", "Durably's own"),
        ("delete from durably_journal", "Durably's own"),
        ("drop table durably_runs", "Durably's own"),
    ],
)
async def test_what_is_not_the_borrowers_is_refused(make, statement, why):
    def meddle(connection) -> int:
        add(connection, 1)
        with pytest.raises(ConfigurationError, match=why):
            connection.execute(statement)
        return 1

    @job("sum")
    async def sum_up(step: Step) -> int:
        return await step.transaction("add", meddle)

    durably = await make(sum_up)
    table(durably)
    assert (await durably.get_job("sum").trigger_and_wait(timeout=20)).output == 1
    assert rows(durably) == [(1, 2)]


async def test_the_connection_is_lent_for_the_call_only(make):
    kept = []

    @job("sum")
    async def sum_up(step: Step) -> None:
        await step.transaction("keep", kept.append)
        with pytest.raises(ConfigurationError, match="now over"):
            kept[0].execute("select 1")

    durably = await make(sum_up)
    await durably.get_job("sum").trigger_and_wait(timeout=20)


async def test_an_async_function_is_refused(make):
    """It would write after the commit, or never."""

    async def late(connection) -> None:
        add(connection, 1)

    @job("sum")
    async def sum_up(step: Step) -> None:
        with pytest.raises(ConfigurationError, match="a plain one, not async"):
            await step.transaction("add", late)

    durably = await make(sum_up)
    table(durably)
    await durably.get_job("sum").trigger_and_wait(timeout=20)
    assert rows(durably) == []


async def test_many_at_once(make):
    @job("sum")
    async def sum_up(step: Step, n: int) -> int:
        return await step.transaction("add", add, n, returns=int)

    durably = await make(sum_up)
    table(durably)
    for run in await durably.get_job("sum").batch_trigger(list(range(100))):
        await durably.wait(run, 30)
    assert len(rows(durably)) == 100
