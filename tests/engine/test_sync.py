"""durably.sync(): nobody hangs when it is closed under them."""

import asyncio
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from durably import Durably, Progress, Step, SyncStep, events
from durably.errors import ClosedError, ConfigurationError, RunFailedError


async def test_closing_frees_whoever_waits(make):
    durably = await make(start=False)
    blocking = durably.sync()
    heard: list[BaseException] = []
    waits = threading.Event()

    async def forever() -> None:
        waits.set()
        await asyncio.sleep(3600)

    def wait() -> None:
        try:
            blocking.call(forever())
        except ClosedError as error:
            heard.append(error)

    await asyncio.to_thread(blocking.init)
    thread = threading.Thread(target=wait)
    thread.start()
    assert await asyncio.to_thread(waits.wait, 10)
    await asyncio.to_thread(blocking.stop)
    await asyncio.to_thread(thread.join, 10)
    assert len(heard) == 1
    with pytest.raises(ClosedError):
        blocking.get_runs()


async def test_a_stream_left_open_ends_with_it(make):
    durably = await make(start=False)

    @durably.job("one")
    async def one(step: Step) -> None:
        await asyncio.sleep(0)

    def use() -> None:
        with durably.sync() as blocking:
            stream = blocking.subscribe(blocking.trigger(one).id)
            assert next(stream).type == "run:trigger"
        with pytest.raises(ClosedError):
            next(stream)

    await asyncio.to_thread(use)


def test_it_is_always_the_same(tmp_path):
    from durably import Durably

    durably = Durably(tmp_path / "a.db")
    assert durably.sync() is durably.sync()


# -- a thread that would wait for itself


async def test_a_listener_is_told_that_it_must_not_block(make):
    durably = await make(start=False)
    refused: list[BaseException] = []
    told = threading.Event()

    @durably.job("one")
    async def one(step: Step) -> int:
        return 1

    def use() -> None:
        blocking = durably.sync()

        def listen(event: events.RunComplete) -> None:
            for call in (
                lambda: blocking.get_run(event.run_id), blocking.init, blocking.migrate, blocking.start,
                blocking.stop, blocking.run_until_idle, lambda: blocking.trigger(one),
                lambda: next(blocking.subscribe(event.run_id)), lambda: blocking.wait(event.run_id),
            ):  # fmt: skip
                try:
                    call()
                except ConfigurationError as error:
                    refused.append(error)
            told.set()

        with blocking:
            blocking.on("run:complete", listen)
            assert blocking.trigger_and_wait(one, timeout=20).output == 1
            assert told.wait(20)
            assert blocking.trigger_and_wait(one, timeout=20).output == 1

    await asyncio.to_thread(use)
    assert len(refused) == 18
    assert all("the thread of its own event loop" in str(error) for error in refused)


async def test_an_async_job_is_told_that_it_must_not_block(make):
    durably = await make(start=False)

    @durably.job("child")
    async def child(step: Step) -> int:
        return 1

    @durably.job("parent")
    async def parent(step: Step) -> str:
        return durably.sync().trigger(child).id

    @durably.job("plain")
    def plain(step: SyncStep) -> str:
        return step.run("trigger", lambda: durably.sync().trigger(child).id, returns=str)

    def use() -> None:
        with durably.sync() as blocking:
            with pytest.raises(RunFailedError, match="the thread of its own event loop"):
                blocking.trigger_and_wait(parent, timeout=20)
            assert blocking.get_run(blocking.trigger_and_wait(plain, timeout=20).output)

    await asyncio.to_thread(use)


async def test_a_function_that_has_the_connection_is_told_that_it_must_not_block(make, database):
    durably = await make(start=False)

    @durably.job("child")
    async def child(step: Step) -> int:
        return 1

    def trigger(connection) -> str:
        return durably.sync().trigger(child).id

    async def trigger_later(connection) -> str:
        return trigger(connection)

    function = trigger if isinstance(database, Path) else trigger_later

    @durably.job("plain")
    def plain(step: SyncStep) -> str:
        return step.transaction("t", function)

    def use() -> None:
        with durably.sync() as blocking:
            with pytest.raises(RunFailedError, match="a blocking call was made "):
                blocking.trigger_and_wait(plain, timeout=20)
            assert blocking.trigger_and_wait(child, timeout=20).output == 1

    await asyncio.to_thread(use)


async def test_another_database_may_be_used_by_a_function_that_has_the_connection(tmp_path):
    durably, other = Durably(tmp_path / "a.db"), Durably(tmp_path / "b.db")

    @other.job("child")
    async def child(step: Step) -> int:
        return 1

    @durably.job("plain")
    def plain(step: SyncStep) -> str:
        return step.transaction("t", lambda _: other.sync().trigger(child).id, returns=str)

    def use() -> None:
        with durably.sync() as blocking, other.sync() as elsewhere:
            run_id = blocking.trigger_and_wait(plain, timeout=20).output
            assert elsewhere.wait(run_id, timeout=20).output == 1

    await asyncio.to_thread(use)


async def test_threads_that_open_it_at_once_share_one_loop(make):
    durably = await make(start=False)

    @durably.job("one")
    async def one(step: Step) -> int:
        return 1

    blocking = durably.sync()
    at_once, outputs = threading.Barrier(8), []

    def use() -> None:
        at_once.wait(20)
        blocking.init()
        outputs.append(blocking.trigger_and_wait(one, timeout=20).output)

    before, loop = loops(), asyncio.get_running_loop()
    with ThreadPoolExecutor(8) as threads:
        for _ in range(5):
            await asyncio.gather(*(loop.run_in_executor(threads, use) for _ in range(8)))
            assert len(loops() - before) == 1
            await asyncio.gather(*(loop.run_in_executor(threads, blocking.stop) for _ in range(8)))
            assert loops() == before
    assert outputs == [1] * 40


def test_what_an_interrupted_call_began_ends_with_it(tmp_path):
    main, ended = threading.main_thread().ident, threading.Event()

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    async def forever() -> None:
        while sys._current_frames()[main].f_code.co_name != "wait":  # for the result
            await asyncio.sleep(0.001)
        signal.pthread_kill(main, signal.SIGUSR1)
        try:
            await asyncio.sleep(3600)
        finally:
            ended.set()

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with Durably(tmp_path / "a.db").sync() as blocking:
            with pytest.raises(KeyboardInterrupt):
                blocking.call(forever())
            assert ended.wait(20)
    finally:
        signal.signal(signal.SIGUSR1, before)


def loops() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "durably-loop"}


async def test_an_error_comes_out_as_it_was_raised(make):
    durably = await make(start=False)
    raised = TimeoutError("of their own")

    async def fails() -> None:
        raise raised

    def use() -> None:
        with durably.sync() as blocking, pytest.raises(TimeoutError) as caught:
            blocking.call(fails())
        assert caught.value is raised
        assert "fails" in [entry.name for entry in caught.traceback]

    await asyncio.to_thread(use)


async def test_progress_and_log_lines_are_told_while_waiting(make):
    durably = await make(start=False)
    told: list[object] = []

    @durably.job("told")
    def job(step: SyncStep) -> int:
        step.run("one", lambda: step.progress(1, 2))
        return 1

    def use() -> None:
        with durably.sync() as blocking:
            run = blocking.trigger_and_wait(
                job, timeout=20, on_progress=told.append, on_log=told.append
            )
            assert (run.output, run.disposition, told) == (1, "created", [Progress(1, 2)])
            assert blocking.wait(run, on_progress=told.append).output == 1

    await asyncio.to_thread(use)
