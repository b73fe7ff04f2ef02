"""What may be a job and a step, and what is said of what may not."""

import functools
from typing import Any, Self

import pytest
from pydantic import BaseModel

from durably import Retry, Step, SyncStep, errors, job


class Import:
    """A job with what it needs."""

    def __init__(self, n: int) -> None:
        self.n = n

    async def __call__(self, step: Step) -> int:
        return await step.run("a", lambda: self.n)

    async def method(self, step: Step) -> int:
        return await self(step)


class Plain:
    def __call__(self, step: SyncStep, n: int) -> int:
        return step.run("a", lambda: n)


def audited(fn):
    @functools.wraps(fn)
    def inner(*args):
        return fn(*args)

    return inner


async def asynchronous(step: Step) -> int:
    return await step.run("a", lambda: 7)


@pytest.mark.parametrize(
    "fn",
    [
        Import(7), Import(7).method, functools.partial(Import(7)), audited(asynchronous), audited(Import(7)),
        functools.partial(audited(functools.partial(asynchronous))),
    ],
)  # fmt: skip
async def test_a_job_is_asynchronous_however_it_is_wrapped(make, fn):
    made = job("wrapped")(fn)
    assert not made.is_sync
    handle = (await make()).register(made)
    assert (await handle.trigger_and_wait(timeout=20)).output == 7


async def test_a_job_is_plain_however_it_is_wrapped(make):
    durably = await make()
    for i, fn in enumerate([Plain(), functools.partial(Plain()), audited(Plain().__call__)]):
        made = job(f"plain-{i}")(fn)
        assert made.is_sync
        assert (await durably.register(made).trigger_and_wait(5, timeout=20)).output == 5


def test_a_generator_is_no_job():
    async def several(step: Step) -> Any:
        yield 1

    def some(step: SyncStep) -> Any:
        yield 1

    for fn in (several, some, functools.partial(some)):
        with pytest.raises(errors.ConfigurationError, match=r"job 'x': .* is a generator"):
            job("x")(fn)


async def test_a_job_that_returns_what_it_should_have_awaited_says_so(make):
    durably = await make()

    @durably.job("plain")
    def plain(step):
        return asynchronous(step)

    @durably.job("async")
    async def forgets(step: Step):
        return asynchronous(step)

    for handle, how in ((plain, "make the job 'async def' and await it"), (forgets, "await it")):
        with pytest.raises(errors.RunFailedError) as failed:
            await handle.trigger_and_wait(timeout=20)
        assert failed.value.run.error.type == "InvalidOutputError"
        assert failed.value.run.error.message.endswith(
            f"returned a coroutine, which is not awaited; {how}"
        )


async def test_a_step_of_a_plain_job_that_is_used_on_the_loop_says_so(make):
    durably = await make()

    async def helper(step: SyncStep) -> int:
        return step.run("a", lambda: 1)

    @durably.job("plain")
    def plain(step: SyncStep) -> int:
        return step.run("outer", helper, step)

    with pytest.raises(errors.RunFailedError, match="used on the event loop"):
        await plain.trigger_and_wait(timeout=20)


# -- inputs by default


class Options(BaseModel):
    full: bool = False


async def test_an_input_that_is_not_given_is_the_default(make):
    durably = await make()

    @durably.job("number")
    async def number(step: Step, n: int = 5) -> int:
        return n

    @durably.job("model")
    async def model(step: Step, o: Options = Options(full=True)) -> bool:  # noqa: B008
        return o.full

    @durably.job("optional")
    async def optional(step: Step, n: int | None = 5) -> int | None:
        return n

    @durably.job("bare")
    async def bare(step: Step, rows=None) -> Any:
        return rows

    for handle, expected in ((number, 5), (model, True), (optional, 5), (bare, None)):
        run = await handle.trigger()
        assert (await durably.wait(run, 20)).output == expected
    assert (await optional.trigger_and_wait(None, timeout=20)).output is None
    assert (await model.trigger_and_wait(Options(), timeout=20)).output is False
    first, second = await number.batch_trigger([1, 2])
    assert [first.input, second.input] == [1, 2]


def test_a_default_that_cannot_be_an_input_is_refused_where_it_is_written():
    with pytest.raises(
        errors.ConfigurationError, match=r"job 'x': the default of 'n' cannot be an input"
    ):

        @job("x")
        async def wrong(step: Step, n: int = "five") -> None: ...  # type: ignore[assignment]

    with pytest.raises(errors.ConfigurationError, match=r"the default of 'client' .* an object"):

        @job("x")
        async def injected(step: Step, client=object()) -> None: ...  # noqa: B008


