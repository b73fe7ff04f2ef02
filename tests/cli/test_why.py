"""``runs show`` says why a run is not moving: each reason in a database in that state."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from argparse import Namespace
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import httpx2
import pytest

from durably import Durably, Step
from durably.cli import main, why
from durably.cli.home import Home
from durably.client import DurablyClient

Show = Callable[[str], str]


@pytest.fixture
def show(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Show:
    def show(run_id: str) -> str:
        capsys.readouterr()
        assert main(["runs", "show", run_id, "--db", str(tmp_path / "jobs.db")]) == 0
        return capsys.readouterr().out

    return show


def change(path: Path, run_id: str, what: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        now = str(time.time_ns() // 1_000_000)
        connection.execute(
            f"update durably_runs set {what.replace('NOW', now)} where id = ?", (run_id,)
        )


async def trigger(path: Path, count: int = 1, key: str | None = None) -> list[str]:
    durably = Durably(path, worker=False)

    @durably.job("work")
    async def work(step: Step) -> None: ...

    await durably.init()
    ids = [(await work.trigger(concurrency_key=key)).id for _ in range(count)]
    await durably.stop()
    return ids


def test_nobody_is_there(tmp_path: Path, show: Show) -> None:
    path = tmp_path / "jobs.db"
    (run_id,) = asyncio.run(trigger(path))
    said = show(run_id)
    assert "no worker is alive; start one that knows the job: durably worker MODULE" in said
    change(path, run_id, "due_at = NOW - 600000")
    assert "due for 10m: no worker is alive" in show(run_id)
    change(path, run_id, "due_at = NOW + 90000, recoveries = 3")
    said = show(run_id)
    assert "delayed until " in said
    assert "Z, for 1m; its worker died 3 times" in said
    change(path, run_id, "status = 'running', lease_owner = 'gone', due_at = NOW + 30500")
    assert "worker gone executes it; if that worker is gone, its lease ends in 30s" in show(run_id)
    change(path, run_id, "due_at = NOW - 3600000")
    assert "the lease of worker gone ended 1h ago" in show(run_id)


async def test_a_worker_is_alive_and_does_not_know_the_job(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    (run_id,) = await trigger(path)
    async with Durably(path) as other:
        go, started = asyncio.Event(), asyncio.Event()
        reasons = await reasons_of(other, run_id)
        assert reasons == ["due: the next free worker that knows its job takes it"]
        change(path, run_id, "due_at = NOW - 60000")
        (reason,) = await reasons_of(other, run_id)
        assert reason.startswith("due for 1m: 1 processes use the database, and no live worker ")
        assert "knows job 'work'; start one" in reason

        @other.job("else")
        async def another(step: Step) -> None:
            started.set()
            await go.wait()

        await another.trigger()
        await started.wait()
        (reason,) = await reasons_of(other, run_id)
        assert "no live worker knows job 'work' and has a free slot" in reason
        go.set()


async def reasons_of(durably: Durably, run_id: str) -> list[str]:
    run = await durably.get_run(run_id)
    assert run is not None
    return await why.explain(durably, run, Home(durably.database), Namespace(app=None))


async def test_behind_a_run_of_its_key_and_one_that_is_being_stopped(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    first, second = await trigger(path, 2, key="k")
    async with Durably(path, worker=False) as durably:
        behind = f"waits behind run {first} of concurrency key 'k', which is "
        hold = "status = 'running', lease_owner = 'w', lease_token = 't', key_slot = 0, due_at = NOW + 60500"
        change(path, first, hold)
        assert await reasons_of(durably, second) == [f"{behind}running"]
        app = httpx2.ASGITransport(durably.asgi())
        async with DurablyClient("http://127.0.0.1/api/durably", transport=app) as client:
            run = await client.get_run(second)
            assert run is not None
            assert await why.explain(client, run, None, Namespace()) == [
                "the server does not know job 'work'; a worker elsewhere may"
            ]
        change(path, first, "status = 'cancelled', due_at = null, held_until = NOW + 60500")
        assert await reasons_of(durably, second) == [
            f"{behind}cancelled, and whose body is being stopped"
        ]
        assert await reasons_of(durably, first) == [
            "a worker is stopping its body, for 1m at most; until then it holds concurrency key 'k'"
        ]
        change(path, first, "held_until = null, key_slot = null")
        assert await reasons_of(durably, first) == []
        assert "behind" not in str(await reasons_of(durably, second))


def test_behind_a_pending_run_of_a_key(tmp_path: Path, show: Show) -> None:
    path = tmp_path / "jobs.db"
    (run_id,) = asyncio.run(trigger(path, key="k"))
    change(path, run_id, "due_at = 9007199254740991, key_slot = -1")
    said = show(run_id)
    assert "behind a pending run of concurrency key 'k'" in said
    assert f"durably doctor --db {path}" in said
