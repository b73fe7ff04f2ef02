"""What a job does with its step."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from pathlib import Path
from typing import get_type_hints

import pytest

from durably import Durably, Progress, Step, SyncStep, errors, events


async def test_t037_run_returns_the_result_of_the_function(durably: Durably) -> None:
    def add(a: int, b: int) -> int:
        return a + b

    @durably.job("add")
    async def job(step: Step) -> list[int]:
        return [await step.run("one", add, 1, 2), await step.run("two", lambda: add(3, 4))]

    done = await job.trigger_and_wait(timeout=20)
    assert done.output == [3, 7]
    records = await durably.get_steps(done.id)
    assert [(record.name, record.output) for record in records] == [("one", 3), ("two", 7)]


async def test_t038_the_function_is_plain_or_async(durably: Durably) -> None:
    threads: dict[str, threading.Thread] = {}

    async def asynchronous() -> str:
        threads["async"] = threading.current_thread()
        await asyncio.sleep(0)
        return "async"

    def plain() -> str:
        threads["plain"] = threading.current_thread()
        return "plain"

    @durably.job("both")
    async def both(step: Step) -> list[str]:
        return [
            await step.run("a", asynchronous),
            await step.run("b", plain),
            await step.run("c", lambda: asynchronous()),
        ]

    done = await both.trigger_and_wait(timeout=20)
    assert done.output == ["async", "plain", "async"]
    assert threads["async"] is threading.current_thread()
    assert threads["plain"] is not threading.current_thread()


async def test_t039_a_result_is_stored_before_the_next_step(
    durably: Durably, database: Path
) -> None:
    def stored() -> list[str]:
        connection = sqlite3.connect(database)
        try:
            rows = connection.execute(
                "select step from durably_journal where type = 'step:complete' order by seq"
            )
            return [name for (name,) in rows]
        finally:
            connection.close()

    @durably.job("look")
    async def look(step: Step) -> list[list[str]]:
        return [await step.run(name, stored) for name in ("a", "b", "c")]

    done = await look.trigger_and_wait(timeout=20)
    assert done.output == [[], ["a"], ["a", "b"]]


async def test_t040_a_name_used_twice_is_an_error(durably: Durably) -> None:
    ran: list[str] = []

    @durably.job("twice")
    async def twice(step: Step) -> None:
        await step.run("step", lambda: ran.append("first"))
        await step.run("step", lambda: ran.append("second"))

    with pytest.raises(errors.RunFailedError) as caught:
        await twice.trigger_and_wait(timeout=20)
    error = caught.value.run.error
    assert error is not None
    assert error.type == "DuplicateStepError"
    assert ran == ["first"]


async def test_t041_a_step_for_each_batch(durably: Durably) -> None:
    saved: list[int] = []
    broken = [True]

    def save(rows: list[int]) -> int:
        if rows[0] == 20 and broken:
            broken.clear()
            raise ConnectionError("gone")
        saved.extend(rows)
        return len(rows)

    @durably.job("import")
    async def import_all(step: Step) -> int:
        rows = list(range(45))
        return sum(
            [await step.run(f"batch-{i}", save, rows[i : i + 10]) for i in range(0, len(rows), 10)]
        )

    with pytest.raises(errors.RunFailedError) as caught:
        await import_all.trigger_and_wait(timeout=20)
    run = await durably.retry(caught.value.run.id)
    assert (await durably.wait(run, timeout=20)).output == 45
    assert saved == list(range(45)), "no batch twice, none left out"


async def test_t042_progress_is_told_and_kept(durably: Durably) -> None:
    told: list[Progress] = []
    durably.on("run:progress", lambda event: told.append(event.progress))

    @durably.job("import")
    async def job(step: Step) -> None:
        for i in range(1, 4):
            step.progress(i, 3, f"row {i}")

    done = await job.trigger_and_wait(timeout=20)
    assert told == [Progress(i, 3, f"row {i}") for i in (1, 2, 3)]
    assert done.progress == Progress(3, 3, "row 3")


async def test_t043_progress_needs_only_a_number(durably: Durably) -> None:
    @durably.job("import")
    async def job(step: Step) -> None:
        step.progress(1, 2, "left behind")
        step.progress(7)

    done = await job.trigger_and_wait(timeout=20)
    assert done.progress == Progress(7, None, None)


async def log_lines(durably: Durably, write: str) -> list[events.LogWrite]:
    lines: list[events.LogWrite] = []
    durably.on(events.LogWrite, lines.append)

    @durably.job("log")
    async def job(step: Step) -> None:
        log = getattr(step.log, write)
        log("alone")
        log("with data", {"user": "123", "tags": [1, None]})
        log("with an object", {"where": Path("a")})

    await job.trigger_and_wait(timeout=20)
    assert [line.message for line in lines] == ["alone", "with data", "with an object"]
    assert [line.data for line in lines] == [
        None,
        {"user": "123", "tags": [1, None]},
        {"where": "a"},
    ]
    return lines


async def test_t044_log_info(durably: Durably) -> None:
    assert {line.level for line in await log_lines(durably, "info")} == {"info"}


async def test_t045_log_warn_is_log_warning(durably: Durably) -> None:
    assert {line.level for line in await log_lines(durably, "warning")} == {"warning"}


async def test_t046_log_error_and_debug(durably: Durably) -> None:
    assert {line.level for line in await log_lines(durably, "error")} == {"error"}
    debug: list[events.LogWrite] = []
    durably.on(events.LogWrite, debug.append)

    @durably.job("debug")
    async def job(step: Step) -> None:
        step.log.debug("small")

    await job.trigger_and_wait(timeout=20)
    assert [(line.level, line.message) for line in debug] == [("debug", "small")]


async def test_t047_the_step_knows_its_run(durably: Durably) -> None:
    @durably.job("who")
    async def who(step: Step) -> list[object]:
        return [step.run_id, step.attempt, step.cancelled]

    done = await who.trigger_and_wait(timeout=20)
    assert done.output == [done.id, 1, False]


async def test_t048_the_step_is_a_type_for_annotations(durably: Durably) -> None:
    seen: list[type] = []

    async def body(step: Step) -> None:
        seen.append(type(step))

    def sync_body(step: SyncStep) -> None:
        seen.append(type(step))

    for name, function in (("async", body), ("sync", sync_body)):
        await durably.job(name)(function).trigger_and_wait(timeout=20)
        assert get_type_hints(function)["step"] is seen[-1]
    promised = ("run", "progress", "log", "run_id", "attempt", "cancelled", "idempotency_key")
    assert all(hasattr(kind, name) for kind in seen for name in promised)
