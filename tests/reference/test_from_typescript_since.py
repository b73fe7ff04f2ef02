"""What later versions of the original added."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, Literal, Required

import pytest
from pydantic import BaseModel
from typing_extensions import TypedDict

from durably import Durably, Step, Trigger, errors, events
from durably.http import Request

Make = Callable[..., Durably]


def skipped_of(told: list[events.RunCoalesced]) -> list[tuple[Any, Any]]:
    return [(event.skipped_input, dict(event.skipped_labels)) for event in told]


async def test_t112_at_most_one_run_waits_behind_a_key(durably: Durably) -> None:
    began, may_end = asyncio.Event(), asyncio.Event()
    seen: list[str] = []

    @durably.job("sync")
    async def sync(step: Step, why: str) -> str:
        seen.append(why)
        began.set()
        await may_end.wait()
        return why

    first = await sync.trigger("first", concurrency_key="k", coalesce="skip")
    await asyncio.wait_for(began.wait(), 20)
    second = await sync.trigger("second", concurrency_key="k", coalesce="skip")
    third = await sync.trigger("third", concurrency_key="k", coalesce="skip")
    assert [run.disposition for run in (first, second, third)] == [
        "created",
        "created",
        "coalesced",
    ]
    assert (third.id, third.input) == (second.id, "second")
    waiting = sync.trigger_and_wait("fourth", concurrency_key="k", coalesce="skip", timeout=20)
    batch = await sync.batch_trigger(
        [Trigger("a", concurrency_key=key, coalesce="skip") for key in ("k", "l", "l")]
    )
    assert [run.disposition for run in batch] == ["coalesced", "created", "coalesced"]
    plain = await sync.trigger("plain", concurrency_key="k")
    assert plain.disposition == "created"
    may_end.set()
    assert (await waiting).id == second.id
    await durably.wait(plain, timeout=20)
    assert seen.count("first") == seen.count("second") == 1
    assert not {"third", "fourth"} & set(seen)


async def test_t113_run_coalesced(durably: Durably) -> None:
    told: list[events.RunCoalesced] = []
    durably.on("run:coalesced", told.append)
    await durably.stop()
    idle = Durably(durably.database, worker=False, durability="process")

    @idle.job("sync")
    async def sync(step: Step, why: dict[str, int]) -> None: ...

    async with idle:
        idle.on(events.RunCoalesced, told.append)
        async with asyncio.timeout(20):
            lists = idle.subscribe_runs()
            heard = asyncio.ensure_future(anext(lists))
            await asyncio.sleep(0)
            run = await sync.trigger({"n": 1}, concurrency_key="k")
            assert isinstance(await heard, events.RunTrigger)
            again = await sync.trigger(
                {"n": 2}, concurrency_key="k", coalesce="skip", labels={"by": "hook"}
            )
            assert again.labels == {}
            reduced = await anext(lists)
            await lists.aclose()
    (event,) = told
    assert (event.run_id, event.job, event.sequence) == (run.id, "sync", None)
    assert skipped_of(told) == [({"n": 2}, {"by": "hook"})]
    assert isinstance(reduced, events.RunCoalesced)
    assert reduced.skipped_input is None


async def test_t114_run_trigger_and_run_start_tell_the_input(durably: Durably, make: Make) -> None:
    """To listeners and followers, whichever process works; a list of runs is told none."""
    kinds = (events.RunTrigger, events.RunStart)
    heard: list[Any] = []
    for kind in kinds:
        durably.on(kind, heard.append)

    @durably.job("greet")
    async def greet(step: Step, who: dict[str, str]) -> None: ...

    async with asyncio.timeout(20), make(worker=False) as other:
        listed: list[Any] = []
        lists = other.subscribe_runs()
        first = asyncio.ensure_future(anext(lists))
        greeting = other.register(greet.definition)
        run = await greeting.trigger({"name": "Ada"})
        live = [event async for event in other.subscribe(run.id) if isinstance(event, kinds)]
        listed.append(await first)
        async for event in lists:
            listed.append(event)
            if isinstance(event, events.RunComplete):
                break
        await lists.aclose()
        after = [event async for event in durably.subscribe(run.id) if isinstance(event, kinds)]
    assert [event.input for event in live] == [event.input for event in after] == [run.input] * 2
    assert [event.input for event in heard] == [run.input]  # another process triggered it
    told = [event for event in listed if isinstance(event, kinds)]
    assert [event.input for event in told] == [None, None]
    again = await greet.trigger({"name": "Bob"})
    await durably.wait(again, timeout=20)
    assert [event.input for event in heard[1:]] == [again.input] * 2


async def test_t115_as_many_runs_as_are_said(make: Make) -> None:
    durably = make(max_concurrent_runs=4)
    ran: list[int] = []

    @durably.job("count")
    async def count(step: Step, n: int) -> None:
        ran.append(n)

    await durably.migrate()
    await count.batch_trigger([*range(7)])
    assert await durably.run_until_idle(max_runs=1) == 1
    assert ran == [0]
    assert await durably.run_until_idle(5) == 5
    assert sorted(ran) == [*range(6)]
    assert len(await durably.get_runs(status="pending")) == 1
    assert [await durably.run_until_idle(max_runs=2) for _ in range(2)] == [1, 0]
    with pytest.raises(errors.ConfigurationError, match="max_runs"):
        await durably.run_until_idle(max_runs=0)
    await durably.start()
    with pytest.raises(errors.ConfigurationError, match="worker=False"):
        await durably.run_until_idle(max_runs=1)
    await durably.stop()


async def test_t116_as_many_deletions_as_are_said(make: Make) -> None:
    durably = make()

    @durably.job("count")
    async def count(step: Step) -> None: ...

    with durably.sync() as blocking:
        handle = blocking.handle(count)
        runs = handle.batch_trigger([None] * 120)
        for run in runs:
            blocking.wait(run, timeout=20)
        purges = [blocking.purge_runs(older_than=0, limit=limit) for limit in (1, 70, 70, 70)]
        with pytest.raises(errors.ConfigurationError, match="limit"):
            blocking.purge_runs(older_than=0, limit=0)
    assert purges == [1, 70, 49, 0]


async def test_t117_the_results_of_a_completed_runs_steps_may_go(make: Make) -> None:
    async with make(preserve_steps=False) as durably:
        broken = [True]

        @durably.job("add")
        async def add(step: Step, n: int) -> int:
            one = await step.run("one", lambda: n + 1)
            if broken:
                raise RuntimeError("not yet")
            return await step.run("two", lambda: one + 1)

        with pytest.raises(errors.RunFailedError) as caught:
            await add.trigger_and_wait(1, timeout=20)
        run_id = caught.value.run.id
        assert [step.output for step in await durably.get_steps(run_id)] == [2]
        broken.clear()
        await durably.retry(run_id)
        done = await durably.wait(run_id, timeout=20)
        assert (done.output, (await add.get_run(run_id)).output) == (3, 3)  # type: ignore[union-attr]
        steps = await durably.get_steps(run_id)
        told = [event async for event in durably.subscribe(run_id)]
        assert (await add.get_run(run_id)).steps_done == 2  # type: ignore[union-attr]
    assert [(step.name, step.status, step.output) for step in steps] == [
        ("one", "completed", None),
        ("two", "completed", None),
    ]
    assert [event.sequence for event in told] == [*range(1, len(told) + 1)]
    assert isinstance(told[-1], events.RunComplete)
    assert told[-1].output == 3


@pytest.mark.parametrize("options", [{"coalesce": "skip"}, {"coalesce": "latest"}])
async def test_what_cannot_be_coalesced_is_refused(durably: Durably, options: Any) -> None:
    @durably.job("sync")
    async def sync(step: Step) -> None: ...

    if options["coalesce"] != "skip":
        options = {**options, "concurrency_key": "k"}
    with pytest.raises(errors.InvalidInputError, match="coalesce"):
        await sync.trigger(**options)
    assert await durably.get_runs() == []


async def test_t118_a_run_says_how_many_steps_are_committed(durably: Durably) -> None:
    broken = [True]
    began, may_end = asyncio.Event(), asyncio.Event()

    async def third() -> None:
        began.set()
        await may_end.wait()
        if broken.pop():
            raise ValueError("the third")

    @durably.job("three")
    async def three(step: Step) -> None:
        for name in ("first", "second"):
            await step.run(name, lambda: None)
        await step.run("third", third)

    run = await three.trigger(idempotency_key="k")
    assert run.steps_done == 0
    async with asyncio.timeout(20):
        await began.wait()
    again = await three.trigger(idempotency_key="k")
    (listed,), (typed,) = await durably.get_runs(), await three.get_runs()
    assert (again.steps_done, listed.steps_done, typed.steps_done) == (2, 2, 2)
    may_end.set()
    with pytest.raises(errors.RunFailedError) as failed:
        await durably.wait(run, timeout=20)
    assert failed.value.run.steps_done == 2
    broken.append(False)
    assert (await durably.retry(run.id)).steps_done == 2
    assert (await durably.wait(run.id, timeout=20)).steps_done == 3
    plain, of_job = await durably.get_run(run.id), await three.get_run(run.id)
    assert plain is not None
    assert of_job is not None
    assert plain.steps_done == of_job.steps_done == 3
    assert (await durably.retrigger(run.id)).steps_done == 0


async def test_t119_what_listeners_and_the_worker_raise_is_received(
    durably: Durably, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    received: asyncio.Queue[events.WorkerError] = asyncio.Queue()

    @durably.on("worker:error")
    async def fails(_: events.WorkerError) -> None:
        raise OSError("the listener of errors")

    durably.on(events.WorkerError, received.put_nowait)

    @durably.on("run:start")
    def bad(_: events.RunStart) -> None:
        raise ValueError("plain")

    @durably.on("run:complete")
    async def bad_too(_: events.RunComplete) -> None:
        raise ValueError("async")

    @durably.job("simple")
    async def simple(step: Step) -> None: ...

    async def next_of(where: str) -> events.WorkerError:
        while (error := await received.get()).where != where:
            pass
        return error

    async with asyncio.timeout(20):
        done = await simple.trigger_and_wait()
        for text in ("plain", "async"):
            error = await received.get()
            assert (error.where, str(error.error), error.run_id) == ("listener", text, done.id)
        store = durably._engine.store  # pyright: ignore[reportPrivateUsage]

        async def broken(*_: Any, **__: Any) -> Any:
            raise OSError("broken")

        with monkeypatch.context() as patch:
            patch.setattr(store, "settle", broken)
            run = await simple.trigger()
            assert (await next_of("settle")).run_id == run.id
        with monkeypatch.context() as patch:
            patch.setattr(store, "claim", broken)
            await simple.trigger()
            claim = await next_of("claim")
        assert (claim.run_id, str(claim.error)) == (None, "broken")
        with monkeypatch.context() as patch:
            patch.setattr(durably._engine.session.worker._takeover, "note_running", lambda: 1 / 0)  # pyright: ignore[reportPrivateUsage]
            assert isinstance((await next_of("heartbeat")).error, ZeroDivisionError)
        await durably.stop()
    assert "a listener of worker:error failed" in caplog.text
    while not received.empty():
        assert "the listener of errors" not in str(received.get_nowait().error)


class ModelOfLabels(BaseModel):
    org: str
    env: Literal["test", "live"] = "test"


class DictOfLabels(TypedDict, total=False):
    org: Required[str]
    env: Literal["test", "live"]


@pytest.mark.parametrize("schema", [ModelOfLabels, DictOfLabels])
async def test_t120_a_schema_for_labels(make: Make, schema: Any) -> None:
    async with make(labels=schema, worker=False) as durably:

        @durably.job("labeled")
        async def labeled(step: Step) -> None: ...

        run = await labeled.trigger(labels={"org": "one", "env": "live"})
        assert run.labels == {"org": "one", "env": "live"}
        assert (await labeled.trigger(labels={"org": "one"})).labels == {"org": "one"}
        assert (await labeled.trigger()).labels == {}
        wrong = [("env", {"org": "one", "env": "dev"}), ("org", {"env": "live"})]
        for name, labels in [*wrong, ("orgg", {"org": "one", "orgg": "one"})]:
            with pytest.raises(errors.InvalidInputError, match=f"label '{name}'"):
                await labeled.trigger(labels=labels)
        handler = durably.handler()
        body = json.dumps({"jobName": "labeled", "input": None, "labels": {"env": "live"}}).encode()
        headers = {"content-type": "application/json", "host": "localhost"}
        request = Request("POST", "/trigger", (), headers, body, "127.0.0.1")
        answer = await handler.handle(request)
        assert answer.status == 400
        assert isinstance(answer.body, bytes)
        assert b"label 'org'" in answer.body
        assert len(await durably.get_runs()) == 3
    with pytest.raises(errors.ConfigurationError, match="labels"):
        make(labels=int)
