"""A failure that the job has seen is decided, as a result is: a later attempt sees the same."""

import asyncio
import json

import pytest

from durably import Step, SyncStep
from durably.errors import RunFailedError, StepFailedError
from durably.worker.failure import error_info, failure_from_json, failure_to_json


class DeclinedError(Exception):
    """Its constructor wants other things than its arguments."""

    def __init__(self, card, *, code):
        super().__init__(card, code)
        self.card = card


async def resumed(make, job, *, until):
    """Start a run, hand it back in the middle, and give what another worker makes of it."""
    first = await make(job)
    run = await first.get_job(job.name).trigger()
    await asyncio.wait_for(until.wait(), 30)
    await first.stop(0)
    second = await make(job)
    return await second.wait(run.id, 30), second


def order(calls, middle, *, sync=False):
    from durably import job

    def charge():
        calls.append("charge")
        if calls.count("charge") == 1:
            raise DeclinedError("4242", code=51)

    def notify():
        calls.append("notify")

    if sync:

        @job("order")
        def sync_order(step: SyncStep) -> str:
            try:
                step.run("charge", charge)
            except DeclinedError as error:
                step.run("notify", notify)
                if step.attempt == 1:
                    loop.call_soon_threadsafe(middle.set)
                    while not step.cancelled:
                        step.run(f"wait-{len(calls)}-{step.attempt}", time_passes)
                return f"declined: {error.args}"
            return "charged"

        import time

        def time_passes():
            time.sleep(0.01)
            calls.append("wait")

        loop = asyncio.get_running_loop()
        return sync_order

    @job("order")
    async def async_order(step: Step) -> str:
        try:
            await step.run("charge", charge)
        except DeclinedError as error:
            await step.run("notify", notify)
            if step.attempt == 1:
                middle.set()
                await asyncio.Event().wait()
            return f"declined: {error.args}"
        return "charged"

    return async_order


@pytest.mark.parametrize("sync", [False, True])
async def test_a_failure_that_was_handled_is_raised_again_and_not_run(make, sync):
    calls, middle = [], asyncio.Event()
    run, _ = await resumed(make, order(calls, middle, sync=sync), until=middle)
    assert run.output == "declined: ('4242', 51)"
    assert [call for call in calls if call != "wait"] == ["charge", "notify"]
    assert run.attempt == 2


async def test_a_name_that_is_used_again_after_a_failure_fails_and_succeeds_in_the_same_order(make):
    from durably import job

    calls, middle = [], asyncio.Event()

    def fetch():
        calls.append(1)
        if len(calls) < 3:
            raise ConnectionError(f"no. {len(calls)}")
        return len(calls)

    @job("loop")
    async def loop(step: Step) -> list[str]:
        seen = []
        for _ in range(3):
            try:
                seen.append(str(await step.run("fetch", fetch)))
            except ConnectionError as error:
                seen.append(str(error))
        if step.attempt == 1:
            middle.set()
            await asyncio.Event().wait()
        return seen

    run, _ = await resumed(make, loop, until=middle)
    assert run.output == ["no. 1", "no. 2", "3"]
    assert len(calls) == 3


async def test_retry_tries_the_failed_step_again(make):
    durably = await make()
    calls = []

    def flaky():
        calls.append(1)
        if len(calls) == 1:
            raise ConnectionError("down")
        return len(calls)

    @durably.job("once")
    async def once(step: Step) -> int:
        return await step.run("call", flaky)

    run = await once.trigger()
    with pytest.raises(RunFailedError):
        await durably.wait(run, 30)
    await durably.retry(run.id)
    assert (await durably.wait(run, 30)).output == 2


async def test_a_failure_that_nobody_handled_fails_the_run_after_a_crash_too(make):
    """The step's failure was journaled, and the worker died before the run's was."""
    from durably import job

    calls = []

    def refuse():
        calls.append(1)
        raise ValueError("it is refused")

    @job("doomed")
    async def doomed(step: Step) -> None:
        await step.run("refuse", refuse)

    first = await make(doomed, stale_threshold=0.5)
    settle = first._engine.store.settle

    async def never(*args):
        await asyncio.Event().wait()

    first._engine.store.settle = never
    run = await first.get_job("doomed").trigger()
    async with asyncio.timeout(30):
        while not await first.get_steps(run.id):
            await asyncio.sleep(0.02)
    first._engine.session.worker._leases.stop()  # as if it were dead
    second = await make(doomed)
    with pytest.raises(RunFailedError, match="it is refused"):
        await second.wait(run.id, 30)
    failed = await second.get_run(run.id)
    assert (failed.error.step, len(calls)) == ("refuse", 1)
    assert failed.attempt > 1
    first._engine.store.settle = settle


class NeedsTwoError(Exception):
    def __new__(cls, first, second):
        return super().__new__(cls, first, second)

    def __init__(self, first, second):
        super().__init__(first, second)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("x"), ValueError(), KeyError("k"), OSError(2, "no such file"), ConnectionResetError(104, "reset"),
        DeclinedError("1", code=2), NeedsTwoError("a", 2), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        json.JSONDecodeError("bad", "doc", 2),
    ],
)  # fmt: skip
def test_an_exception_comes_back_as_what_it_was_or_says_what_it_was(error):
    again = failure_from_json(failure_to_json(error, error_info(error, "s")))
    assert isinstance(again, type(error))
    assert str(again) == str(error)
    if type(again) is type(error):
        assert again.args == error.args


def test_what_cannot_be_made_again_is_told_by_its_name():
    class LocalError(Exception):
        pass

    error = LocalError("x")
    again = failure_from_json(failure_to_json(error, error_info(error, "s")))
    assert type(again) is StepFailedError
    assert again.type == "LocalError"
    for old in ('{"type":"E","message":"m","step":"s","traceback":null}',):
        assert failure_from_json(old).type == "E"


def test_nothing_is_imported_and_only_exceptions_are_made():
    told = json.loads(failure_to_json(ValueError("x"), error_info(ValueError("x"), "s")))
    for module, name in (
        ("os", "system"),
        ("builtins", "SystemExit"),
        ("antigravity", "x"),
        ("builtins", "list"),
        (None, None),
    ):
        raised = {"module": module, "name": name, "args": ["x"]}
        again = failure_from_json(json.dumps({**told, "raised": raised}))
        assert type(again) is StepFailedError
