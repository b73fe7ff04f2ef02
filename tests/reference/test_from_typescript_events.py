"""Events, subscriptions, plugins and kept log lines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from durably import (
    Durably,
    JobHandle,
    LogEntry,
    Progress,
    Step,
    errors,
    events,
    with_log_persistence,
)

Make = Callable[..., Durably]


def register_talkative(durably: Durably) -> JobHandle[None, str]:
    @durably.job("talkative")
    async def talkative(step: Step) -> str:
        def count() -> int:
            step.log.info("counting", {"to": 3})
            return 3

        step.log.warning("about to count")
        await step.run("count", count)
        step.progress(1, 2, "half")
        return "done"

    return talkative


def register_failing(durably: Durably) -> JobHandle[None, None]:
    @durably.job("failing")
    async def failing(step: Step) -> None:
        await step.run("divide", lambda: 1 / 0)

    return failing


async def fail(durably: Durably) -> str:
    with pytest.raises(errors.RunFailedError) as caught:
        await register_failing(durably).trigger_and_wait(timeout=20)
    return caught.value.run.id


async def test_t078_on_calls_until_it_is_ended(durably: Durably) -> None:
    by_name: list[Any] = []
    by_class: list[Any] = []
    decorated: list[Any] = []
    awaited = asyncio.Event()
    end = durably.on("run:complete", by_name.append)
    durably.on(events.RunComplete, by_class.append)

    @durably.on("run:complete")
    def listen(event: events.RunComplete) -> None:
        decorated.append(event)
        raise RuntimeError("harms nobody")

    @durably.on("run:complete")
    async def listen_later(event: events.RunComplete) -> None:
        awaited.set()

    job = register_talkative(durably)
    await job.trigger_and_wait(timeout=20)
    await asyncio.wait_for(awaited.wait(), 20)
    end()
    await job.trigger_and_wait(timeout=20)
    assert (len(by_name), len(by_class), len(decorated)) == (1, 2, 2)
    with pytest.raises(errors.ConfigurationError, match="run:begin"):
        durably.on("run:begin", by_name.append)  # type: ignore[call-overload]


async def test_t079_what_every_event_tells(durably: Durably) -> None:
    told: list[events.Event] = []
    for name in events.EVENT_TYPES:
        durably.on(name, told.append)  # type: ignore[call-overload]
    before = datetime.now(UTC).replace(microsecond=0)
    run = await register_talkative(durably).trigger(labels={"tenant": "a"})
    await durably.wait(run, timeout=20)
    assert {type(event) for event in told} == {
        events.RunTrigger,
        events.RunStart,
        events.RunProgress,
        events.RunComplete,
        events.StepStart,
        events.StepComplete,
        events.LogWrite,
    }
    for event in told:
        assert type(event) is events.EVENT_TYPES[event.type]
        assert (event.run_id, event.job) == (run.id, "talkative")
        assert event.labels == {"tenant": "a"}
        assert before <= event.timestamp <= datetime.now(UTC)
    numbers = [event.sequence for event in told if event.sequence is not None]
    assert numbers == [1, 2, 3, 4], "trigger, start, step, complete"


async def test_t080_run_trigger(durably: Durably) -> None:
    told: list[events.RunTrigger] = []
    durably.on("run:trigger", told.append)
    job = register_talkative(durably)
    run = await job.trigger(idempotency_key="once")
    await job.trigger(idempotency_key="once")
    assert [event.run_id for event in told] == [run.id]


async def test_t081_run_start(durably: Durably) -> None:
    told: list[events.RunStart] = []
    durably.on("run:start", told.append)
    run_id = await fail(durably)
    await durably.retry(run_id)
    with pytest.raises(errors.RunFailedError):
        await durably.wait(run_id, timeout=20)
    assert [(event.run_id, event.attempt) for event in told] == [(run_id, 1), (run_id, 2)]


async def test_t082_run_progress(durably: Durably) -> None:
    told: list[events.RunProgress] = []
    durably.on("run:progress", told.append)
    done = await register_talkative(durably).trigger_and_wait(timeout=20)
    assert [event.progress for event in told] == [Progress(1, 2, "half")]
    assert told[0].sequence is None
    assert done.progress == told[0].progress


async def test_t083_run_complete(durably: Durably) -> None:
    told: list[events.RunComplete] = []
    durably.on("run:complete", told.append)
    done = await register_talkative(durably).trigger_and_wait(timeout=20)
    (event,) = told
    assert (event.run_id, event.output) == (done.id, "done")
    assert 0 <= event.duration < 20


async def test_t084_run_fail(durably: Durably) -> None:
    told: list[events.RunFail] = []
    durably.on("run:fail", told.append)
    run_id = await fail(durably)
    (event,) = told
    assert (event.run_id, event.failed_step_name) == (run_id, "divide")
    assert (event.error.type, event.error.message) == ("ZeroDivisionError", "division by zero")


async def test_t085_run_cancel(make: Make) -> None:
    told: list[str] = []
    async with make(worker=False) as durably, make(worker=False) as other:
        durably.on("run:cancel", lambda event: told.append(event.run_id))
        run = await register_talkative(durably).trigger()
        hears = asyncio.create_task(_types(other, run.id))
        await durably.cancel(run.id)
        assert told == [run.id]
        assert (await asyncio.wait_for(hears, 20))[-1] == "run:cancel"


async def _types(durably: Durably, run_id: str) -> list[str]:
    return [event.type async for event in durably.subscribe(run_id)]


async def test_t086_run_retry(durably: Durably) -> None:
    told: list[str] = []
    durably.on("run:retry", lambda event: told.append(event.run_id))
    run_id = await fail(durably)
    await durably.retry(run_id)
    assert told == [run_id]
    with pytest.raises(errors.RunFailedError):
        await durably.wait(run_id, timeout=20)


async def test_t087_step_start(durably: Durably) -> None:
    told: list[tuple[str, int]] = []
    durably.on("step:start", lambda event: told.append((event.step_name, event.attempt)))
    broken = [True]

    @durably.job("two-steps")
    async def two_steps(step: Step) -> None:
        await step.run("first", lambda: None)
        await step.run("second", lambda: broken.pop() and 1 / 0 if broken else None)

    with pytest.raises(errors.RunFailedError) as caught:
        await two_steps.trigger_and_wait(timeout=20)
    await durably.wait(await durably.retry(caught.value.run.id), timeout=20)
    assert told == [("first", 1), ("second", 1), ("second", 2)]


async def test_t088_step_complete(durably: Durably) -> None:
    told: list[events.StepComplete] = []
    durably.on("step:complete", told.append)
    await register_talkative(durably).trigger_and_wait(timeout=20)
    (event,) = told
    assert (event.step_name, event.step_index, event.output) == ("count", 0, 3)
    assert event.sequence is not None
    assert 0 <= event.duration < 20


async def test_t089_step_fail(durably: Durably) -> None:
    told: list[events.StepFail] = []
    durably.on("step:fail", told.append)

    @durably.job("stubborn")
    async def stubborn(step: Step) -> None:
        await step.run("divide", lambda: 1 / 0, retries=0)

    with pytest.raises(errors.RunFailedError):
        await stubborn.trigger_and_wait(timeout=20)
    (event,) = told
    assert (event.step_name, event.error.type) == ("divide", "ZeroDivisionError")
    assert event.error.step == "divide"


async def test_t090_log_write(durably: Durably) -> None:
    told: list[events.LogWrite] = []
    durably.on("log:write", told.append)
    await register_talkative(durably).trigger_and_wait(timeout=20)
    assert [(line.level, line.message, line.data, line.step_name) for line in told] == [
        ("warning", "about to count", None, None),
        ("info", "counting", {"to": 3}, "count"),
    ]


async def test_t091_subscribe_tells_the_journal_from_the_start(durably: Durably) -> None:
    done = await register_talkative(durably).trigger_and_wait(timeout=20)
    told = [event async for event in durably.subscribe(done.id)]
    assert [(event.sequence, event.type) for event in told] == [
        (1, "run:trigger"),
        (2, "run:start"),
        (3, "step:complete"),
        (4, "run:complete"),
    ]
    assert isinstance(told[-1], events.RunComplete)
    assert told[-1].output == "done"
    assert [event.sequence async for event in durably.subscribe(done.id, after=2)] == [3, 4]
    with pytest.raises(errors.RunNotFoundError):
        await anext(durably.subscribe("unknown"))


async def test_t092_the_subscription_ends_with_the_run(make: Make) -> None:
    async with make(worker=False) as durably:
        job = register_talkative(durably)
        run = await job.trigger()
        hears = asyncio.create_task(_types(durably, run.id))
        await durably.cancel(run.id)
        assert (await asyncio.wait_for(hears, 20))[-1] == "run:cancel"

        stream = durably.subscribe(run.id, after=1)
        await durably.delete_run(run.id)
        async with asyncio.timeout(20):
            assert [event.type async for event in stream] == ["run:delete"]


async def test_t093_the_subscription_carries_progress_and_logs(make: Make) -> None:
    durably = make()
    job = register_talkative(durably)
    await durably.migrate()
    run = await job.trigger()
    stream = durably.subscribe(run.id)
    told = [(await anext(stream)).type]
    await durably.start()
    async with asyncio.timeout(20):
        told += [event.type async for event in stream]
    await durably.stop()
    assert told == [
        "run:trigger",
        "run:start",
        "log:write",
        "step:start",
        "log:write",
        "step:complete",
        "run:progress",
        "run:complete",
    ]


async def test_t094_use_installs_a_plugin(make: Make) -> None:
    completed: list[str] = []

    class Audit:
        def install(self, durably: Durably, /) -> None:
            durably.on("run:complete", lambda event: completed.append(event.run_id))

    durably = make()
    durably.use(Audit())
    async with durably:
        done = await register_talkative(durably).trigger_and_wait(timeout=20)
    assert completed == [done.id]


async def test_t095_with_log_persistence_keeps_lines(make: Make) -> None:
    forgetful, keeping = make(), make()
    keeping.use(with_log_persistence())
    kept: dict[str, list[str]] = {}
    for name, durably in (("without", forgetful), ("with", keeping)):
        async with durably:
            done = await register_talkative(durably).trigger_and_wait(timeout=20)
        async with make(worker=False) as reader:
            kept[name] = [line.message for line in await reader.get_logs(done.id)]
    assert kept == {"without": [], "with": ["about to count", "counting"]}


async def test_t096_a_kept_log_line(make: Make) -> None:
    durably = make()
    durably.use(with_log_persistence())
    before = datetime.now(UTC).replace(microsecond=0)
    async with durably:
        done = await register_talkative(durably).trigger_and_wait(timeout=20)
        first, second = await durably.get_logs(done.id)
    assert isinstance(second, LogEntry)
    assert first.id != second.id
    assert second.run_id == done.id
    assert (second.step_name, second.level, second.message) == ("count", "info", "counting")
    assert second.data == {"to": 3}
    assert before <= second.timestamp <= datetime.now(UTC)
