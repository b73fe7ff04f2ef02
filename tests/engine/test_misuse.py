"""What is easily written wrong says so: at once where it can, and never in silence."""

import asyncio
import functools
from functools import partial
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, ConfigDict

from durably import CompletedRun, Durably, Run, Step, SyncStep, errors, job


@pytest.fixture
async def durably(tmp_path):
    async with Durably(tmp_path / "jobs.db", polling_interval=0.05) as durably:
        yield durably


# -- the output of a completed run


async def test_a_completed_run_is_of_a_class_of_its_own_however_it_is_read(durably):
    @durably.job("double")
    async def double(step: Step, n: int) -> int:
        if n < 0:
            raise ValueError(n)
        return 2 * n

    done = await double.trigger_and_wait(2, timeout=20)
    assert isinstance(done, CompletedRun)
    assert done.output == 4
    pending = await double.trigger(-1)
    assert type(pending) is Run
    assert isinstance(await durably.wait(done), CompletedRun)
    assert [type(run) for run in await durably.get_runs(status="completed")] == [CompletedRun]
    assert await double.get_run(done.id) == await durably.wait(done)
    with pytest.raises(errors.RunFailedError) as failed:
        await durably.wait(pending, 20)
    assert type(failed.value.run) is Run


# -- jobs without parentheses


async def test_a_job_without_a_name_has_that_of_its_function(durably):
    @durably.job
    async def import_csv(step: Step, n: int) -> int:
        return n

    @durably.job()
    async def _clean_up(step: Step) -> int:
        return 2

    @durably.job(name="named")
    async def other(step: Step) -> int:
        return 3

    async def send_mail(step: Step) -> int:
        return 4

    handles = [import_csv, _clean_up, other, durably.register(send_mail)]
    assert [handle.name for handle in handles] == ["import-csv", "clean-up", "named", "send-mail"]
    assert list(durably.jobs) == [handle.name for handle in handles]
    assert durably.register(send_mail) is handles[3], "the same function twice is fine"
    assert (await import_csv.trigger_and_wait(1, timeout=20)).output == 1
    assert (await durably.register(send_mail).trigger_and_wait(timeout=20)).output == 4


def test_a_pure_job_without_a_name_has_that_of_its_function():
    @job
    def import_csv(step: SyncStep, n: int) -> int:
        return n

    @job()
    async def clean_up(step: Step) -> None: ...

    def plain(step):
        return None

    assert (import_csv.name, clean_up.name) == ("import-csv", "clean-up")
    durably = Durably(":memory:", jobs=[import_csv, plain])
    assert list(durably.jobs) == ["import-csv", "plain"]
    assert durably.sync().register(plain).name == "plain"


class Importer:
    async def __call__(self, step: Step) -> None: ...

    async def run_all(self, step: Step) -> None: ...


def test_a_method_gives_its_job_its_name():
    assert job(Importer().run_all).name == "run-all"


async def _(step: Step) -> None: ...


@pytest.mark.parametrize(
    "fn", [lambda step: None, Importer(), functools.partial(Importer().run_all), Importer, _]
)
def test_what_has_no_name_for_a_job_is_refused(fn):
    durably = Durably(":memory:")
    for make in (job, job(), durably.job, durably.job(), durably.register):
        with pytest.raises(
            errors.ConfigurationError, match=r"has no name .* pass one, as in job\("
        ):
            make(fn)
    assert not durably.jobs


def test_what_is_no_function_is_refused_by_register():
    durably = Durably(":memory:")
    made = job("made")(lambda step: None)
    with pytest.raises(
        errors.ConfigurationError, match=r"'made' is a job already; durably.register"
    ):
        durably.job(made)
    with pytest.raises(errors.ConfigurationError, match=r"a handle of a job|the handle of a job"):
        durably.register(Durably(":memory:").register(made))
    with pytest.raises(errors.ConfigurationError, match="another job is already registered as"):
        durably.register(made)
        durably.register(job("made")(lambda step: 1))


# -- the step of the other kind of job


