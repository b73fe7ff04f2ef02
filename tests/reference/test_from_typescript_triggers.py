"""Triggering: keys, waiting, batches."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable

import pytest
from pydantic import BaseModel

from durably import (
    Durably,
    JobHandle,
    Progress,
    Run,
    Step,
    Trigger,
    errors,
    events,
    with_log_persistence,
)

Make = Callable[..., Durably]


class Order(BaseModel):
    number: int


def register_charge(durably: Durably) -> JobHandle[Order, int]:
    @durably.job("charge")
    async def charge(step: Step, order: Order) -> int:
        return order.number * 10

    return charge


class Overlaps:
    """Records who started, and how many were inside at once."""

    def __init__(self) -> None:
        self.started: list[int] = []
        self.inside = self.most = 0

    async def stay(self, number: int) -> None:
        self.started.append(number)
        self.inside += 1
        self.most = max(self.most, self.inside)
        await asyncio.sleep(0.02)
        self.inside -= 1


async def test_t024_trigger_returns_the_pending_run(durably: Durably) -> None:
    release = asyncio.Event()

    @durably.job("slow")
    async def slow(step: Step) -> str:
        await release.wait()
        return "done"

    run = await slow.trigger()
    assert run.status == "pending"
    assert await durably.get_run(run.id) is not None
    release.set()
    assert (await durably.wait(run, timeout=20)).output == "done"


async def test_t025_an_invalid_input_stores_nothing(durably: Durably) -> None:
    charge = register_charge(durably)

    @durably.job("plain")
    async def plain(step: Step, input) -> None: ...

    with pytest.raises(errors.InvalidInputError) as caught:
        await charge.trigger({"number": "many"})  # type: ignore[arg-type]
    assert caught.value.path == "$.number"
    with pytest.raises(errors.InvalidInputError) as caught:
        await plain.trigger({"pair": (1, 2)})
    assert caught.value.path == "$.pair"
    assert await durably.get_runs() == []


async def test_t026_idempotency_key_makes_one_run(durably: Durably) -> None:
    charge = register_charge(durably)

    @durably.job("other")
    async def other(step: Step) -> None: ...

    triggers = [charge.trigger(Order(number=1), idempotency_key="abc") for _ in range(10)]
    runs = await asyncio.gather(*triggers)
    assert len({run.id for run in runs}) == 1
    assert [run.disposition for run in runs].count("created") == 1
    assert [run.disposition for run in runs].count("idempotent") == 9
    elsewhere = await other.trigger(idempotency_key="abc")
    assert elsewhere.disposition == "created", "a key belongs to its job"


async def test_t027_a_known_key_gives_its_run_whatever_the_status(durably: Durably) -> None:
    @durably.job("any")
    async def any_end(step: Step, end: str) -> None:
        if end == "failed":
            raise ValueError("no")
        if end == "cancelled":
            await asyncio.Event().wait()

    for end in ("completed", "failed", "cancelled"):
        run = await any_end.trigger(end, idempotency_key=end)
        if end == "cancelled":
            await durably.cancel(run.id)
        with pytest.raises(errors.DurablyError) if end != "completed" else _nothing():
            await durably.wait(run, timeout=20)
        again = await any_end.trigger(end, idempotency_key=end)
        assert (again.id, again.status) == (run.id, end)


class _nothing:
    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...


async def test_t028_a_concurrency_key_serializes(make: Make) -> None:
    async with make(max_concurrent_runs=8) as durably:
        keyed, free = Overlaps(), Overlaps()

        @durably.job("keyed")
        async def with_key(step: Step, number: int) -> None:
            await keyed.stay(number)

        @durably.job("free")
        async def without_key(step: Step, number: int) -> None:
            await free.stay(number)

        runs: list[Run[int, None]] = []
        for number in range(6):
            runs.append(await with_key.trigger(number, concurrency_key="user_1"))
            runs.append(await without_key.trigger(number))
        for run in runs:
            await durably.wait(run, timeout=20)
        assert keyed.most == 1
        assert free.most > 1, "others are not held up"


async def test_t029_a_concurrency_key_spans_jobs(make: Make) -> None:
    async with make() as durably:
        overlaps = Overlaps()

        @durably.job("a")
        async def a(step: Step, number: int) -> None:
            await overlaps.stay(number)

        @durably.job("b")
        async def b(step: Step, number: int) -> None:
            await overlaps.stay(number)

        runs = [
            await job.trigger(number, concurrency_key="user_1")
            for number in range(3)
            for job in (a, b)
        ]
        for run in runs:
            await durably.wait(run, timeout=20)
        assert overlaps.most == 1
        assert sorted(overlaps.started) == [0, 0, 1, 1, 2, 2]


async def test_t030_a_key_serves_its_runs_in_order(make: Make) -> None:
    async with make() as durably:
        overlaps = Overlaps()

        @durably.job("keyed")
        async def keyed(step: Step, number: int) -> None:
            await overlaps.stay(number)

        runs = [await keyed.trigger(number, concurrency_key="k") for number in range(10)]
        for run in runs:
            await durably.wait(run, timeout=20)
        assert overlaps.started == list(range(10))


async def test_t031_trigger_and_wait_gives_the_completed_run(durably: Durably) -> None:
    done = await register_charge(durably).trigger_and_wait(Order(number=2), timeout=20)
    assert done.status == "completed"
    assert done.output == 20
    stored = await durably.get_run(done.id)
    assert stored is not None
    assert stored.output == 20


async def test_t032_a_timeout_leaves_the_run_going(durably: Durably) -> None:
    release = asyncio.Event()

    @durably.job("slow")
    async def slow(step: Step) -> str:
        await release.wait()
        return "done"

    with pytest.raises(errors.WaitTimeoutError) as caught:
        await slow.trigger_and_wait(timeout=0.2)
    late = caught.value.run
    assert not late.is_final
    release.set()
    assert (await durably.wait(late.id, timeout=20)).output == "done"


async def test_t033_a_failed_run_is_raised(durably: Durably) -> None:
    @durably.job("boom")
    async def boom(step: Step) -> None:
        raise ValueError("no such customer")

    with pytest.raises(errors.RunFailedError, match="no such customer") as caught:
        await boom.trigger_and_wait(timeout=20)
    assert caught.value.run.status == "failed"

    @durably.job("endless")
    async def endless(step: Step) -> None:
        await asyncio.Event().wait()

    run = await endless.trigger()
    waiting = asyncio.create_task(durably.wait(run, timeout=20))
    await durably.cancel(run.id)
    with pytest.raises(errors.RunCancelledError):
        await waiting


async def test_t034_a_batch_is_stored_whole_or_not_at_all(durably: Durably) -> None:
    charge = register_charge(durably)
    runs = await charge.batch_trigger([Order(number=n) for n in range(5)])
    assert [run.input.number for run in runs] == list(range(5))
    assert [(await durably.wait(run, timeout=20)).output for run in runs] == [0, 10, 20, 30, 40]

    wrong = [Order(number=9), {"number": "many"}, Order(number=9)]
    with pytest.raises(errors.InvalidInputError, match="item 1"):
        await charge.batch_trigger(wrong)  # type: ignore[arg-type]
    assert len(await durably.get_runs()) == 5


async def test_t035_a_batch_item_may_have_options(durably: Durably) -> None:
    charge = register_charge(durably)
    first, second, third = await charge.batch_trigger(
        [
            Trigger(Order(number=1), idempotency_key="k", concurrency_key="c"),
            Order(number=2),
            Trigger(Order(number=3), labels={"tenant": "a"}),
        ]
    )
    assert (first.idempotency_key, first.concurrency_key) == ("k", "c")
    assert (second.idempotency_key, second.labels) == (None, {})
    assert third.labels == {"tenant": "a"}
    (again,) = await charge.batch_trigger([Trigger(Order(number=1), idempotency_key="k")])
    assert again.id == first.id


async def test_t036_the_options_of_a_trigger(durably: Durably) -> None:
    told: list[str] = []
    durably.on(events.RunTrigger, lambda event: told.append(event.run_id))
    options = {"idempotency_key", "concurrency_key", "coalesce", "labels", "scope"}
    accepted = inspect.signature(JobHandle.trigger_and_wait).parameters
    assert {name for name in accepted if name not in ("self", "input")} == options | {
        "timeout",
        "on_progress",
        "on_log",
    }
    assert set(inspect.signature(Trigger).parameters) == options | {"input"}

    run = await register_charge(durably).trigger(
        Order(number=1), idempotency_key="i", concurrency_key="c", labels={"x": "y"}, scope="org"
    )
    assert (run.idempotency_key, run.concurrency_key) == ("i", "c")
    assert (run.labels, run.scope) == ({"x": "y"}, "org")
    assert told == [run.id]


async def test_t110_progress_and_log_lines_are_told_while_waiting(durably: Durably) -> None:
    progress: list[Progress] = []
    lines: list[str] = []
    durably.use(with_log_persistence())  # none is missed, however early it is written

    @durably.job("told")
    async def told(step: Step) -> int:
        for i in range(3):
            step.progress(i + 1, 3)
            step.log.info(("first", "second", "third")[i])
            await step.run(f"step-{i}", lambda: None)
        return 3

    def log(event: events.LogWrite) -> None:
        lines.append(event.message)

    done = await told.trigger_and_wait(timeout=20, on_progress=progress.append, on_log=log)
    assert done.output == 3
    assert progress[-1] == Progress(3, 3)
    assert lines == ["first", "second", "third"]

    def stop(_: Progress) -> None:
        raise TimeoutError("enough")

    with pytest.raises(TimeoutError, match="enough"):
        await told.trigger_and_wait(timeout=20, on_progress=stop)
    with pytest.raises(errors.WaitTimeoutError):
        await durably.wait((await told.trigger()).id, timeout=0, on_log=log)


async def test_t111_a_run_that_was_waited_for_keeps_its_disposition(durably: Durably) -> None:
    charge = register_charge(durably)
    first = await charge.trigger_and_wait(Order(number=1), idempotency_key="k", timeout=20)
    again = await charge.trigger_and_wait(Order(number=1), idempotency_key="k", timeout=20)
    assert (first.disposition, again.disposition) == ("created", "idempotent")
    assert first.id == again.id
