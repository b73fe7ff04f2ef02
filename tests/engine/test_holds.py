"""Who is cancelled, timed out or handed back may still run for a while: until then nobody else begins."""

import asyncio
import threading

import pytest

from durably import Retry, Step, SyncStep
from durably.errors import RunCancelledError, RunConflictError, StepTimeoutError


class Body:
    """A function in a thread that nothing can stop, and how many of it run at once."""

    def __init__(self):
        self.begun, self.go_on, self.lock = threading.Event(), threading.Event(), threading.Lock()
        self.inside = self.most = self.calls = 0

    def __call__(self):
        with self.lock:
            self.calls += 1
            self.inside += 1
            self.most = max(self.most, self.inside)
        self.begun.set()
        self.go_on.wait(30)
        with self.lock:
            self.inside -= 1

    async def has_begun(self):
        assert await asyncio.to_thread(self.begun.wait, 30)


@pytest.fixture
def body():
    body = Body()
    yield body
    body.go_on.set()


def a_job(durably, body, kind):
    if kind == "def":

        @durably.job("work")
        def work(step: SyncStep) -> None:
            step.run("body", body)

        return work

    @durably.job("work")
    async def async_work(step: Step) -> None:
        await step.run("body", body)

    return async_work


async def until(condition):
    async with asyncio.timeout(30):
        while not await condition():
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("kind", ["def", "async"])
async def test_a_cancelled_run_keeps_its_key_until_its_thread_has_ended(make, body, kind):
    durably = await make()
    work = a_job(durably, body, kind)
    first = await work.trigger(concurrency_key="k")
    second = await work.trigger(concurrency_key="k")
    await body.has_begun()
    cancelled = await durably.cancel(first.id)
    assert (cancelled.status, cancelled.stopping) == ("cancelled", True)
    with pytest.raises(RunCancelledError):
        await durably.wait(first)
    await asyncio.sleep(2.5)  # more than two leases: its holder goes on to renew it
    assert (await durably.get_run(first.id)).stopping
    assert (await durably.get_run(second.id)).status == "pending"
    with pytest.raises(RunConflictError, match="still stopping its body"):
        await durably.delete_run(first.id)
    body.go_on.set()
    await durably.wait(second, 30)
    assert body.most == 1
    assert not (await durably.get_run(first.id)).stopping
    await durably.delete_run(first.id)


@pytest.mark.parametrize("kind", ["def", "async"])
async def test_a_retried_run_begins_when_its_former_body_has_ended(make, body, kind):
    durably = await make()
    run = await a_job(durably, body, kind).trigger()
    await body.has_begun()
    await durably.cancel(run.id)
    assert (await durably.retry(run.id)).status == "pending"
    await asyncio.sleep(1.5)
    assert (body.calls, (await durably.get_run(run.id)).status) == (1, "pending")
    body.go_on.set()
    await durably.wait(run.id, 30)
    assert (body.calls, body.most) == (2, 1)


async def test_a_holder_in_another_process_hears_of_a_cancel_before_its_next_heartbeat(make):
    """Another instance stands for another process: they share nothing but the database."""
    holder = await make(heartbeat_interval=60, stale_threshold=200, polling_interval=60)
    other = await make(worker=False)
    began, ended = asyncio.Event(), asyncio.Event()

    @holder.job("long")
    async def long(step: Step) -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    run = await long.trigger(concurrency_key="k")
    await asyncio.wait_for(began.wait(), 30)
    await other.cancel(run.id)
    await asyncio.wait_for(ended.wait(), 30)
    await until(lambda: _is_not(other, run.id, "stopping"))


async def _is_not(durably, run_id, what):
    return not getattr(await durably.get_run(run_id), what)


async def test_a_run_that_failed_beside_a_thread_that_goes_on_keeps_its_key(make, body):
    durably = await make()

    @durably.job("impatient")
    async def impatient(step: Step) -> None:
        await step.run("slow", body, timeout=0.05)

    @durably.job("next")
    async def following(step: Step) -> int:
        return body.inside

    failed = await impatient.trigger(concurrency_key="k")
    after = await following.trigger(concurrency_key="k")
    await until(lambda: _has_status(durably, failed.id, "failed"))
    run = await durably.get_run(failed.id)
    assert (run.error.type, run.stopping) == ("StepTimeoutError", True)
    body.go_on.set()
    assert (await durably.wait(after, 30)).output == 0


async def _has_status(durably, run_id, status):
    return (await durably.get_run(run_id)).status == status


async def test_a_hung_run_is_handed_back_and_taken_when_its_lease_ends(make, body):
    durably = await make()
    run = await a_job(durably, body, "def").trigger()
    await body.has_begun()
    await durably._engine.stop_within(0, 0.1)
    other = await make()
    again = Body()
    again.go_on.set()
    a_job(other, again, "def")
    row = await other._engine.runs.get_row(run.id)
    assert (row.status, row.due_at) == ("pending", row.held_until)
    await other.wait(run.id, 30)
    assert (await other.get_run(run.id)).attempt == 2


