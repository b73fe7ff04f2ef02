"""The instance: options, start and stop."""

from __future__ import annotations

import asyncio
import inspect
import sqlite3
import threading
from collections.abc import Callable
from datetime import timedelta
from importlib.metadata import requires
from pathlib import Path

import pytest

from durably import Durably, Step, errors

Make = Callable[..., Durably]


def default_of(option: str) -> object:
    return inspect.signature(Durably).parameters[option].default


async def test_t001_instance_on_a_path(tmp_path: Path) -> None:
    path, other = tmp_path / "a.db", tmp_path / "b.db"
    instances = [Durably(str(path)), Durably(f"sqlite:///{other}"), Durably(":memory:")]
    assert list(tmp_path.iterdir()) == [], "making an instance does no I/O"
    for instance in instances:
        async with instance:
            assert await instance.get_runs() == []
    assert path.is_file()
    assert other.is_file()


async def test_t002_polling_finds_what_nothing_announced(database: Path, make: Make) -> None:
    assert default_of("polling_interval") == 1.0

    async with make(polling_interval=timedelta(milliseconds=50)) as durably:

        @durably.job("greet")
        async def greet(step: Step) -> str:
            return "hello"

        async with make(worker=False) as other:
            await asyncio.sleep(0.3)  # until the worker has looked, and found nothing
            for bell in Path(f"{database}-durably").glob("*.bell"):
                bell.unlink()  # nobody can be told of the trigger
            run = await other.register(greet.definition).trigger()
            done = await other.wait(run, timeout=20)
        assert done.output == "hello"


async def test_t003_heartbeats_go_on_while_the_loop_is_blocked(make: Make) -> None:
    assert default_of("heartbeat_interval") == 5.0

    async with make(heartbeat_interval=timedelta(milliseconds=50)) as durably:

        @durably.job("block")
        async def block(step: Step) -> None:
            threading.Event().wait(2.5)  # on the loop's own thread, past the stale threshold

        other = make()
        other.register(block.definition)
        ready, stop = threading.Event(), threading.Event()

        def work() -> None:
            async def watch() -> None:
                async with other:
                    ready.set()
                    while not stop.is_set():
                        await asyncio.sleep(0.05)

            asyncio.run(watch())

        rival = threading.Thread(target=work)
        run = await block.trigger()
        rival.start()
        try:
            done = await durably.wait(run, timeout=20)
        finally:
            stop.set()
            await asyncio.to_thread(rival.join)
        assert ready.is_set()
        assert done.attempt == 1, "nobody took the run over"


def test_t004_stale_threshold_and_its_floor(database: Path) -> None:
    assert default_of("stale_threshold") == 30.0
    Durably(database, heartbeat_interval=1, stale_threshold=timedelta(seconds=2))
    with pytest.raises(errors.ConfigurationError, match="at least twice"):
        Durably(database, heartbeat_interval=1, stale_threshold=1.9)


async def test_t005_init_migrates_and_starts_the_worker(make: Make) -> None:
    durably = make()

    @durably.job("greet")
    async def greet(step: Step) -> str:
        return "hello"

    await durably.init()
    try:
        assert (await greet.trigger_and_wait(timeout=20)).output == "hello"
    finally:
        await durably.stop()


async def test_t006_migrate_makes_the_schema_and_no_worker(database: Path, make: Make) -> None:
    instances = [make(), make()]
    await asyncio.gather(*(instance.migrate() for instance in instances))
    durably = instances[0]

    @durably.job("greet")
    async def greet(step: Step) -> str:
        return "hello"

    run = await greet.trigger()
    with pytest.raises(errors.WaitTimeoutError):
        await durably.wait(run, timeout=0.3)
    for instance in instances:
        await instance.stop()
    with sqlite3.connect(database) as connection:
        versions = connection.execute("select version from durably_version").fetchall()
    connection.close()
    assert len(versions) == len(set(versions)) > 0


async def test_t007_start_needs_a_migrated_database(make: Make) -> None:
    durably = make()

    @durably.job("greet")
    async def greet(step: Step) -> str:
        return "hello"

    with pytest.raises(errors.SchemaError, match="migrate"):
        await durably.start()
    await durably.migrate()
    await durably.start()
    try:
        assert (await greet.trigger_and_wait(timeout=20)).output == "hello"
    finally:
        await durably.stop()


async def test_t008_stop_lets_runs_end_and_hands_the_rest_back(make: Make) -> None:
    durably = make()
    started, forever = asyncio.Event(), asyncio.Event()

    @durably.job("short")
    async def short(step: Step) -> str:
        await step.run("wait", asyncio.sleep, 0.2)
        return "done"

    @durably.job("endless")
    async def endless(step: Step) -> None:
        started.set()
        await forever.wait()

    await durably.init()
    ending = await short.trigger()
    handed_back = await endless.trigger()
    await started.wait()
    await durably.stop(grace=1.0)
    with pytest.raises(errors.ClosedError):
        await durably.get_runs()

    async with make(worker=False) as reader:
        found = {run.id: run.status for run in await reader.get_runs()}
    assert found == {ending.id: "completed", handed_back.id: "pending"}


def test_t009_pydantic_is_the_only_dependency() -> None:
    needed = [line for line in requires("durably") or [] if "extra ==" not in line]
    assert [line[: len("pydantic")] for line in needed] == ["pydantic"]
