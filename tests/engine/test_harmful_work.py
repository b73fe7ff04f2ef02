"""Work that harms its worker: the rows P5-P12 of the failure catalogue (P1-P4, P8: tests/crash)."""

import asyncio
import logging
import threading
from datetime import datetime

import pytest

from durably import Retry, Step, SyncStep, with_log_persistence
from durably.errors import DurablyError, LeaseLost, RunCancelledError, RunFailedError
from durably.events import RunProgress
from durably.worker.failure import MAX_MESSAGE, MAX_TRACEBACK
from durably.worker.report import MAX_PENDING_LOGS


async def started(durably, name):
    """The run of a job once its first step began."""
    begun = asyncio.Event()
    durably.on("step:start", lambda event: begun.set())
    run = await durably.get_job(name).trigger()
    await begun.wait()
    return run


async def test_p5_a_step_that_swallows_its_cancellation_changes_nothing(durably):
    ended = asyncio.Event()

    @durably.job("stubborn")
    async def stubborn(step: Step) -> str:
        async def deaf() -> str:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                ended.set()
            return "done all the same"

        try:
            await step.run("deaf", deaf)
        except BaseException:
            return "swallowed"
        return "went on"

    run = await started(durably, "stubborn")
    await durably.cancel(run.id)
    await ended.wait()
    with pytest.raises(RunCancelledError):
        await durably.wait(run)
    await asyncio.sleep(0.1)
    assert (await durably.get_run(run.id)).status == "cancelled"
    assert await durably.get_steps(run.id) == []
    assert await durably.get_job("stubborn").get_runs(status="running") == []


async def test_p5_an_async_step_is_cancelled_at_once(durably):
    cancelled = asyncio.Event()

    @durably.job("slow")
    async def slow(step: Step) -> None:
        async def wait() -> None:
            try:
                await asyncio.sleep(600)
            except asyncio.CancelledError:
                cancelled.set()
                raise

        await step.run("wait", wait)

    run = await started(durably, "slow")
    await durably.cancel(run.id)
    async with asyncio.timeout(60):
        await cancelled.wait()


async def test_p5_another_process_is_told_of_a_cancel_by_its_heartbeat(make):
    cancelled = asyncio.Event()
    worker = await make()
    other = await make(worker=False)

    @worker.job("slow")
    async def slow(step: Step) -> None:
        try:
            await step.run("wait", asyncio.sleep, 600)
        finally:
            cancelled.set()

    run = await started(worker, "slow")
    await other.cancel(run.id)
    async with asyncio.timeout(60):
        await cancelled.wait()
    with pytest.raises(RunCancelledError):
        await worker.wait(run)


async def test_p6_a_blocking_step_ends_as_a_zombie_whose_result_is_refused(durably):
    release, asked = threading.Event(), []

    @durably.job("blocking")
    async def blocking(step: Step) -> str:
        def block() -> str:
            release.wait(30)
            asked.append(step.cancelled)
            return "too late"

        return await step.run("block", block)

    run = await started(durably, "blocking")
    await durably.cancel(run.id)
    with pytest.raises(RunCancelledError):
        await durably.wait(run)
    release.set()
    while not asked:
        await asyncio.sleep(0.01)
    assert asked == [True]
    assert await durably.get_steps(run.id) == []


async def test_p6_a_blocking_job_can_ask_whether_it_is_cancelled(durably):
    asked = threading.Event()

    @durably.job("polite")
    def polite(step: SyncStep) -> str:
        def work() -> str:
            while not step.cancelled:
                asked.wait(0.01)
            asked.set()
            return "stopped"

        return step.run("work", work)

    run = await started(durably, "polite")
    await durably.cancel(run.id)
    async with asyncio.timeout(60):
        while not asked.is_set():
            await asyncio.sleep(0.01)
    assert (await durably.get_run(run.id)).status == "cancelled"