async def test_a_slot_is_free_when_the_thread_is(make, body):
    durably = await make(max_concurrent_runs=1)
    work = a_job(durably, body, "def")
    first, second = await work.trigger(), await work.trigger()
    await body.has_begun()
    await durably.cancel(first.id)
    await asyncio.sleep(0.3)
    assert (await durably.get_run(second.id)).status == "pending", "claimed, it could not begin"
    body.go_on.set()
    await durably.wait(second, 30)


@pytest.mark.parametrize("end", ["cancel", "timeout", "stop"])
async def test_a_call_that_waits_for_a_thread_does_not_begin_when_nobody_waits_for_it(
    make, body, monkeypatch, end
):
    monkeypatch.setattr("durably.engine.engine.STEP_THREADS", 2)
    durably = await make()
    begun = []

    @durably.job("many")
    async def many(step: Step) -> None:
        calls = [step.run(f"b{i}", body) for i in range(2)]
        late = [step.run(f"late-{i}", begun.append, i) for i in range(20)]
        await asyncio.gather(*calls, *late)

    @durably.job("impatient")
    async def impatient(step: Step) -> str:
        calls = [asyncio.ensure_future(step.run(f"b{i}", body)) for i in range(2)]
        await body.has_begun()
        try:
            await step.run("late", begun.append, "late", timeout=0.05)
        except StepTimeoutError:
            body.go_on.set()
            await asyncio.gather(*calls)
            return "too late"
        return "in time"

    if end == "timeout":
        assert (await impatient.trigger_and_wait(timeout=30)).output == "too late"
    else:
        run = await many.trigger()
        await body.has_begun()
        await (durably.cancel(run.id) if end == "cancel" else _stop(durably, body))
        body.go_on.set()
        if end == "cancel":
            await until(lambda: _is_not(durably, run.id, "stopping"))
    assert begun == []


async def _stop(durably, body):
    stopping = asyncio.ensure_future(durably.stop(0))
    await asyncio.sleep(0.1)
    body.go_on.set()
    await stopping


@pytest.mark.parametrize("kind", ["def", "task"])
async def test_a_step_is_not_tried_again_once_its_run_is_cancelled(make, kind):
    durably = await make()
    tried, calls = threading.Event(), []

    def flaky():
        calls.append(1)
        tried.set()
        raise ConnectionError

    retries = Retry(100, delay=0.01, backoff=1)

    @durably.job("def")
    def plain(step: SyncStep) -> None:
        step.run("call", flaky, retries=retries)

    @durably.job("task")
    async def in_a_task(step: Step) -> None:
        asyncio.get_running_loop().create_task(step.run("call", flaky, retries=retries))
        await asyncio.Event().wait()

    run = await durably.get_job(kind).trigger()
    assert await asyncio.to_thread(tried.wait, 30)
    await durably.cancel(run.id)
    await until(lambda: _is_not(durably, run.id, "stopping"))
    before = len(calls)
    await asyncio.sleep(0.3)
    assert len(calls) == before


async def test_a_run_cancelled_and_retried_during_a_claim_goes_on(make):
    durably = await make()
    asked, go_on = asyncio.Event(), asyncio.Event()
    claim = durably._engine.store.claim

    async def slow_claim(*args, **options):
        asked.set()
        await go_on.wait()
        return await claim(*args, **options)

    durably._engine.store.claim = slow_claim

    @durably.job("one")
    async def one(step: Step) -> int:
        return 1

    run = await one.trigger()
    await asked.wait()
    await durably.cancel(run.id)
    await durably.retry(run.id)
    go_on.set()
    assert (await durably.wait(run, 30)).output == 1


async def test_a_thread_that_the_system_refuses_is_started_later(make, monkeypatch):
    durably = await make()
    start, refused = threading.Thread.start, []

    def sometimes(thread):
        if thread.name.startswith("durably-step") and len(refused) < 2:
            refused.append(thread.name)
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", sometimes)

    @durably.job("plain")
    async def plain(step: Step) -> int:
        return await step.run("one", lambda: 1)

    assert (await plain.trigger_and_wait(timeout=30)).output == 1
    assert len(refused) == 2


async def test_a_step_that_failed_while_the_worker_stops_is_handed_back(make):
    durably = await make()
    begun, fail = asyncio.Event(), asyncio.Event()

    async def child():
        begun.set()
        await fail.wait()
        raise OSError("the child process was stopped, too")

    @durably.job("parent")
    async def parent(step: Step) -> str:
        try:
            await step.run("child", child, retries=3)
        except OSError:
            return "gave up"
        return "done"

    run = await parent.trigger()
    await begun.wait()
    stopping = asyncio.ensure_future(durably.stop(30))
    await asyncio.sleep(0)
    fail.set()
    await stopping
    other = await make(worker=False)
    row = await other._engine.runs.get_row(run.id)
    assert (row.status, row.held_until) == ("pending", None)
    assert await other.get_steps(run.id) == []
