"""What type checkers infer of the client: pyright and mypy read this file, pytest does not need to."""

from __future__ import annotations

from typing import Any, assert_type

from pydantic import BaseModel

from durably import CompletedRun, Durably, JobHandle, Run, Step, StepRecord, job
from durably.client import DurablyClient, JobInfo, SyncDurablyClient


class Wanted(BaseModel):
    org: str


class Done(BaseModel):
    count: int


@job("work")
async def work(step: Step, wanted: Wanted) -> Done:
    return Done(count=1)


@job("plain")
async def plain(step: Step) -> int:
    return 1


async def async_client(client: DurablyClient, durably: Durably) -> None:
    run = await client.trigger(work, Wanted(org="a"), idempotency_key="k")
    assert_type(run, Run[Wanted, Done])
    assert_type(await client.wait(run, timeout=3), CompletedRun[Wanted, Done])
    assert_type(await client.follow(run), CompletedRun[Wanted, Done])
    assert_type(await client.trigger_and_wait(plain), CompletedRun[None, int])
    handle: JobHandle[Wanted, Done] = durably.register(work)
    assert_type(await client.trigger(handle, Wanted(org="a")), Run[Wanted, Done])
    assert_type((await client.wait(run)).output, Done)
    assert_type(await client.trigger("work", {"org": "a"}), Run[Any, Any])
    assert_type(await client.get_run("id"), Run[Any, Any] | None)
    assert_type(await client.get_run("id", job=work), Run[Wanted, Done] | None)
    assert_type(await client.get_runs(job="work"), list[Run[Any, Any]])
    assert_type(await client.get_runs(job=handle), list[Run[Wanted, Done]])
    await client.trigger(work, Done(count=1))  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]


def sync_client(client: SyncDurablyClient) -> None:
    """The blocking one has the same types, by one function for all its methods."""
    run = client.trigger(work, Wanted(org="a"), idempotency_key="k")
    assert_type(run, Run[Wanted, Done])
    assert_type(client.wait(run, timeout=3), CompletedRun[Wanted, Done])
    assert_type(client.follow(run), CompletedRun[Wanted, Done])
    assert_type(client.trigger_and_wait(plain), CompletedRun[None, int])
    assert_type(client.wait(run).output, Done)
    assert_type(client.trigger("work", {"org": "a"}), Run[Any, Any])
    assert_type(client.get_run("id", job=work), Run[Wanted, Done] | None)
    assert_type(client.get_runs(job=work), list[Run[Wanted, Done]])
    assert_type(client.get_steps("id"), list[StepRecord])
    assert_type(client.get_jobs(), list[JobInfo])
    client.trigger(work, Done(count=1))  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
