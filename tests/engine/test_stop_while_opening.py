"""``stop()`` while ``init()`` is opening: nothing is left open, and nothing works afterwards."""

import asyncio

import asyncpg
import pytest

from durably import Step
from durably.errors import ClosedError

PATIENCE = 60  # seconds
STAGES = ["open", "migrate", "require_schema"]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("stage", STAGES)
async def test_stop_ends_an_opening(make, database, monkeypatch, stage, when):
    durably = await make(start=False)

    @durably.job("job")
    async def job(step: Step) -> int:
        return 1

    real, reached, for_ever = (
        getattr(durably._engine.store, stage),
        asyncio.Event(),
        asyncio.Event(),
    )

    async def stands_still():
        if when == "after":
            await real()
        reached.set()
        await for_ever.wait()

    monkeypatch.setattr(durably._engine.store, stage, stands_still)
    async with asyncio.timeout(PATIENCE):
        opening = asyncio.create_task(durably.init())
        await reached.wait()
        await durably.stop()
        with pytest.raises(ClosedError, match="stop"):
            await opening
        assert not durably.is_working
        names = [task.get_name() for task in asyncio.all_tasks()]
        assert not [name for name in names if name.startswith("durably")]
        if "postgresql" in str(database):
            await nobody_is_connected(database)
        monkeypatch.setattr(durably._engine.store, stage, real)
        await durably.init()
        assert (await durably.wait(await job.trigger())).output == 1


async def nobody_is_connected(url):
    connection = await asyncpg.connect(url)
    others = (
        "select count(*) from pg_stat_activity"
        " where datname = current_database() and application_name = 'durably'"
    )
    while await connection.fetchval(others):
        await asyncio.sleep(0.01)
    await connection.close()


async def test_an_opening_waits_for_a_stop_that_is_under_way(make):
    durably = await make()
    begun, finish = asyncio.Event(), asyncio.Event()

    @durably.job("slow")
    async def slow(step: Step) -> int:
        begun.set()
        await finish.wait()
        return 1

    async with asyncio.timeout(PATIENCE):
        run = await slow.trigger()
        await begun.wait()
        stopping = asyncio.create_task(durably.stop())
        await asyncio.sleep(0)
        again = [
            asyncio.create_task(call())
            for call in (durably.init, durably.migrate, durably.run_until_idle)
        ]
        await asyncio.sleep(0.05)
        assert not any(task.done() for task in (stopping, *again))
        finish.set()
        await asyncio.gather(stopping, *again)
        assert durably.is_working
        assert (await durably.wait(run.id)).output == 1
        assert (await durably.wait(await slow.trigger())).output == 1


async def test_a_second_stop_waits_for_the_first(make):
    durably = await make()
    begun, finish = asyncio.Event(), asyncio.Event()

    @durably.job("slow")
    async def slow(step: Step) -> int:
        begun.set()
        await finish.wait()
        return await step.run("one", asyncio.sleep, 0, 1, returns=int)

    async with asyncio.timeout(PATIENCE):
        run = await slow.trigger()
        await begun.wait()
        stops = [asyncio.create_task(durably.stop()) for _ in "ab"]
        await asyncio.sleep(0.05)
        assert not any(stop.done() for stop in stops)
        finish.set()
        await asyncio.gather(*stops)
        await durably.init()
        done = await durably.get_run(run.id)
        assert (done.status, done.attempt) == ("completed", 1)  # it had its grace


async def test_who_cancels_an_opening_is_heard(make, monkeypatch):
    durably = await make(start=False)
    reached, for_ever = asyncio.Event(), asyncio.Event()

    async def stands_still():
        reached.set()
        await for_ever.wait()

    monkeypatch.setattr(durably._engine.store, "require_schema", stands_still)
    async with asyncio.timeout(PATIENCE):
        opening = asyncio.create_task(durably.init())
        await reached.wait()
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        with pytest.raises(ClosedError):  # and nothing is left open
            await durably.get_runs()


async def test_two_openings_at_once_are_one(make):
    durably = await make(start=False)
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(durably.init(), durably.init(), durably.migrate())
        assert durably.is_working