# -- steps


class Foreign:
    """Of a library that pydantic does not know."""

    def again(self) -> Self:
        return self


def foreign() -> Foreign:
    return Foreign()


@pytest.mark.parametrize("fn", [foreign, Foreign().again])
async def test_a_step_whose_type_cannot_be_kept_is_named_and_does_not_run(make, fn):
    calls = []

    @functools.wraps(fn)
    def traced():
        calls.append(1)
        return fn()

    durably = await make()

    @durably.job("fetch")
    async def fetch(step: Step) -> str:
        try:
            await step.run("get", traced)
        except errors.StepValueError:
            await step.run("get", lambda: "again")  # the name is free again
            raise
        return "kept"

    run = await fetch.trigger()
    with pytest.raises(errors.RunFailedError) as failed:
        await durably.wait(run, 20)
    error = failed.value.run.error
    assert (error.type, error.step, calls) == ("StepValueError", "get", [])
    assert f"the result of step 'get' of run {run.id} (fetch): " in error.message
    assert "not a type that can be kept as JSON" in error.message


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"retries": True}, "retries must be"), ({"retries": 1.5}, "retries must be"),
        ({"retries": "3"}, "retries must be"), ({"retries": None}, "retries must be"),
        ({"retries": -1}, "retries must be"), ({"timeout": "1"}, "timeout must be"),
        ({"timeout": 0}, "timeout must be"), ({"timeout": float("nan")}, "timeout must be"),
        ({"timeout": True}, "timeout must be"),
    ],
)  # fmt: skip
async def test_the_options_of_a_step_are_checked(make, options, problem):
    durably = await make()

    @durably.job("options")
    async def checked(step: Step) -> None:
        await step.run("a", lambda: 1, **options)

    with pytest.raises(errors.RunFailedError) as failed:
        await checked.trigger_and_wait(timeout=20)
    error = failed.value.run.error
    assert (error.type, error.step) == ("ConfigurationError", "a")
    assert error.message.startswith(f"step 'a' of run {failed.value.run.id} (options): {problem}")


async def test_a_step_is_tried_again_for_a_list_of_exceptions(make):
    durably, calls = await make(), []

    def flaky() -> str:
        calls.append(1)
        if len(calls) == 1:
            raise ConnectionError("reset by peer")
        return "ok"

    @durably.job("flaky")
    async def retried(step: Step) -> str:
        retry = Retry(1, delay=0, on=[TimeoutError, ConnectionError])  # type: ignore[arg-type]
        return await step.run("a", flaky, retries=retry)

    assert (await retried.trigger_and_wait(timeout=20)).output == "ok"


async def test_a_committed_value_does_not_change_its_type_on_a_replay(make):
    """The function's annotation changed between two attempts, as by a deployment."""
    durably, attempts = await make(), []
    changed: dict[str, Any] = {}

    @durably.job("deployed")
    async def deployed(step: Step, name: str) -> str:
        before, after, value = KINDS[name]
        attempts.append(1)
        kept = await step.run("a", lambda: value, returns=after if name in changed else before)
        if name not in changed:
            changed[name] = kept
            raise RuntimeError("before the deployment")
        return repr(kept)

    for name in KINDS:
        run = await deployed.trigger(name)
        with pytest.raises(errors.RunFailedError, match="before the deployment"):
            await durably.wait(run, 20)
        await durably.retry(run.id)
        with pytest.raises(errors.RunFailedError) as failed:
            await durably.wait(run, 20)
        error = failed.value.run.error
        assert (error.type, error.step) == ("StepValueError", "a"), name
        assert (
            f"the checkpoint of step 'a' of run {run.id} (deployed) does not fit its type"
            in error.message
        )
        assert "that would now be" in error.message


class Before(BaseModel):
    n: int
    old: str = ""
    tags: set[str] = {"a", "b", "c"}


class After(BaseModel):
    n: float


class Grown(BaseModel):
    n: int
    new: str = "new"
    tags: set[str] = set()


KINDS: dict[str, tuple[Any, Any, Any]] = {
    "int to float": (int, float, 3),
    "int to bool": (int, bool, 1),
    "text to number": (str, int, "3"),
    "within": (list[int], list[float], [1]),
    "a field": (Before, After, Before(n=1)),
}


def test_fields_that_come_and_go_are_no_change_of_type():
    from durably.values.codec import codec_for

    text = codec_for(Before).keep(Before(n=1)).text
    assert codec_for(Grown).restore(text).new == "new"
    assert codec_for(Grown).restore(text).tags == {"a", "b", "c"}
