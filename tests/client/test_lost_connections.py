"""Connections break, servers are killed, proxies cut anywhere: nothing is missed, nothing told twice."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from durably import events
from durably.client import DurablyClient, ServerUnavailableError
from durably.errors import RunNotFoundError, WaitTimeoutError
from durably.events import AnyEvent, Resync
from tests.ports import free_port
from tests.tier import by_tier

from .places import Proxy, Server

pytestmark = pytest.mark.usefixtures("impatient")
SEEDS = range(by_tier(quick=3, ci=10, soak=200))


def numbers(told: list[AnyEvent]) -> list[int]:
    return [event.sequence for event in told if event.sequence is not None]


def complete(told: list[AnyEvent]) -> bool:
    """Each journaled event once and in order, and the end last."""
    found = numbers(told)
    return found == list(range(1, len(found) + 1)) and told[-1].is_final


def anywhere(seed: int) -> Iterator[int]:
    """Where to cut: most often in the middle of events, sometimes in the head or before any byte."""
    chance = random.Random(seed)
    for _ in range(chance.randrange(5, 12)):
        yield chance.choice([chance.randrange(0, 400), chance.randrange(400, 8_000)])


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_proxy_that_cuts_anywhere(shared: Server, app: Any, seed: int) -> None:
    proxy = Proxy(shared.port, anywhere(seed), politely=bool(seed % 2))
    async with (
        DurablyClient(shared.url) as direct,
        proxy.open() as url,
        DurablyClient(url, retries=50) as client,
    ):
        run = await direct.trigger(app.work, app.Wanted(steps=25, pause=0.02))
        told = [event async for event in client.subscribe(run.id)]
        assert complete(told), numbers(told)
        assert isinstance(told[-1], events.RunComplete)
        assert proxy.cuts, "the proxy cut nothing"
        again = [event async for event in direct.subscribe(run.id)]
        assert numbers(again) == numbers(told)
        assert [e for e in again if e.sequence] == [e for e in told if e.sequence]


@pytest.mark.parametrize("seed", SEEDS)
async def test_waiting_through_a_proxy_that_cuts(shared: Server, app: Any, seed: int) -> None:
    proxy = Proxy(shared.port, anywhere(1000 + seed))
    async with proxy.open() as url, DurablyClient(url, retries=50) as client:
        options: Any = {"idempotency_key": f"proxy-{seed}"}
        run = await client.trigger(app.work, app.Wanted(steps=10, pause=0.02), **options)
        done = await client.wait(run)
        assert done.output == app.Done(count=10)
        assert len(await client.get_runs(job=app.work, limit=1000)) >= 1
    async with DurablyClient(shared.url) as direct:
        same = await direct.trigger(app.work, app.Wanted(steps=10, pause=0.02), **options)
        assert (same.id, same.disposition) == (run.id, "idempotent"), "one key, one run"


@pytest.mark.parametrize("end", [Server.kill, Server.stop])
async def test_a_server_that_is_ended_and_started_again(
    server: Server, app: Any, end: Callable[[Server], None]
) -> None:
    server.start()
    server.await_up()
    async with DurablyClient(server.url) as client:
        run = await client.trigger(app.work, app.Wanted(steps=60, pause=0.05))
        waiting = asyncio.create_task(client.wait(run))
        listing = client.subscribe_runs()
        assert await anext(listing) == Resync()
        told: list[AnyEvent] = []
        kill_at = {5, 40}
        async for event in client.subscribe(run.id):
            told.append(event)
            if event.sequence in kill_at:
                await asyncio.to_thread(end, server)
                server.start()
        assert complete(told), numbers(told)
        attempts = [event.attempt for event in told if isinstance(event, events.RunStart)]
        assert attempts == [1, 2, 3]
        done = await waiting
        assert done.output == app.Done(count=60)
        assert [step.name for step in await client.get_steps(run.id)] == [
            f"step-{i}" for i in range(60)
        ]
        async for news in listing:
            if isinstance(news, Resync):
                break
        await listing.aclose()


@pytest.mark.parametrize("end", [Server.kill, Server.stop])
async def test_a_server_that_is_away_when_the_run_ends(
    server: Server, app: Any, end: Callable[[Server], None]
) -> None:
    """Another process ends the run; the client learns it when there is a server again."""
    server.start("--no-worker")
    server.await_up()
    async with DurablyClient(server.url) as client:
        run = await client.trigger(app.work, app.Wanted(steps=1))
        subscription = client.subscribe(run.id)
        assert (await anext(subscription)).type == "run:trigger"
        waiting = asyncio.create_task(client.wait(run))
        await asyncio.to_thread(end, server)
        await _work_until_idle(server.place)
        server.start("--no-worker")
        assert (await waiting).output == app.Done(count=1)
        assert [event.sequence async for event in subscription if event.sequence] == [2, 3, 4, 5]


async def _work_until_idle(place: Path) -> None:
    import sys

    command = [sys.executable, "-m", "durably.cli", "worker", "app:durably", "--until-idle"]
    process = await asyncio.create_subprocess_exec(
        *command, cwd=place, stderr=asyncio.subprocess.DEVNULL
    )
    assert await process.wait() == 0


async def test_a_run_that_is_deleted_while_nobody_is_connected(server: Server, app: Any) -> None:
    server.start("--no-worker")
    server.await_up()
    proxy = Proxy(server.port, iter([2_000]))
    async with (
        DurablyClient(server.url) as direct,
        proxy.open() as url,
        DurablyClient(url) as client,
    ):
        run = await direct.trigger(app.work, app.Wanted(steps=1), labels={"org": "one"})
        subscription = client.subscribe(run.id)
        assert (await anext(subscription)).type == "run:trigger"
        waiting = asyncio.create_task(client.wait(run.id))
        proxy.closed = True
        await asyncio.to_thread(server.kill)
        server.start("--no-worker")
        server.await_up()
        await direct.cancel(run.id)
        await direct.delete_run(run.id)
        proxy.closed = False
        last = [event async for event in subscription]
        assert [event.type for event in last][-1] == "run:delete"
        assert (last[-1].run_id, last[-1].labels) == (run.id, {"org": "one"})
        with pytest.raises(RunNotFoundError):
            await waiting


async def test_a_server_that_is_away_at_the_start(app: Any) -> None:
    url = f"http://127.0.0.1:{free_port()}/api/durably"
    async with DurablyClient(url, retries=1) as client:
        for ask in (
            client.get_jobs(),
            client.get_run("a"),
            client.wait("a"),
            client.trigger(app.work, app.Wanted(steps=1)),
            anext(client.subscribe("a")),
            client.cancel("a"),
        ):
            with pytest.raises(
                ServerUnavailableError, match=r"tried 2 times\): is a server runn"
            ) as away:
                await ask
            assert away.value.url.startswith(url)
            assert url in str(away.value)


async def test_a_server_that_comes_a_little_later(server: Server, app: Any) -> None:
    """What certainly did not reach it is sent again, even a trigger without a key."""
    async with DurablyClient(server.url, retries=1000) as client:
        triggering = asyncio.create_task(client.trigger(app.work, app.Wanted(steps=1)))
        await asyncio.sleep(0.2)
        server.start()
        run = await triggering
        assert run.disposition == "created"
        assert [found.id for found in await client.get_runs()] == [run.id]


async def test_a_trigger_whose_answer_is_lost(shared: Server, app: Any) -> None:
    """Without a key nobody knows whether it was done, and it is not done twice."""
    labels = {"answer": "lost"}
    async with DurablyClient(shared.url) as direct:
        for n, key in enumerate([None, "lost-answer"]):
            proxy = Proxy(shared.port, iter([0]))
            async with proxy.open() as url, DurablyClient(url) as client:
                triggering = client.trigger(
                    app.work, app.Wanted(steps=0), labels=labels, idempotency_key=key
                )
                if key is None:
                    with pytest.raises(ServerUnavailableError, match="idempotency_key="):
                        await triggering
                else:
                    assert (await triggering).idempotency_key == key
            assert proxy.cuts == 1
            assert len(await direct.get_runs(labels=labels)) == n + 1


async def test_a_cancel_and_a_delete_whose_answers_are_lost(shared: Server, app: Any) -> None:
    async with DurablyClient(shared.url) as direct:
        run = await direct.trigger(app.hold)
        for move in ("cancel", "delete_run"):
            proxy = Proxy(shared.port, iter([0]))
            async with proxy.open() as url, DurablyClient(url) as client:
                moved = await getattr(client, move)(run.id)
                assert move == "delete_run" or moved.status == "cancelled"
            assert proxy.cuts == 1
        assert await direct.get_run(run.id) is None
        proxy = Proxy(shared.port, iter([0]))
        run = await direct.trigger(app.work, app.Wanted(steps=0, fails_without="never"))
        with pytest.raises(Exception, match="no never"):
            await direct.wait(run)
        async with proxy.open() as url, DurablyClient(url) as client:
            with pytest.raises(
                ServerUnavailableError,
                match=r"unknown whether the server acted on it; check with get_run\(\)",
            ):
                await client.retry(run.id)


async def test_a_wait_in_time_without_a_server(server: Server, app: Any) -> None:
    server.start("--no-worker")
    server.await_up()
    async with DurablyClient(server.url) as client:
        run = await client.trigger(app.work, app.Wanted(steps=1))
        await asyncio.to_thread(server.kill)
        with pytest.raises(WaitTimeoutError) as late:
            await client.wait(run, timeout=0.5)
        assert late.value.run == run, "as it was seen last"
        with pytest.raises(ServerUnavailableError):
            await client.wait(run.id, timeout=0.5)


async def test_a_connection_that_breaks_after_the_end(shared: Server, app: Any) -> None:
    """A final event that is told is told once, even if the stream does not end as it should."""
    async with DurablyClient(shared.url) as direct:
        run = await direct.trigger_and_wait(app.work, app.Wanted(steps=1))
        told = [event async for event in direct.subscribe(run.id)]
    for budget in itertools.count(200, by_tier(quick=97, ci=13, soak=1)):
        proxy = Proxy(shared.port, iter([budget]))
        async with proxy.open() as url, DurablyClient(url) as client:
            assert [event async for event in client.subscribe(run.id)] == told
        if not proxy.cuts:
            break
