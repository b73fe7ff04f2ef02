"""retain_runs: old runs go by themselves, and watchers are told."""

import asyncio

import pytest

from durably import Step
from durably.runtime import Runtime
from durably.store.records import Cursor

DAY = 86_400_000


class Wrong(Runtime):
    """A clock that can be wrong, and an hour that passes at once."""

    def __init__(self) -> None:
        super().__init__()
        self.ahead, self.passed = 0, 0.0

    def now(self) -> int:
        return super().now() + self.ahead

    def monotonic(self) -> float:
        return super().monotonic() + self.passed


async def _ended(make, count=3, **options):
    """An instance that has run some runs, and will not run its chores by itself."""
    durably = await make(start=False, **options)

    @durably.job("quick")
    async def quick(step: Step) -> None: ...

    await durably.migrate()
    for _ in range(count):
        await quick.trigger()
    assert await durably.run_until_idle() == count
    return durably


async def test_runs_that_ended_long_ago_are_deleted(make, monkeypatch):
    monkeypatch.setattr("durably.worker.maintenance.INTERVAL", 0.05)
    durably = await make(retain_runs=0.2)
    deleted = []
    durably.on("run:delete", deleted.append)

    @durably.job("quick")
    async def quick(step: Step) -> int:
        return await step.run("one", asyncio.sleep, 0, 1, returns=int)

    @durably.job("slow")
    async def slow(step: Step) -> None:
        await asyncio.sleep(60)

    going_on = await slow.trigger()
    done = await quick.trigger_and_wait()
    async with asyncio.timeout(20):
        while await durably.get_run(done.id) is not None:
            await asyncio.sleep(0.02)
    assert [event.run_id for event in deleted] == [done.id]
    assert (await durably.get_run(going_on.id)).status == "running"


async def test_a_worker_claims_while_there_is_much_to_delete(make, monkeypatch):
    monkeypatch.setattr("durably.worker.maintenance.INTERVAL", 0.05)
    durably = await make(start=False, retain_runs=3600)
    deleting = asyncio.Event()

    async def purge_for_ever(*_args):
        deleting.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(durably._engine.store, "purge", purge_for_ever)

    @durably.job("quick")
    async def quick(step: Step) -> int:
        return 1

    await durably.init()
    async with asyncio.timeout(30):
        await deleting.wait()
        assert (await quick.trigger_and_wait()).output == 1
        await durably.stop()  # which does not wait for the deletions either


async def test_idle_workers_delete_what_is_old(make):
    durably = await _ended(make, retain_runs=0.001)
    await asyncio.sleep(0.01)
    assert await durably.run_until_idle() == 0
    assert await durably.get_runs() == []


@pytest.mark.parametrize("ahead", [366 * DAY, -366 * DAY])
async def test_nothing_is_deleted_after_the_clock_jumped(make, ahead, caplog):
    clock = Wrong()
    durably = await _ended(make, retain_runs=30 * 86_400, runtime=clock)
    clock.ahead = ahead
    await durably._engine.session.retention.delete()
    clock.passed += 3500
    clock.ahead += 3500_000
    await durably._engine.session.retention.delete()
    assert len(await durably.get_runs()) == 3
    assert "no old runs are deleted for 60 minutes, in case the clock is wrong" in caplog.text


async def test_by_hand_nothing_is_deleted_after_the_clock_jumped_either(make, caplog):
    clock = Wrong()
    durably = await _ended(make, runtime=clock)
    clock.ahead = 366 * DAY
    assert await durably.purge_runs(older_than=30 * 86_400) == 0
    clock.passed += 3500
    clock.ahead += 3500_000
    assert await durably.purge_runs(older_than=30 * 86_400) == 0
    assert "purge_runs deletes nothing" in caplog.text
    clock.passed += 101
    clock.ahead += 101_000
    deleted = await durably.purge_runs(older_than=30 * 86_400)
    assert deleted == (0 if durably.database.startswith("postgresql:") else 3)