@pytest.mark.parametrize("error", [SystemExit(3), GeneratorExit(), asyncio.CancelledError("stray")])
@pytest.mark.parametrize("where", ["async step", "sync step", "job", "sync job"])
async def test_p7_what_no_exception_is_fails_the_step_not_the_worker(durably, error, where):
    def raise_it() -> None:
        raise error

    async def raise_async() -> None:
        raise error

    if where == "sync job":

        @durably.job("odd")
        def odd(step: SyncStep) -> None:
            step.run("odd", raise_it)
    else:

        @durably.job("odd")
        async def odd_async(step: Step) -> None:
            if where == "job":
                raise error
            await step.run("odd", raise_async if where == "async step" else raise_it)

    with pytest.raises(RunFailedError) as failed:
        async with asyncio.timeout(60):
            await durably.get_job("odd").trigger_and_wait()
    assert type(error).__name__ in str(failed.value)
    assert failed.value.run.error.step == (None if where == "job" else "odd")


async def test_p7_a_job_may_catch_what_its_step_could_not(durably):
    async def leave() -> None:
        raise SystemExit(1)

    @durably.job("catching")
    async def catching(step: Step) -> str:
        try:
            await step.run("leave", leave)
        except Exception as error:
            return str(error)
        return "no"

    assert "SystemExit" in (await catching.trigger_and_wait()).output


def test_p7_a_keyboard_interrupt_hands_the_run_back(tmp_path):
    from durably import Durably

    durably = Durably(tmp_path / "app.db", polling_interval=0.05)

    @durably.job("interrupted")
    async def interrupted(step: Step) -> int:
        async def press() -> int:
            if step.attempt == 1:
                raise KeyboardInterrupt
            return step.attempt

        return await step.run("press", press)

    async def main() -> None:
        async with durably:
            await interrupted.trigger_and_wait(timeout=20)

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(main())

    async def again() -> None:
        async with durably:
            (run,) = await interrupted.get_runs()
            done = await durably.wait(run, 20)
            assert done.output == done.attempt > 1
            events = [event.type async for event in durably.subscribe(run.id)]
            assert events.count("run:release") == done.attempt - 1

    asyncio.run(again())


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


def _cyclic() -> Exception:
    one, two = ValueError("one"), ValueError("two")
    one.__cause__, two.__cause__ = two, one
    return one


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (Unspeakable(), "whose str() raises"),
        (_cyclic(), "one"),
        (ExceptionGroup("many", [ValueError("a"), TypeError("b")]), "many (2 sub-exceptions)"),
        (ValueError("x" * 10_000_000), "more characters"),
        (ValueError("nul \0 and \ud800 surrogate"), "nul \\x00 and \\ud800 surrogate"),
        (ValueError(object()), "object object at"),
        (OSError(2, "No such file", "name\udcff"), "\\udcff"),
        (type("E" * 5000, (Exception,), {})("long name"), "long name"),
    ],
    ids=lambda value: type(value).__name__[:20],
)
async def test_p9_p10_any_exception_can_be_stored(durably, error, expected):
    async def fail() -> None:
        raise error

    @durably.job("failing")
    async def failing(step: Step) -> None:
        await step.run("fail", fail)

    with pytest.raises(RunFailedError) as failed:
        await failing.trigger_and_wait(timeout=20)
    stored = failed.value.run.error
    assert expected in stored.message
    assert len(stored.message) <= MAX_MESSAGE + 50
    assert len(stored.traceback or "") <= MAX_TRACEBACK + 500
    assert stored.step == "fail"
    (record,) = await durably.get_steps(failed.value.run.id)
    assert (record.status, record.error.message) == ("failed", stored.message)


async def test_p11_a_flood_of_logs_is_bounded_and_the_loss_is_told(durably, caplog):
    durably.use(with_log_persistence())

    @durably.job("chatty")
    async def chatty(step: Step) -> str:
        for i in range(3 * MAX_PENDING_LOGS):
            step.log.info("line", i)
        return await step.run("go on", asyncio.sleep, 0, "fine", returns=str)

    with caplog.at_level(logging.WARNING, "durably"):
        done = await chatty.trigger_and_wait()
    assert done.output == "fine"
    kept = await durably.get_logs(done.id, limit=5000)
    assert [line.data for line in kept] == list(range(MAX_PENDING_LOGS))
    assert f"{2 * MAX_PENDING_LOGS} log lines were dropped" in caplog.text


