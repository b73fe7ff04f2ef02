"""A journal that lost its end, as by a failover or a restore; and lines that only a newer version knows."""

import asyncio
import sqlite3
from contextlib import aclosing

import asyncpg
import pytest

from durably import Step
from durably.events import Resync

PATIENCE = 60  # seconds
LINE = '{"level":"info","message":"m","data":null}'


@pytest.fixture
def execute(database):
    """Runs statements on the database, past Durably."""

    async def execute(*statements):
        if "postgresql" in str(database):
            connection = await asyncpg.connect(database)
            for statement in statements:
                await connection.execute(statement)
            await connection.close()
            return
        with sqlite3.connect(database, timeout=30) as connection:
            for statement in statements:
                connection.execute(statement)
        connection.close()

    return execute


@pytest.fixture
def lose(database, execute):
    """The commits after a position are lost."""

    async def lose(position):
        lost = f"select run_id from durably_journal where seq = 1 and position > {position}"
        back = f"select setval('durably_journal_position_seq', {position})"
        await execute(
            f"delete from durably_runs where id in ({lost})",
            f"delete from durably_journal where position > {position}",
            *([back] if "postgresql" in str(database) else []),
        )

    return lose


def counts(durably):
    @durably.job("counts")
    async def counts(step: Step) -> int:
        for n in range(3):
            await step.run(f"s{n}", lambda: 1)
        return 3

    return counts


async def read_up_to(durably, position):
    """Until the watchers of an instance have seen so much."""
    while (durably._engine.session.feed._cursor or (0,))[0] < position:
        await asyncio.sleep(0.01)


async def test_a_waiter_hears_of_an_end_at_a_number_that_was_lost_before(make, lose):
    watching = await make(worker=False)
    run = await counts(watching).trigger()
    waiting = asyncio.create_task(watching.wait(run))
    await counts(await make(worker=False)).batch_trigger([None] * 50)
    async with asyncio.timeout(PATIENCE):
        await read_up_to(watching, 51)
        await lose(1)
        working = await make(start=False)
        counts(working)
        await working.init()
        assert (await waiting).output == 3


async def test_a_subscriber_follows_a_run_whose_latest_lines_were_lost(make, lose, execute):
    watching = await make(worker=False)
    run = await counts(watching).trigger()
    for seq in range(2, 40):
        await execute(
            "insert into durably_journal (run_id, seq, at, type, attempt, data)"
            f" values ('{run.id}', {seq}, 0, 'log:write', 1, '{LINE}')"
        )
    seen = []
    async with asyncio.timeout(PATIENCE), aclosing(watching.subscribe(run.id)) as events:
        async for event in events:
            seen.append(event)
            if event.sequence == 39:
                await read_up_to(watching, 39)
                await lose(1)
                working = await make(start=False)
                counts(working)
                await working.init()
    assert seen[-1].type == "run:complete"
    assert seen[-1].sequence < 39


async def test_lists_are_read_again_when_the_journal_lost_its_end(make, lose):
    watching = await make(worker=False)
    async with asyncio.timeout(PATIENCE), aclosing(watching.subscribe_runs()) as events:
        heard = asyncio.create_task(anext(events))
        run = await counts(watching).trigger()
        assert (await heard).run_id == run.id
        await counts(await make(worker=False)).batch_trigger([None] * 20)
        await read_up_to(watching, 21)
        await lose(1)
        async for event in events:
            if isinstance(event, Resync):
                break


async def test_a_number_of_another_journal_is_answered_with_what_comes(make):
    durably = await make()
    run = await counts(durably).trigger()
    await durably.wait(run)
    async with asyncio.timeout(PATIENCE):
        seen = [event.type async for event in durably.subscribe(run.id, after=500)]
    assert seen == ["run:complete"]


@pytest.mark.parametrize("follows", ["one", "all"])
async def test_a_line_of_an_unknown_type_is_passed_over(make, execute, follows):
    watching = await make(worker=False)
    run = await counts(watching).trigger()
    source = watching.subscribe(run.id) if follows == "one" else watching.subscribe_runs()
    seen = []
    async with asyncio.timeout(PATIENCE), aclosing(source) as events:
        heard = asyncio.create_task(anext(events))
        await read_up_to(watching, 1)
        await execute(
            "insert into durably_journal (run_id, seq, at, type, attempt, data)"
            f" values ('{run.id}', 2, 0, 'run:newer', 1, 'not ours to read')"
        )
        await read_up_to(watching, 2)
        working = await make(start=False)
        counts(working)
        await working.init()
        seen.append((await heard).type)
        async for event in events:
            seen.append(event.type)
            if event.is_final:
                break
    assert [kind for kind in seen if kind.startswith("run:") and kind != "run:trigger"] == [
        "run:start",
        "run:complete",
    ]


async def test_an_end_of_an_unknown_type_is_an_end(make, execute):
    watching = await make(worker=False)
    run = await counts(watching).trigger()
    waiting = asyncio.create_task(watching.wait(run))
    following = asyncio.create_task(anext_types(watching.subscribe(run.id)))
    async with asyncio.timeout(PATIENCE):
        await read_up_to(watching, 1)
        await execute(
            "update durably_runs set status = 'completed', due_at = null, ended_at = 1, output = '7'",
            "insert into durably_journal (run_id, seq, at, type, attempt)"
            f" values ('{run.id}', 2, 0, 'run:newer', 1)",
        )
        assert (await waiting).output == 7
        assert await following == ["run:trigger"]


async def anext_types(events):
    return [event.type async for event in events]


async def test_watchers_outlive_an_error_that_nobody_foresaw(make, monkeypatch):
    durably = await make(worker=False)
    run = await counts(durably).trigger()
    failed = asyncio.Event()
    tail = durably._engine.store.tail

    async def fails(*args):
        failed.set()
        monkeypatch.setattr(durably._engine.store, "tail", tail)
        raise RuntimeError("unforeseen")

    monkeypatch.setattr(durably._engine.store, "tail", fails)
    waiting = asyncio.create_task(durably.wait(run))
    async with asyncio.timeout(PATIENCE):
        await failed.wait()
        working = await make(start=False)
        counts(working)
        await working.init()
        assert (await waiting).output == 3