def test_an_async_job_that_is_annotated_sync_step_is_refused():
    async def wrong(step: SyncStep, n: int) -> int:
        return n

    async def by_text(it: "SyncStep") -> int:
        return 1

    async def not_found(it: "somewhere.SyncStep") -> int:  # noqa: F821
        return 1

    async def noted(it: Annotated[SyncStep, "noted"]) -> int:
        return 1

    for fn in (wrong, by_text, not_found, noted, functools.partial(wrong, n=1)):
        for make in (job("x"), Durably(":memory:").job("x")):
            with pytest.raises(errors.ConfigurationError) as refused:
                make(fn)
            assert str(refused.value).startswith(
                "job 'x' is 'async def', which gets a Step, but its "
            )
            assert str(refused.value).endswith(
                "is annotated SyncStep; annotate it Step and await its calls, or make the job a plain 'def'"
            )


def test_a_plain_job_that_is_annotated_step_is_refused():
    def wrong(step: Step) -> int:
        return 1

    def by_text(step: "Step") -> int:
        return 1

    for fn in (wrong, by_text, functools.wraps(wrong)(lambda *args: wrong(*args))):
        with pytest.raises(errors.ConfigurationError) as refused:
            job("x")(fn)
        assert str(refused.value) == (
            "job 'x' is a plain 'def', which gets a SyncStep, but its parameter 'step' is annotated Step; "
            "annotate it SyncStep, or make the job 'async def'"
        )


def test_an_input_where_the_step_is_expected_is_refused():
    class Order(BaseModel):
        id: int

    async def number(n: int) -> int:
        return n

    async def order(order: Order) -> None: ...
    def rows(rows: list[int]) -> None: ...

    for fn, right in (
        (number, "(step: Step, n"),
        (order, "(step: Step, order"),
        (rows, "SyncStep, rows"),
    ):
        with pytest.raises(
            errors.ConfigurationError, match=r"takes \(step\) or \(step, input\)"
        ) as refused:
            job("x")(fn)
        assert right in str(refused.value)


def test_a_step_that_is_not_annotated_or_is_either_is_fine():
    async def bare(step): ...
    def plain(step): ...
    async def either(step: "Step | SyncStep"): ...
    async def anything(step: Any): ...
    async def unknown(step: "NotThere"): ...  # noqa: F821

    assert [job("x")(fn).is_sync for fn in (bare, plain, either, anything, unknown)] == [
        False, True, False, False, False,
    ]  # fmt: skip


# -- a required input


async def test_a_run_without_an_input_that_its_job_needs_is_refused(durably):
    @durably.job
    async def double(step: Step, number: int) -> int:
        return 2 * number

    @durably.job
    async def maybe(step: Step, number: int | None) -> int | None:
        return number

    @durably.job
    async def bare(step, rows):
        return rows

    wanted = (
        "job '{}' needs an input for its parameter '{}'; pass one, or give the parameter a default"
    )
    for handle, parameter in ((double, "number"), (maybe, "number"), (bare, "rows")):
        for trigger in (handle.trigger, handle.trigger_and_wait):
            with pytest.raises(errors.InvalidInputError) as refused:
                await trigger(labels={"a": "b"})
            assert str(refused.value) == wanted.format(handle.name, parameter)
    with pytest.raises(errors.InvalidInputError, match=r"item 1: the input of job 'double'"):
        await double.batch_trigger([1, None])
    assert await durably.get_runs() == []
    assert (await maybe.trigger_and_wait(None, timeout=20)).output is None


def test_a_blocking_trigger_without_an_input_says_the_same(tmp_path):
    durably = Durably(tmp_path / "jobs.db", worker=False)

    @durably.job
    def double(step: SyncStep, number: int) -> int:
        return 2 * number

    with durably.sync() as d:
        for trigger in (partial(d.trigger, double), d.handle(double).trigger):
            with pytest.raises(errors.InvalidInputError, match=r"needs an input for .* 'number'"):
                trigger()


# -- steps that are not awaited


def record(calls: list[str], name: str) -> str:
    calls.append(name)
    return name


async def failure_of(durably, handle) -> Any:
    run = await handle.trigger()
    with pytest.raises(errors.RunFailedError):
        await durably.wait(run, 20)
    return (await durably.get_run(run.id)).error