@pytest.mark.parametrize(
    "data", [datetime(2020, 1, 1), {1, 2}, object(), float("nan"), {1: 2}, "\ud800\0", b"\xff"]
)
async def test_p11_no_log_data_fails_a_job(durably, data):
    durably.use(with_log_persistence())

    @durably.job("logging")
    async def log_it(step: Step) -> None:
        step.log.warning("see", data)
        step.progress(1, 2, "half \0 \ud800")

    done = await log_it.trigger_and_wait()
    (line,) = await durably.get_logs(done.id)
    assert (line.level, line.message) == ("warning", "see")
    assert done.progress.message == "half \\x00 \\ud800"


async def test_p11_a_failing_progress_write_harms_nothing(make, monkeypatch):
    durably = await make()

    async def refuse(*_: object) -> None:
        raise LeaseLost("as if")

    monkeypatch.setattr(durably._engine.store, "save_progress", refuse)

    @durably.job("progressing")
    async def progressing(step: Step) -> int:
        for i in range(3):
            step.progress(i, 3)
            await step.run(f"s{i}", asyncio.sleep, 0.15)
        return 3

    done = await progressing.trigger_and_wait()
    assert done.output == 3
    assert done.progress.current == 2


async def test_p11_a_listener_that_raises_harms_nothing(durably, caplog):
    @durably.on("step:complete")
    def bad(event):
        raise ValueError("listener")

    @durably.on("run:complete")
    async def bad_too(event):
        raise ValueError("async listener")

    @durably.job("simple")
    async def simple(step: Step) -> int:
        return await step.run("one", asyncio.sleep, 0, 1, returns=int)

    assert (await simple.trigger_and_wait()).output == 1
    await durably.stop()
    assert "a listener of step:complete failed" in caplog.text
    assert "a listener of run:complete failed" in caplog.text


async def test_p12_a_task_left_behind_can_do_nothing_more(durably, caplog):
    left = []

    @durably.job("careless")
    async def careless(step: Step) -> str:
        async def later() -> None:
            await asyncio.sleep(0.2)
            step.log.info("too late")
            step.progress(1)
            await step.run("too late", asyncio.sleep, 0)

        left.append(asyncio.create_task(later()))
        return "done"

    done = await careless.trigger_and_wait()
    with pytest.raises(DurablyError, match=r"'too late' was started after run .* ended"):
        await left[0]
    assert "step.log was called after the run ended" in caplog.text
    assert (await durably.get_run(done.id)).progress is None
    assert await durably.get_steps(done.id) == []


async def test_progress_is_told_at_once_and_the_last_is_kept(durably):
    told = []
    durably.on(RunProgress, told.append)

    @durably.job("counting")
    async def counting(step: Step) -> None:
        for i in range(1000):
            step.progress(i + 1, 1000, f"at {i + 1}")

    done = await counting.trigger_and_wait()
    assert [event.progress.current for event in told] == list(range(1, 1001))
    assert (done.progress.current, done.progress.total, done.progress.message) == (
        1000,
        1000,
        "at 1000",
    )


async def test_retries_wait_longer_each_time_and_then_give_up(durably):
    tries = []

    async def fail() -> None:
        tries.append(asyncio.get_running_loop().time())
        raise ConnectionError(f"try {len(tries)}")

    @durably.job("retrying")
    async def retrying(step: Step) -> None:
        await step.run("fail", fail, retries=Retry(3, delay=0.02, backoff=2))

    with pytest.raises(RunFailedError, match="try 4"):
        await retrying.trigger_and_wait()
    assert len(tries) == 4


async def test_only_named_exceptions_are_tried_again(durably):
    tries = []

    def fail() -> None:
        tries.append(1)
        raise ValueError("no use")

    @durably.job("picky")
    async def picky(step: Step) -> None:
        await step.run("fail", fail, retries=Retry(5, delay=0.01, on=(ConnectionError,)))

    with pytest.raises(RunFailedError, match="no use"):
        await picky.trigger_and_wait()
    assert len(tries) == 1
