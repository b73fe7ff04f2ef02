"""A scope within a job may cancel a step while its result is being committed: what comes of the step's name."""

import asyncio
import sqlite3
import threading
from contextlib import suppress

import pytest

from durably import Durably, Step
from durably.errors import RunFailedError


@pytest.fixture
def database_file(tmp_path):
    return tmp_path / "app.db"


async def cancelled(task):
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def when_submitted(durably, type, event):
    """Set an event when the first line of a type is handed to the store."""
    real = durably._engine.store.record

    def record(lease, entry, **options):
        if entry.type == type:
            event.set()
        return real(lease, entry, **options)

    durably._engine.store.record = record


async def test_a_step_cancelled_during_its_commit_keeps_its_result(durably):
    calls, committing = [], asyncio.Event()
    when_submitted(durably, "step:complete", committing)

    def fetch() -> int:
        calls.append(1)
        return len(calls)

    @durably.job("impatient")
    async def impatient(step: Step) -> list[int]:
        task = asyncio.create_task(step.run("fetch", fetch))
        await committing.wait()
        await cancelled(task)
        assert task.cancelled()
        return [await step.run("fetch", fetch), await step.run("other", fetch)]

    run = await durably.wait(await impatient.trigger(), 30)
    assert run.output == [1, 2]
    assert [step.name for step in await durably.get_steps(run.id)] == ["fetch", "other"]


async def test_a_step_cancelled_during_the_commit_of_its_failure_can_run_again(durably):
    calls, committing = [], asyncio.Event()
    when_submitted(durably, "step:fail", committing)

    def fetch() -> int:
        calls.append(1)
        if len(calls) == 1:
            raise ConnectionError("down")
        return len(calls)

    @durably.job("impatient")
    async def impatient(step: Step) -> int:
        task = asyncio.create_task(step.run("fetch", fetch))
        await committing.wait()
        await cancelled(task)
        return await step.run("fetch", fetch)

    assert (await durably.wait(await impatient.trigger(), 30)).output == 2


async def test_a_transaction_cancelled_before_its_commit_keeps_its_result(database_file):
    """On SQLite nothing stops the function; on PostgreSQL its transaction is undone."""
    calls, go_on = [], threading.Event()

    async with Durably(database_file) as durably:
        loop, inside = asyncio.get_running_loop(), asyncio.Event()

        def pay(connection) -> int:
            calls.append(1)
            loop.call_soon_threadsafe(inside.set)
            go_on.wait(30)
            return len(calls)

        @durably.job("pay")
        async def job(step: Step) -> int:
            task = asyncio.create_task(step.transaction("pay", pay))
            await inside.wait()
            await cancelled(task)
            go_on.set()
            return await step.transaction("pay", pay)

        run = await durably.wait(await job.trigger(), 30)
        assert (run.output, calls) == (1, [1])
        assert [step.name for step in await durably.get_steps(run.id)] == ["pay"]


async def test_a_transaction_cancelled_while_it_waits_for_the_file_does_not_begin(database_file):
    calls = []

    def pay(connection, who) -> str:
        calls.append(who)
        return who

    async with Durably(database_file) as durably:
        loop = asyncio.get_running_loop()
        other = sqlite3.connect(database_file, isolation_level=None)

        @durably.job("pay")
        async def job(step: Step) -> str:
            other.execute("begin immediate")
            task = asyncio.create_task(step.transaction("pay", pay, "first"))
            for _ in range(3):  # it is handed to the writer
                await asyncio.sleep(0)
            await cancelled(task)
            loop.call_later(0.05, other.execute, "rollback")
            return await step.transaction("pay", pay, "second")

        try:
            run = await durably.wait(await job.trigger(), 30)
        except RunFailedError as failed:
            pytest.fail(str(failed))
        finally:
            other.close()
        assert (run.output, calls) == ("second", ["second"])
