"""retain_runs: old runs go by themselves, and watchers are told."""

import asyncio

from durably import Step


async def test_runs_that_ended_long_ago_are_deleted(make, monkeypatch):
    monkeypatch.setattr("durably.worker._CHORES", 0.05)
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