async def test_a_job_that_forgets_to_await_a_step_fails_and_names_it(durably):
    calls: list[str] = []

    @durably.job
    async def forgets(step: Step) -> str:
        await step.run("first", record, calls, "first")
        step.run("second", record, calls, "second")
        return await step.run("third", record, calls, "third")

    @durably.job
    async def returns(step: Step) -> Any:
        return step.run("second", record, calls, "second")

    @durably.job
    async def collects(step: Step) -> Any:
        return [step.run(f"step-{i}", record, calls, "never") for i in range(3)]

    @durably.job
    async def transacts(step: Step) -> None:
        step.transaction("second", lambda connection: calls.append("never"))

    for handle, name in (
        (forgets, "second"), (returns, "second"), (collects, "step-0"), (transacts, "second"),
    ):  # fmt: skip
        error = await failure_of(durably, handle)
        assert error.type == "UnawaitedStepError"
        assert error.message.startswith(f"step {name!r} of run ")
        assert (
            f"({handle.name}) did not run, for it was never awaited; write 'await" in error.message
        )
    assert calls == ["first", "third"]


async def test_tasks_and_gathered_steps_are_awaited_or_not(durably):
    calls: list[str] = []

    @durably.job
    async def gathers(step: Step) -> Any:
        one = asyncio.create_task(step.run("one", record, calls, "one"))
        two, three = await asyncio.gather(
            step.run("two", record, calls, "two"), step.run("three", record, calls, "three")
        )
        return [await one, two, three]

    @durably.job
    async def gives_up(step: Step) -> str:
        asyncio.create_task(step.run("given-up", record, calls, "never")).cancel()
        step.run("closed", record, calls, "never").close()
        return "done"

    @durably.job
    async def leaves(step: Step) -> None:
        tasks.append(asyncio.create_task(step.run("left", record, calls, "never")))

    tasks: list[asyncio.Task[str]] = []
    assert (await gathers.trigger_and_wait(timeout=20)).output == ["one", "two", "three"]
    assert (await gives_up.trigger_and_wait(timeout=20)).output == "done"
    error = await failure_of(durably, leaves)
    assert (error.type, "step 'left' of run" in error.message) == ("UnawaitedStepError", True)
    with pytest.raises(errors.DurablyError, match="by a task left behind"):
        await tasks[0]
    assert sorted(calls) == ["one", "three", "two"]


async def test_a_job_that_fails_for_a_forgotten_await_is_told_which_it_was(durably):
    @durably.job
    async def counts(step: Step) -> int:
        rows = step.run("rows", lambda: [1, 2])
        return len(rows)  # type: ignore[arg-type]

    error = await failure_of(durably, counts)
    assert (error.type, error.message) == ("TypeError", "object of type 'coroutine' has no len()")
    assert "step 'rows' did not run, for it was never awaited; write 'await step" in error.traceback


# -- keyword arguments of a step's function


def convert(amount: int, *, currency: str = "usd") -> str:
    return f"{amount} {currency}"


async def test_keyword_arguments_of_a_steps_function_are_refused_with_the_way_to_bind_them(durably):
    @durably.job
    async def asynchronous(step: Step) -> str:
        return await step.run("convert", convert, 5, currency="eur")

    @durably.job
    def plain(step: SyncStep) -> str:
        return step.run("convert", convert, 5, currency="eur")

    @durably.job
    async def transacts(step: Step) -> str:
        return await step.transaction("convert", convert, currency="eur")

    @durably.job
    async def binds(step: Step) -> str:
        return await step.run("convert", partial(convert, currency="eur"), 5)

    for handle, method in ((asynchronous, "run"), (plain, "run"), (transacts, "transaction")):
        error = await failure_of(durably, handle)
        assert error.type == "TypeError"
        assert error.message == (
            f"step 'convert': step.{method}() passes no keyword arguments to its function; bind them, as "
            f"in step.{method}('convert', functools.partial(convert, currency=...))"
        )
    assert (await binds.trigger_and_wait(timeout=20)).output == "5 eur"


