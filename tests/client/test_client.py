"""The client beside a server that is up: the calls, the types and the errors of ``Durably``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from durably import Durably, Progress, Step, Trigger, events, job
from durably.client import DurablyClient, JobInfo, RequestRefusedError, SyncDurablyClient
from durably.errors import (
    ClosedError,
    ConfigurationError,
    InvalidInputError,
    InvalidValueError,
    JobNotFoundError,
    RunCancelledError,
    RunConflictError,
    RunFailedError,
    RunNotFoundError,
    WaitTimeoutError,
)
from durably.events import Resync

from .places import Server


@job("work")
async def WORK_OF_NUMBERS(step: Step, input: list[int]) -> None:
    """Not what the server knows by that name."""


async def test_a_job_gives_types(client: DurablyClient, app: Any) -> None:
    run = await client.trigger(app.work, app.Wanted(steps=2), labels={"org": "one"})
    assert run.input == app.Wanted(steps=2)
    assert (run.status, run.disposition, run.labels) == ("pending", "created", {"org": "one"})
    done = await client.wait(run)
    assert done.output == app.Done(count=2)
    assert (done.status, done.attempt, done.is_final, done.steps_done) == ("completed", 1, True, 2)
    assert done.progress is not None
    assert (done.progress.current, done.progress.message) == (2, "working")
    assert await client.get_run(run.id, job=app.work) == done
    assert await client.get_runs(job=app.work, labels={"org": "one"}) == [done]


async def test_a_name_gives_plain_json(client: DurablyClient) -> None:
    run = await client.trigger_and_wait("work", {"steps": 1})
    assert run.input == {"steps": 1, "pause": 0.0, "fails_without": None}
    assert run.output == {"count": 1}
    assert (await client.wait(run.id)).output == {"count": 1}


async def test_a_known_job_changes_nothing_for_its_name(client: DurablyClient, app: Any) -> None:
    await client.trigger(app.work, app.Wanted(steps=0))
    plain = await client.trigger("work", {"steps": 1})
    assert (await client.wait(plain)).output == {"count": 1}
    assert (await client.follow(plain.id)).output == {"count": 1}
    assert (await client.trigger_and_wait("work", {"steps": 1})).output == {"count": 1}
    typed = await client.get_run(plain.id, job=app.work)
    assert typed is not None
    assert (await client.wait(typed)).output == app.Done(count=1)
    assert (await client.follow(typed)).output == app.Done(count=1)
    assert (await client.trigger_and_wait(app.work, app.Wanted(steps=1))).output == app.Done(
        count=1
    )


async def test_what_is_read_is_what_the_database_holds(
    client: DurablyClient, shared: Server
) -> None:
    run = await client.trigger_and_wait("work", {"steps": 3}, concurrency_key="c")
    local = Durably(shared.place / "jobs.db", worker=False)
    await local.start()
    try:
        assert await client.get_steps(run.id) == await local.get_steps(run.id)
        assert await client.get_logs(run.id) == await local.get_logs(run.id)
        assert await client.get_logs(run.id, after=5, limit=1) == await local.get_logs(
            run.id, after=5, limit=1
        )
        told = [event async for event in client.subscribe(run.id)]
        journal = [event async for event in local.subscribe(run.id)]
        assert [event for event in told if event.sequence is not None] == journal
        here, there = await client.get_run(run.id), await local.get_run(run.id)
        assert here is not None
        assert there is not None
        for field in ("id", "job", "status", "input", "output", "progress", "labels", "attempt"):
            assert getattr(here, field) == getattr(there, field)
        for field in ("created_at", "started_at", "ended_at", "updated_at"):
            assert getattr(here, field) == getattr(there, field)
        assert here.concurrency_key is None, "keys stay on the server"
    finally:
        await local.stop()


async def test_what_waits_with_a_concurrency_key_is_found(client: DurablyClient, app: Any) -> None:
    options: Any = {"concurrency_key": "coalesced", "coalesce": "skip"}
    held = await client.trigger(app.work, app.Wanted(steps=100, pause=0.02), **options)
    async for event in client.subscribe(held.id):
        if isinstance(event, events.RunStart):
            assert event.input["steps"] == 100
            break
    first = await client.trigger(app.work, app.Wanted(steps=1), **options)
    again = await client.trigger("work", {"steps": 2}, **options)
    assert (first.disposition, again.disposition) == ("created", "coalesced")
    assert again.id == first.id
    with pytest.raises(InvalidInputError, match="concurrency_key"):
        await client.trigger("work", coalesce="skip")
    await client.cancel(held.id)
    await client.wait(first, 60)


async def test_an_idempotency_key_finds_its_run(client: DurablyClient, app: Any) -> None:
    first = await client.trigger(app.work, app.Wanted(steps=1), idempotency_key="key")
    again = await client.trigger(app.work, app.Wanted(steps=1), idempotency_key="key")
    assert (first.disposition, again.disposition) == ("created", "idempotent")
    assert (first.id, again.idempotency_key) == (again.id, "key")


async def test_an_input_is_checked_before_anything_is_sent(app: Any) -> None:
    client = DurablyClient("http://127.0.0.1:1/nobody/is/here")
    with pytest.raises(InvalidInputError, match="work") as typed:
        await client.trigger(app.work, {"steps": "many"})
    assert typed.value.path == "$.steps"
    with pytest.raises(InvalidInputError, match="pass the Job instead of its name") as plain:
        await client.trigger("work", {"steps": {1, 2}})
    assert plain.value.path == "$.steps"
    for options in ({"idempotency_key": ""}, {"labels": {"": "x"}}, {"concurrency_key": "x" * 999}):
        with pytest.raises(InvalidInputError):
            await client.trigger("work", {}, **options)  # type: ignore[arg-type]
    for options in ({"limit": 0}, {"limit": 1001}, {"status": "odd"}, {"offset": -1}):
        with pytest.raises(ConfigurationError):
            await client.get_runs(**options)  # type: ignore[arg-type]
    await client.close()


async def test_errors_are_those_of_durably(client: DurablyClient, app: Any) -> None:
    with pytest.raises(InvalidInputError) as invalid:
        await client.trigger("work", {"steps": "many"})
    assert invalid.value.path == "$.steps"
    with pytest.raises(JobNotFoundError, match="nope"):
        await client.trigger("nope")
    with pytest.raises(InvalidInputError, match="bytes"):
        await client.trigger("work", {"steps": 1, "fails_without": "x" * 1_100_000})
    assert await client.get_run("nope") is None
    for ask in (
        client.get_steps, client.get_logs, client.wait, client.retry,
        client.retrigger, client.cancel, client.delete_run,
    ):  # fmt: skip
        with pytest.raises(RunNotFoundError) as missing:
            await ask("nope")
        assert missing.value.run_id == "nope"
    with pytest.raises(RunNotFoundError):
        await anext(client.subscribe("nope"))
    done = await client.trigger_and_wait("work", {"steps": 0})
    for action, ask in (("retry", client.retry), ("cancel", client.cancel)):
        with pytest.raises(RunConflictError) as conflict:
            await ask(done.id)
        found = conflict.value
        assert (found.run_id, found.action, found.status) == (done.id, action, "completed")


async def test_values_that_do_not_fit_any_more_are_named(client: DurablyClient, app: Any) -> None:
    run = await client.trigger("work", {"steps": 1})
    with pytest.raises(InvalidValueError, match=r"does not fit job 'work'.*at \$"):
        await client.get_run(run.id, job=WORK_OF_NUMBERS)
    assert await client.get_run(run.id, job=app.hold) is None, "it is another job's"


async def test_a_failed_run_and_its_retry(client: DurablyClient, shared: Server) -> None:
    run = await client.trigger("work", {"steps": 2, "fails_without": "luck"})
    with pytest.raises(RunFailedError, match="no luck") as failed:
        await client.wait(run, timeout=60)
    assert failed.value.run.status == "failed"
    assert failed.value.run.error is not None
    assert (failed.value.run.error.type, failed.value.run.error.message) == (
        "ValueError",
        "no luck",
    )
    (shared.place / "luck").touch()
    retried = await client.retry(run.id)
    assert (retried.id, retried.status.is_final) == (run.id, retried.status == "completed")
    assert (await client.wait(run.id)).output == {"count": 2}
    over = [event async for event in client.subscribe(run.id)]
    journaled = [event for event in over if event.sequence is not None]
    assert [event.sequence for event in journaled] == list(range(1, len(journaled) + 1))
    finals = [event.type for event in journaled if event.is_final]
    assert finals == ["run:fail", "run:complete"], "a final event in the middle does not end it"
    again = await client.retrigger(run.id)
    assert again.id != run.id
    assert (await client.wait(again)).output == {"count": 2}


async def test_cancel_and_delete(client: DurablyClient) -> None:
    run = await client.trigger("work", {"steps": 1000, "pause": 0.05})
    assert (await client.cancel(run.id)).status == "cancelled"
    with pytest.raises(RunCancelledError) as cancelled:
        await client.wait(run)
    assert cancelled.value.run.status == "cancelled"
    await client.delete_run(run.id)
    assert await client.get_run(run.id) is None


async def test_waiting_ends_in_time_and_carries_the_run(client: DurablyClient) -> None:
    run = await client.trigger("work", {"steps": 1000, "pause": 0.05})
    for given in (run, run.id):
        with pytest.raises(WaitTimeoutError, match="is still") as late:
            await client.wait(given, timeout=0.05)
        assert late.value.run.id == run.id
    with pytest.raises(WaitTimeoutError):
        await client.wait(run.id, timeout=0)
    await client.cancel(run.id)
    with pytest.raises(RunCancelledError):
        await client.wait(run.id, timeout=0)


async def test_many_wait_at_once(client: DurablyClient) -> None:
    runs = [await client.trigger("work", {"steps": 3, "pause": 0.01}) for _ in range(20)]
    done = await asyncio.gather(*(client.wait(run) for run in runs))
    assert [run.output for run in done] == [{"count": 3}] * 20


async def test_lists_are_paged(client: DurablyClient) -> None:
    labels = {"page": "of many"}
    made = [(await client.trigger("work", {"steps": 0}, labels=labels)).id for _ in range(7)]
    newest_first = made[::-1]
    first = await client.get_runs(labels=labels, limit=3)
    assert [run.id for run in first] == newest_first[:3]
    rest = await client.get_runs(labels=labels, cursor=first[-1].cursor)
    assert [run.id for run in rest] == newest_first[3:]
    assert [run.id for run in await client.get_runs(labels=labels, offset=5)] == newest_first[5:]
    assert [run.id async for run in client.iter_runs(labels=labels)] == newest_first
    await asyncio.gather(*(client.wait(id) for id in made))
    assert await client.get_runs(labels=labels, status="failed") == []
    assert len(await client.get_runs(labels=labels, status=["completed", "failed"])) == 7


async def test_more_runs_than_a_page_holds(client: DurablyClient, shared: Server, app: Any) -> None:
    labels = {"many": "yes"}
    local = Durably(shared.place / "jobs.db", jobs=[app.work], worker=False)
    await local.start()
    try:
        triggers = [Trigger(app.Wanted(steps=0), labels=labels) for _ in range(403)]
        made = await local.jobs["work"].batch_trigger(triggers)
    finally:
        await local.stop()
    newest_first = [run.id for run in made][::-1]
    for limit in (199, 200, 201, 400, 1000):
        found = await client.get_runs(labels=labels, limit=limit)
        assert [run.id for run in found] == newest_first[:limit]
    assert [run.id async for run in client.iter_runs(labels=labels)] == newest_first
    assert [run.id for run in await client.get_runs(labels=labels, limit=300, offset=150)] == (
        newest_first[150:]
    )


async def test_jobs(client: DurablyClient) -> None:
    jobs = {job.name: job for job in await client.get_jobs()}
    assert sorted(jobs) == ["by-default", "hold", "work"]
    assert isinstance(jobs["work"], JobInfo)
    assert sorted(jobs["work"].input_schema["properties"]) == ["fails_without", "pause", "steps"]
    assert jobs["hold"].output_schema == {"type": "integer"}


async def test_a_big_integer_keeps_its_digits(
    client: DurablyClient, app: Any, shared: Server
) -> None:
    (shared.place / "go").touch()
    try:
        typed = await client.trigger_and_wait(app.hold)
        assert typed.output == 2**60
        plain = await client.wait(typed.id)
        assert plain.output == str(2**60), "as text: JavaScript's numbers cannot hold it"
    finally:
        (shared.place / "go").unlink()


async def test_the_present_state_instead_of_the_past(client: DurablyClient) -> None:
    run = await client.trigger("work", {"steps": 100, "pause": 0.02})
    seen = 0
    async for event in client.subscribe(run.id):
        if isinstance(event, events.StepComplete) and (seen := seen + 1) == 3:
            break
    stream = client.subscribe(run.id, after=None)
    first = await anext(stream)
    assert isinstance(first, events.RunStart)
    rest = [event async for event in stream]
    numbers = [event.sequence for event in rest if event.sequence is not None]
    assert numbers == list(range((first.sequence or 0) + 1, numbers[-1] + 1))
    assert isinstance(rest[-1], events.RunComplete)
    assert rest[-1].output == {"count": 100}
    over = [event async for event in client.subscribe(run.id, after=None)]
    assert [event.type for event in over] == ["run:complete"]
    assert [event async for event in client.subscribe(run.id, after=numbers[-1])] == []


async def test_the_last_progress_is_told(client: DurablyClient) -> None:
    run = await client.trigger("work", {"steps": 30})
    told = [event async for event in client.subscribe(run.id)]
    progress = [event.progress for event in told if isinstance(event, events.RunProgress)]
    if progress:  # live: none when it was over before we came
        assert progress[-1].current == 30


async def test_the_list_begins_with_a_resync(client: DurablyClient) -> None:
    stream = client.subscribe_runs(job="work", labels={"watched": "yes"})
    assert await anext(stream) == Resync()
    await client.trigger("work", {"steps": 1})
    run = await client.trigger("work", {"steps": 1}, labels={"watched": "yes"})
    types = []
    async for event in stream:
        assert not isinstance(event, Resync)
        assert (event.run_id, event.job, event.labels) == (run.id, "work", {"watched": "yes"})
        types.append(event.type)
        if event.type == "run:complete":
            break
    await stream.aclose()
    assert types[0] == "run:trigger"
    assert {"run:start", "step:complete", "log:write"} <= set(types)


async def test_a_subscription_that_is_left_holds_nothing(client: DurablyClient) -> None:
    run = await client.trigger("hold")
    for _ in range(150):  # more than a pool holds by default
        stream = client.subscribe(run.id)
        assert (await anext(stream)).type == "run:trigger"
        await stream.aclose()
    streams = [client.subscribe(run.id) for _ in range(120)]
    assert {event.type for event in await asyncio.gather(*map(anext, streams))} == {"run:trigger"}
    for stream in streams:
        await stream.aclose()
    await client.cancel(run.id)


async def test_it_belongs_to_its_loop_and_to_its_time(shared: Server) -> None:
    client = DurablyClient(shared.url)
    assert repr(client) == f"DurablyClient('{shared.url}')"
    await client.get_jobs()

    def elsewhere() -> None:
        with pytest.raises(ConfigurationError, match="another event loop"):
            asyncio.run(client.get_jobs())

    await asyncio.to_thread(elsewhere)
    await client.close()
    await client.close()
    with pytest.raises(ClosedError):
        await client.get_jobs()


async def test_closing_ends_who_waits(shared: Server) -> None:
    client = DurablyClient(shared.url)
    run = await client.trigger("hold")
    waiting = asyncio.create_task(client.wait(run))
    async for event in client.subscribe(run.id):
        assert event.type == "run:trigger"
        break
    await asyncio.sleep(0.05)
    await client.close()
    with pytest.raises(ClosedError):
        await waiting
    with SyncDurablyClient(shared.url) as other:
        other.cancel(run.id)


async def test_what_the_server_refuses_otherwise(shared: Server) -> None:
    async with DurablyClient(shared.url, headers={"host": "evil.example"}) as client:
        with pytest.raises(RequestRefusedError, match="from this machine") as refused:
            await client.get_jobs()
    assert (refused.value.status, refused.value.code) == (403, "not_local")
    assert refused.value.url == f"{shared.url}/jobs"


async def test_an_input_that_is_not_given_is_the_default(
    client: DurablyClient, shared: Server, app: Any
) -> None:
    run = await client.trigger(app.by_default)
    assert run.input == 5
    assert (await client.trigger("by-default")).input == 5
    assert (await client.trigger("by-default", None)).input is None
    assert (await client.trigger("by-default", 6)).input == 6


async def test_what_is_given_is_checked_before_anything_is_sent() -> None:
    url = "http://127.0.0.1:9/api/durably"
    for options in (
        {"timeout": "x"},
        {"timeout": 0},
        {"retries": -1},
        {"retries": 1.5},
        {"retries": True},
    ):
        with pytest.raises(ConfigurationError, match=f"{next(iter(options))} must be"):
            DurablyClient(url, **options)
    async with DurablyClient(url, retries=0) as client:
        calls: list[tuple[str, Callable[[], Any]]] = [
            ("timeout", lambda: client.wait("a", timeout=float("nan"))),
            ("timeout", lambda: client.wait("a", "soon")),
            ("run_id", lambda: client.wait(5)),
            ("run_id", lambda: client.get_run(5)),
            ("run_id", lambda: client.get_steps(None)),
            ("run_id", lambda: client.cancel(5)),
            ("after", lambda: client.get_logs("a", after=-1)),
            ("limit", lambda: client.get_logs("a", limit="ten")),
            ("limit", lambda: client.get_runs(limit=1.5)),
            ("offset", lambda: client.get_runs(offset=-1)),
            ("cursor", lambda: client.get_runs(cursor="zzz")),
            ("status", lambda: client.get_runs(status="fail")),
            ("after", lambda: anext(client.subscribe("a", "x"))),
            ("run_id", lambda: anext(client.subscribe(5))),
        ]
        for name, call in calls:
            with pytest.raises(ConfigurationError, match=f"{name} must be"):
                await call()


async def test_progress_and_log_lines_are_told_while_waiting(
    client: DurablyClient, app: Any
) -> None:
    progress: list[Progress] = []
    lines: list[str] = []
    done = await client.trigger_and_wait(
        app.work,
        app.Wanted(steps=3, pause=0.05),
        idempotency_key="told",
        on_progress=progress.append,
        on_log=lambda event: lines.append(event.message),
    )
    assert (done.output, done.disposition) == (app.Done(count=3), "created")
    assert progress[-1] == Progress(3, 3, "working")
    assert set(lines) <= {"did a step"}
    again = await client.trigger_and_wait(app.work, app.Wanted(steps=3), idempotency_key="told")
    assert again.disposition == "idempotent"