async def test_a_jump_is_noticed_when_it_happens(make):
    """And not at the next deletion, which would then be held back each time on a machine that sleeps."""
    clock = Wrong()
    durably = await _ended(make, runtime=clock)
    clock.ahead = 366 * DAY
    async with asyncio.timeout(30):
        while durably._engine.session.clock._not_before < 0:  # its own task looks
            await asyncio.sleep(0.01)
    clock.passed += 3601
    clock.ahead += 3601_000
    assert durably._engine.session.clock.is_steady()


async def test_a_jump_while_deleting_ends_it(make, monkeypatch):
    clock = Wrong()
    durably = await _ended(make, retain_runs=30 * 86_400, runtime=clock)
    purge, purged = durably._engine.store.purge, []

    async def one(before, now, most):
        clock.ahead = 366 * DAY
        found = await purge(now + 1 if not purged else before, now, 1)
        purged.append(len(found))
        return found

    monkeypatch.setattr(durably._engine.store, "purge", one)
    await durably._engine.session.retention.delete()
    assert purged == [1]
    assert len(await durably.get_runs()) == 2


async def test_nothing_is_deleted_by_a_clock_that_is_far_ahead_at_the_start(make, caplog):
    """Not even once the process has written by that clock itself. (A server has a clock of its own.)"""
    await _ended(make, retain_runs=30 * 86_400)
    clock = Wrong()
    clock.ahead = 366 * DAY
    durably = await _ended(make, count=1, retain_runs=30 * 86_400, runtime=clock)
    assert len(await durably.get_runs()) == 4
    if durably.database.startswith("postgresql:"):
        return
    assert "nothing has happened in the database for 366 days" in caplog.text
    clock.passed += 3601
    clock.ahead += 3601_000
    await durably._engine.session.retention.delete()
    assert len(await durably.get_runs()) == 1, "it still is that time an hour later: it may be"


@pytest.mark.parametrize("database", ["file"], indirect=True)  # a server has a clock of its own
async def test_where_nothing_happens_any_more_what_is_old_goes_an_hour_later(make):
    await _ended(make, retain_runs=30 * 86_400)
    clock = Wrong()
    clock.ahead = 366 * DAY
    idle = await make(start=False, retain_runs=30 * 86_400, runtime=clock)
    await idle.migrate()
    left = []
    for passed in (0, 1800, 1801):
        clock.passed += passed
        clock.ahead += passed * 1000
        await idle._engine.session.retention.delete()
        left.append(len(await idle.get_runs()))
    assert left == [3, 3, 0]


async def test_two_calls_at_once_count_each_run_once(make):
    durably = await make(start=False)

    @durably.job("quick")
    async def quick(step: Step) -> None:
        await asyncio.sleep(0.05)

    await durably.migrate()
    for _ in range(4):
        await quick.trigger()
    counts = await asyncio.gather(durably.run_until_idle(), durably.run_until_idle())
    assert sum(counts) == 4
    await durably.start()
    await asyncio.gather(*[quick.trigger() for _ in range(4)])
    counts = await asyncio.gather(durably.run_until_idle(), durably.run_until_idle())
    assert sum(counts) <= 4


async def test_labels_do_not_outlive_a_deletion_and_lists_by_labels_hear_of_it(make):
    durably, elsewhere = await make(), await make(worker=False)

    @durably.job("quick")
    async def quick(step: Step) -> None: ...

    run = await quick.trigger_and_wait(labels={"customer": "Ada Lovelace"})
    events = elsewhere.subscribe_runs(labels={"customer": "Ada Lovelace"})
    told = asyncio.create_task(_deletion(events))
    async with asyncio.timeout(60):
        while elsewhere._engine.session.feed._cursor is None:  # from then on it hears
            await asyncio.sleep(0.01)
        await durably.delete_run(run.id)
        event = await told
    assert (event.run_id, event.job, event.labels) == (run.id, "quick", {})
    lines, _ = await durably._engine.store.tail(Cursor(0))
    assert [line.type for line in lines] == ["run:delete"]
    assert "Lovelace" not in repr(lines)


async def _deletion(events):
    return await anext(event async for event in events if event.type == "run:delete")
