"""What type checkers refuse. An expected error that does not occur is one itself, to pyright and to mypy."""
# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from pydantic import BaseModel

from durably import Durably, Step, SyncStep, job
from durably.client import DurablyClient, SyncDurablyClient

durably = Durably(":memory:")


class Sync(BaseModel):
    org: str


@durably.job
async def required(step: Step, input: Sync) -> int:
    return 1


@job
def pure(step: SyncStep, input: Sync) -> int:
    return 1


@durably.job
async def none(step: Step) -> int:
    return 1


def add(a: int, b: int) -> int:
    return a + b


async def check_inputs(client: DurablyClient) -> None:
    """A required input is required wherever a run is triggered."""
    await required.trigger()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await required.trigger_and_wait(timeout=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await required.trigger("a")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await required.trigger(Sync(org="a"), label="b")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await required.batch_trigger([None])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    await none.trigger(1)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    await client.trigger(pure)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    await client.trigger_and_wait(required)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]


def check_blocking_inputs(client: SyncDurablyClient) -> None:
    with durably.sync() as d:
        d.trigger(pure)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
        d.trigger_and_wait(required)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
        d.register(pure).trigger()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
        d.register(pure).trigger_and_wait()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    client.trigger(pure)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]


def check_steps() -> None:
    """The step of the other kind of job. (An async one is seen where the job is used.)"""

    @durably.job  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType, reportUntypedFunctionDecorator]
    def plain(step: Step) -> int:
        return 1

    @job("plain")  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType, reportUntypedFunctionDecorator]
    def named(step: Step, input: Sync) -> int:
        return 1

    @durably.job
    async def wrong(step: SyncStep, input: Sync) -> int:
        return 1

    @job("wrong")
    async def named_wrong(step: SyncStep) -> int:
        return 1

    wrong.trigger(Sync(org="a"))  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    durably.register(named_wrong)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    del plain, named


async def check_calls(step: Step, blocking: SyncStep) -> None:
    """Keyword arguments of a step's function are not passed on, and a step is awaited."""
    await step.run("add", add, 1, b=2)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    blocking.run("add", add, 1, b=2)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    step.run("add", add, 1, 2)  # type: ignore[unused-coroutine]  # pyright: ignore[reportUnusedCoroutine]


def test_this_file_is_checked() -> None:
    assert required.name == "required"
