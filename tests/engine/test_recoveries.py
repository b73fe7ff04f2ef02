"""P2 and the clocks: what counts as a recovery, and when a lease may be taken over."""

import asyncio

from durably import Durably, Step
from durably.runtime import Runtime
from tests.tier import by_tier


class Jumping(Runtime):
    """A wall clock that can be set; the monotonic one goes on."""

    jump = 0

    def now(self) -> int:
        return super().now() + self.jump


async def test_p2_two_hundred_deploys_during_one_run_are_no_poison(tmp_path):
    deploys, began = by_tier(quick=30, ci=200, soak=200), []

    def deploy() -> Durably:
        durably = Durably(tmp_path / "a.db", polling_interval=0.02, max_recoveries=1)

        @durably.job("long")
        async def long(step: Step) -> int:
            began.append(step.attempt)
            await asyncio.sleep(0.005 if step.attempt <= deploys else 0)
            if step.attempt <= deploys:
                await asyncio.sleep(60)
            return step.attempt

        return durably

    first = deploy()
    await first.init()
    run = await first.get_job("long").trigger()
    while not began:
        await asyncio.sleep(0.001)
    await first.stop(0)
    for count in range(2, deploys + 1):
        durably = deploy()
        await durably.init()
        while len(began) < count:
            await asyncio.sleep(0.001)
        await durably.stop(0)
    async with deploy() as last:
        done = await last.wait(run.id, 20)
    assert done.status == "completed"
    assert done.output == len(began) == deploys + 1


async def test_p2_progress_resets_the_count_of_recoveries(tmp_path):
    """Each worker vanishes without a word after one more step: 30 times, with max_recoveries 2."""
    path, steps = tmp_path / "a.db", 30

    def make() -> Durably:
        options = {"heartbeat_interval": 1.0, "stale_threshold": 2.0, "max_recoveries": 2}
        return Durably(path, runtime=Jumping(), polling_interval=0.02, **options)

    began: list[int] = []

    def register(durably: Durably) -> None:
        @durably.job("crashing")
        async def crashing(step: Step) -> int:
            for i in range(steps):
                await step.run(f"s{i}", asyncio.sleep, 0)
                if step.attempt == i + 1:
                    began.append(i)
                    await asyncio.sleep(3600)
            return steps

    seen = make()
    seen._engine.options.worker = False
    register(seen)
    await seen.init()
    run = await seen.get_job("crashing").trigger()
    hour = 0
    for attempt in range(1, steps + 1):
        durably = make()
        durably._engine.runtime.jump = hour
        register(durably)
        await durably.init()
        while len(began) < attempt:
            await asyncio.sleep(0.002)
        # It vanishes: no hand-back, no heartbeat, nothing written any more.
        durably._engine.session.worker._leases.stop()
        for execution in list(durably._engine.session.worker._executions.values()):
            execution._context.store.settle = None
        durably._engine.session.worker._executions.clear()
        tasks = list(durably._engine.session.worker._tasks)
        durably._engine.session.worker._tasks.clear()
        await durably.stop(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        hour += 3_600_000
    last = make()
    last._engine.runtime.jump = hour
    register(last)
    await last.init()
    done = await seen.wait(run.id, 20)
    assert (done.status, done.attempt) == ("completed", steps + 1)
    await last.stop()
    await seen.stop()


async def _holder_and_rival(tmp_path, jump_both: int):
    """Two workers with short leases; a run that is under way in the first; then the clock jumps."""
    workers, begun = [], []
    options = {"heartbeat_interval": 0.2, "stale_threshold": 2.0, "polling_interval": 0.05}
    for _ in range(2):
        durably = Durably(tmp_path / "a.db", runtime=Jumping(), **options)

        @durably.job("steady")
        async def steady(step: Step) -> int:
            begun.append(step.attempt)
            await asyncio.sleep(1.5)
            return step.attempt

        workers.append(durably)
    await workers[0].init()
    run = await workers[0].get_job("steady").trigger()
    while not begun:
        await asyncio.sleep(0.01)
    await workers[1].init()
    await asyncio.sleep(0.2)
    for durably in workers:
        durably._engine.runtime.jump = jump_both
    done = await workers[0].wait(run.id, 30)
    for durably in workers:
        await durably.stop()
    return done, begun


async def test_t12_a_clock_that_jumps_forward_steals_no_lease(tmp_path):
    done, begun = await _holder_and_rival(tmp_path, 3_600_000)
    assert (done.output, begun) == (1, [1])


async def test_t12_a_clock_that_jumps_back_makes_nobody_wait_an_hour(tmp_path):
    done, begun = await _holder_and_rival(tmp_path, -3_600_000)
    assert (done.output, begun) == (1, [1])


async def test_t12_new_runs_start_though_the_clock_went_back(tmp_path):
    durably = Durably(tmp_path / "a.db", runtime=Jumping(), polling_interval=0.05)

    @durably.job("quick")
    async def quick(step: Step) -> int:
        return 1

    async with durably:
        await quick.trigger_and_wait(timeout=20)
        durably._engine.runtime.jump = -3_600_000
        assert (await quick.trigger_and_wait(timeout=20)).output == 1


async def test_failures_of_a_step_that_was_tried_again_are_seen_again_in_their_order(make):
    """By its name: what the job has seen is decided, and then its result."""
    seen: list[list[str]] = []
    waiting, calls = asyncio.Event(), iter(range(9))

    def flaky() -> str:
        if (call := next(calls)) < 2:
            raise ValueError(f"failure {call}")
        return f"call {call}"

    def deploy(durably: Durably) -> None:
        @durably.job("stubborn")
        async def stubborn(step: Step) -> list[str]:
            seen.append([])
            for _ in range(9):
                try:
                    seen[-1].append(await step.run("flaky", flaky))
                    break
                except ValueError as error:
                    seen[-1].append(str(error))
            waiting.set()
            if step.attempt == 1:
                await asyncio.Event().wait()
            return seen[-1]

    first = await make(start=False)
    deploy(first)
    await first.init()
    run = await first.get_job("stubborn").trigger()
    await asyncio.wait_for(waiting.wait(), 30)
    await first.stop(0)
    second = await make(start=False)
    deploy(second)
    await second.init()
    await second.wait(run.id, 30)
    assert seen == [["failure 0", "failure 1", "call 2"]] * 2
