"""Jobs: how they are made and registered."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date

import pytest
from pydantic import BaseModel

from durably import Durably, Job, JobHandle, Step, SyncStep, errors, job

Make = Callable[..., Durably]


class Order(BaseModel):
    number: int


class Receipt(BaseModel):
    total: int


@job("charge")
async def charge(step: Step, order: Order) -> Receipt:
    return Receipt(total=order.number * 10)


@job("greet")
async def greet(step: Step) -> str:
    return "hello"


async def test_t010_a_job_belongs_to_no_instance(tmp_path) -> None:
    for name in ("a.db", "b.db"):
        durably = Durably(tmp_path / name, polling_interval=0.05)
        handle = durably.register(charge)
        async with durably:
            assert (await handle.trigger_and_wait(Order(number=1), timeout=20)).output.total == 10


async def test_t011_the_name_is_unique_in_an_instance(durably: Durably) -> None:
    durably.register(charge)
    assert durably.register(charge).name == "charge", "the same job twice is fine"

    @job("charge")
    async def impostor(step: Step) -> None: ...

    with pytest.raises(errors.ConfigurationError, match="'charge'"):
        durably.register(impostor)
    for bad in ("", "x" * 256, "a\nb"):
        with pytest.raises(errors.ConfigurationError):
            job(bad)(impostor.fn)


async def test_t012_the_input_type_is_an_annotation(durably: Durably) -> None:
    seen: list[object] = []

    @durably.job("typed")
    async def typed(step: Step, day: date) -> None:
        seen.append(day)

    @durably.job("plain")
    async def plain(step: Step, input) -> None:
        seen.append(input)

    await typed.trigger_and_wait(date(2026, 1, 2), timeout=20)
    await plain.trigger_and_wait({"rows": [1, None]}, timeout=20)
    assert seen == [date(2026, 1, 2), {"rows": [1, None]}]


async def test_t013_the_output_type_is_the_return_annotation(durably: Durably) -> None:
    @durably.job("plain")
    async def plain(step: Step):
        return {"total": 3}

    typed = durably.register(charge)
    assert (await typed.trigger_and_wait(Order(number=2), timeout=20)).output == Receipt(total=20)
    assert (await plain.trigger_and_wait(timeout=20)).output == {"total": 3}


async def test_t014_an_output_that_does_not_fit_fails_the_run(durably: Durably) -> None:
    @durably.job("wrong")
    async def wrong(step: Step) -> Receipt:
        return {"total": 3}  # type: ignore[return-value]

    @durably.job("lossy")
    async def lossy(step: Step):
        return {"day": date(2026, 1, 2)}

    for handle, path in ((wrong, "$"), (lossy, "$.day")):
        with pytest.raises(errors.RunFailedError) as caught:
            await handle.trigger_and_wait(timeout=20)
        error = caught.value.run.error
        assert error is not None
        assert error.type == "InvalidOutputError"
        assert f"at {path}" in error.message
        assert caught.value.run.output is None


async def test_t015_an_async_or_a_plain_function_is_the_job(durably: Durably) -> None:
    @durably.job("plain")
    def plain(step: SyncStep, input: int) -> int:
        assert isinstance(step, SyncStep)
        return step.run("double", lambda: input * 2)

    @durably.job("async")
    async def asynchronous(step: Step, input: int) -> int:
        assert isinstance(step, Step)
        return await step.run("double", lambda: input * 2)

    assert (await plain.trigger_and_wait(4, timeout=20)).output == 8
    assert (await asynchronous.trigger_and_wait(4, timeout=20)).output == 8


async def test_t016_a_job_may_take_no_input(durably: Durably) -> None:
    handle = durably.register(greet)
    done = await handle.trigger_and_wait(timeout=20)
    assert (done.input, done.output) == (None, "hello")
    with pytest.raises(errors.InvalidInputError):
        await handle.trigger({"unexpected": 1})  # type: ignore[arg-type]


async def test_t017_the_instance_defines_and_registers_in_one(durably: Durably) -> None:
    @durably.job("add")
    async def add(step: Step, numbers: list[int]) -> int:
        return sum(numbers)

    assert isinstance(add, JobHandle)
    assert durably.get_job("add") is add
    assert (await add.trigger_and_wait([1, 2, 3], timeout=20)).output == 6


async def test_t018_register_gives_the_handle(durably: Durably) -> None:
    handle = durably.register(charge)
    assert isinstance(handle, JobHandle)
    run = await handle.trigger_and_wait(Order(number=3), timeout=20)
    assert isinstance(run.input, Order)
    assert isinstance(run.output, Receipt)


async def test_t019_several_jobs_are_registered_one_by_one(durably: Durably) -> None:
    handles = {"charge": durably.register(charge), "greet": durably.register(greet)}
    assert durably.jobs == handles
    assert (await handles["greet"].trigger_and_wait(timeout=20)).output == "hello"
    assert (await handles["charge"].trigger_and_wait(Order(number=1), timeout=20)).output


async def test_t020_jobs_may_be_given_to_the_instance(make: Make) -> None:
    async with make(jobs=[charge, greet]) as durably:
        assert set(durably.jobs) == {"charge", "greet"}
        handle = durably.register(greet)
        assert handle is durably.get_job("greet")
        assert (await handle.trigger_and_wait(timeout=20)).output == "hello"


async def test_t021_get_job_by_name(durably: Durably) -> None:
    durably.register(greet)
    found = durably.get_job("greet")
    assert found is not None
    assert (await found.trigger_and_wait(timeout=20)).output == "hello"
    assert durably.get_job("unknown") is None


async def test_t022_the_handle_has_the_name(durably: Durably) -> None:
    assert durably.register(charge).name == "charge"


def test_t023_a_definition_is_a_job_value() -> None:
    assert isinstance(charge, Job)
    assert (charge.name, charge.takes_input, charge.is_sync) == ("charge", True, False)
    assert charge.input.schema()["properties"].keys() == {"number"}
    assert charge.output.schema()["properties"].keys() == {"total"}
    with pytest.raises(AttributeError):
        charge.name = "other"  # type: ignore[misc]