async def test_a_step_that_is_given_what_its_function_returns_says_what_to_pass(durably):
    @durably.job
    async def asynchronous(step: Step) -> str:
        return await step.run("sleep", asyncio.sleep(5, "done"), retries=3)

    @durably.job
    def plain(step: SyncStep) -> str:
        return step.run("sleep", convert(5))

    for handle, given in ((asynchronous, "a coroutine"), (plain, "a str")):
        error = await failure_of(durably, handle)
        assert (error.type, error.step) == ("ConfigurationError", "sleep")
        assert f"its function is {given}; pass the function and its arguments" in error.message


# -- waiting within a job


async def test_a_job_that_waits_for_a_run_is_warned_of_once(durably, caplog):
    @durably.job
    async def inner(step: Step) -> int:
        return 1

    @durably.job
    async def outer(step: Step) -> int:
        first = await inner.trigger_and_wait(timeout=20)
        return first.output + (await durably.wait(await inner.trigger(), 20)).output

    assert (await outer.trigger_and_wait(timeout=20)).output == 2
    assert (await outer.trigger_and_wait(timeout=20)).output == 2
    (warning,) = [r.getMessage() for r in caplog.records if "waits for run" in r.getMessage()]
    assert "(outer) waits for run " in warning
    assert "it holds one of 10 slots (max_concurrent_runs) meanwhile" in warning


def test_a_plain_job_that_waits_for_a_run_is_warned_of_once(tmp_path, caplog):
    durably = Durably(tmp_path / "jobs.db", polling_interval=0.05)

    @durably.job
    def inner(step: SyncStep) -> int:
        return 1

    @durably.job
    def outer(step: SyncStep) -> int:
        return durably.sync().trigger_and_wait(inner, timeout=20).output

    with durably.sync() as d:
        assert d.trigger_and_wait(outer, timeout=20).output == 1
        assert d.trigger_and_wait(outer, timeout=20).output == 1
    assert ["(outer) waits for run" in record.getMessage() for record in caplog.records] == [True]


# -- filters of few values


async def test_a_status_that_there_is_not_is_refused_with_those_that_there_are(durably):
    @durably.job
    async def nothing(step: Step) -> None: ...

    for list_runs in (durably.get_runs, nothing.get_runs):
        with pytest.raises(ValueError, match=r"pending, running, .*failed, cancelled; not 'fail'"):
            await list_runs(status="fail")


# -- inputs


class Order(BaseModel):
    count: int


class LaxOrder(BaseModel):
    model_config = ConfigDict(strict=False, extra="ignore")
    count: int


async def test_an_input_is_strict_unless_its_job_or_its_model_is_lax(durably):
    async def body(step: Step, order: Order) -> int:
        return order.count

    strict, lax = job("strict")(body), job("lax", lax=True)(body)
    given: Any = {"count": "5", "cuont": 6}

    @durably.job
    async def of_a_lax_model(step: Step, order: LaxOrder) -> int:
        return order.count

    with pytest.raises(errors.InvalidInputError) as refused:
        await durably.register(strict).trigger(given)
    assert refused.value.path == "$.count"
    with pytest.raises(errors.InvalidInputError, match=r"Extra inputs are not permitted at \$.x"):
        await durably.register(strict).trigger({"count": 5, "x": 1})  # type: ignore[arg-type]
    for handle in (durably.register(lax), of_a_lax_model):
        assert (await handle.trigger_and_wait(given, timeout=20)).output == 5
    with pytest.raises(errors.ConfigurationError, match="lax must be True or False, not 'no'"):
        durably.job("x", lax="no")  # type: ignore[arg-type]


async def test_what_was_stored_before_runs_and_is_retriggered(tmp_path):
    """A run that was admitted by other rules: with an unknown key, and text for a number."""

    async def body(step: Step, order: Order) -> int:
        return order.count

    async with Durably(
        tmp_path / "jobs.db", jobs=[job("take", lax=True)(dict_of)], worker=False
    ) as before:
        run = await before.jobs["take"].trigger({"count": "5", "x": 1})
    async with Durably(tmp_path / "jobs.db", jobs=[job("take")(body)]) as after:
        assert (await after.wait(run.id, 20)).output == 5
        again = await after.retrigger(run.id)
        assert (await after.wait(again.id, 20)).output == 5


async def dict_of(step: Step, order: dict[str, Any]) -> int:
    return 0
