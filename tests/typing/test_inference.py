"""What users' editors infer. pyright and mypy check this file; pytest only imports it."""

from collections.abc import AsyncGenerator, Callable
from typing import Annotated, Any, assert_type

from pydantic import BaseModel

from durably import (
    CompletedRun,
    Durably,
    Job,
    JobHandle,
    Retry,
    Run,
    Step,
    SyncJobHandle,
    SyncStep,
    Trigger,
    job,
)
from durably.events import AnyEvent, RunComplete, StepStart


class Sync(BaseModel):
    org: str


class Synced(BaseModel):
    count: int


durably = Durably(":memory:")


async def fetch(org: str) -> list[str]:
    return [org]


def count(names: list[str]) -> int:
    return len(names)


class Connection:
    """A driver's."""


def add(connection: Connection, n: int) -> int:
    return n


async def pay(connection: Connection, account: str, cents: int) -> Synced:
    return Synced(count=cents)


def untyped_in(connection: Any) -> Any:
    return connection


def untyped(value: int) -> Any:
    return value


@durably.job("registered")
async def registered(step: Step, input: Sync) -> Synced:
    names = await step.run("fetch", fetch, input.org)
    assert_type(names, list[str])
    total = await step.run("count", count, names, retries=3, timeout=1.5)
    assert_type(total, int)
    again = await step.run("again", untyped, 1, returns=Synced, retries=Retry(2, delay=0.1))
    assert_type(again, Synced)
    assert_type(await step.run("lambda", lambda: 1), int)
    # A union, an Annotated or a text is no type[R]: the result is Any, and the call is fine.
    maybe: int | None = await step.run("maybe", untyped, 1, returns=int | None)
    assert_type(maybe, int | None)
    noted: int = await step.run("noted", untyped, 1, returns=Annotated[int, "noted"])
    assert_type(noted, int)
    moved: int | None = await step.transaction("moved", untyped_in, returns=int | None)
    assert_type(moved, int | None)
    assert_type(await step.transaction("add", add, 1), int)
    assert_type(await step.transaction("pay", pay, "a", 1), Synced)
    assert_type(await step.transaction("as", untyped_in, returns=Synced), Synced)
    assert_type(step.idempotency_key("fetch"), str)
    assert_type(step.attempt, int)
    step.progress(1, 2, "saving")
    step.log.info("done", {"count": total})
    return Synced(count=total)


@job("pure")
async def pure(step: Step, input: Sync) -> Synced:
    return Synced(count=0)


@job("blocking")
def blocking(step: SyncStep, input: Sync) -> Synced:
    assert_type(step.run("fetch", fetch, input.org), list[str])
    assert_type(step.run("count", count, [input.org]), int)
    assert_type(step.transaction("add", add, 1), int)
    assert_type(step.transaction("pay", pay, "a", 1), Synced)
    return Synced(count=0)


@durably.job("nothing")
async def nothing(step: Step) -> int:
    return 1


@durably.job("sync-nothing")
def sync_nothing(step: SyncStep) -> int:
    return 1


@durably.job
async def bare(step: Step, input: Sync) -> Synced:
    return Synced(count=0)


@durably.job()
def bare_sync(step: SyncStep, input: Sync) -> Synced:
    return Synced(count=0)


@job
async def bare_pure(step: Step) -> int:
    return 1


@job(name="named")
def named_pure(step: SyncStep, n: int = 5) -> int:
    return n


@durably.job
async def optional(step: Step, n: int = 5) -> int:
    return n


async def function(step: Step, input: Sync) -> Synced:
    return Synced(count=0)


def check_definitions() -> None:
    assert_type(bare, JobHandle[Sync, Synced])
    assert_type(bare_sync, JobHandle[Sync, Synced])
    assert_type(bare_pure, Job[None, int])
    assert_type(durably.register(bare_pure), JobHandle[None, int])
    assert_type(durably.register(function), JobHandle[Sync, Synced])
    as_usual: JobHandle[int, int] = optional
    pure_as_usual: Job[int, int] = named_pure
    del as_usual, pure_as_usual
    assert_type(registered, JobHandle[Sync, Synced])
    assert_type(pure, Job[Sync, Synced])
    assert_type(blocking, Job[Sync, Synced])
    assert_type(durably.register(pure), JobHandle[Sync, Synced])
    assert_type(nothing, JobHandle[None, int])
    assert_type(sync_nothing, JobHandle[None, int])
    assert_type(durably.get_job("x"), JobHandle[Any, Any] | None)


async def check_calls() -> None:
    run = await registered.trigger(Sync(org="a"), idempotency_key="k", labels={"a": "b"})
    assert_type(run, Run[Sync, Synced])
    assert_type(run.input, Sync)
    assert_type(run.output, Synced | None)
    done = await durably.wait(run, timeout=3)
    assert_type(done, CompletedRun[Sync, Synced])
    assert_type(done.output, Synced)
    assert_type((await registered.trigger_and_wait(Sync(org="a"))).output, Synced)
    found = await registered.get_run("x")
    if isinstance(found, CompletedRun):
        narrowed: Synced = found.output
        del narrowed
    as_run: Run[Sync, Synced] = done
    del as_run
    batch = await registered.batch_trigger(
        [Sync(org="a"), Trigger(Sync(org="b"), labels={"x": "y"})]
    )
    assert_type(batch, list[Run[Sync, Synced]])
    assert_type(await registered.get_run("x"), Run[Sync, Synced] | None)
    assert_type(await registered.get_runs(status="failed"), list[Run[Sync, Synced]])
    assert_type(await nothing.trigger(), Run[None, int])
    assert_type(await nothing.trigger(None, labels={"a": "b"}), Run[None, int])
    assert_type(await optional.trigger(scope="a"), Run[int, int])
    assert_type(await optional.trigger(6), Run[int, int])
    assert_type((await optional.trigger_and_wait()).output, int)
    assert_type(await durably.register(named_pure).trigger(), Run[int, int])
    assert_type(await durably.get_run("x"), Run[Any, Any] | None)
    assert_type(durably.subscribe("x"), AsyncGenerator[AnyEvent, None])


def check_events() -> None:
    def completed(event: RunComplete) -> None: ...
    def started(event: StepStart) -> None: ...

    assert_type(durably.on("run:complete", completed), Callable[[], None])
    assert_type(durably.on(StepStart, started), Callable[[], None])

    @durably.on("run:fail")
    def failed(event: Any) -> None: ...

    del failed


def check_sync() -> None:
    with durably.sync() as d:
        assert_type(d.trigger(pure, Sync(org="a")), Run[Sync, Synced])
        assert_type(d.trigger_and_wait(registered, Sync(org="a")).output, Synced)
        assert_type(d.register(pure), SyncJobHandle[Sync, Synced])
        assert_type(d.register(function), SyncJobHandle[Sync, Synced])
        assert_type(d.trigger(optional), Run[int, int])
        assert_type(d.trigger(nothing), Run[None, int])
        assert_type(d.trigger_and_wait(named_pure).output, int)
        assert_type(d.handle(optional).trigger(), Run[int, int])
        run = d.trigger(pure, Sync(org="a"))
        assert_type(d.wait(run), CompletedRun[Sync, Synced])
        assert_type(d.handle(pure).trigger_and_wait(Sync(org="a")).output, Synced)


def test_this_file_is_checked() -> None:
    assert registered.name == "registered"
