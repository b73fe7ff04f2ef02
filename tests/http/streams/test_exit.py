"""A server that is told to stop ends its streams and leaves, whoever listens; else it would wait for ever."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from tests.http.streams.app import Settings
from tests.http.streams.conftest import Start
from tests.http.streams.reader import Reader
from tests.http.streams.server import Server

OUT = 60.0  # seconds; on a quiet machine it takes less than three, and the printed figure says so
IN_FASTAPI = "tests.http.streams.app_in_fastapi:api"


async def listen(server: Server, count: int) -> list[Reader]:
    """Open streams, of a run that nobody executes yet and of all."""
    run_id = await server.trigger(["sleep", 3600])
    streams = [server.subscribe(run_id) for _ in range(count // 2)]
    streams += [server.follow() for _ in range(count - count // 2)]
    readers = await asyncio.gather(*streams)
    await server.until(lambda held: held["streams"] == held["watchers"] == count)
    return readers


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("app", ["", IN_FASTAPI])
async def test_a_hundred_streams_do_not_hold_uvicorn(
    serve: Start, app: str, number: signal.Signals
) -> None:
    server = await serve(app, worker=False)
    readers = await listen(server, 100)
    took = await server.end(number, OUT)
    print(f"{number.name}: out in {took:.2f} s with 100 streams open")
    for reader in readers:
        await reader.rest()  # to a proper end, not a broken connection
        assert reader.blocks[-1].retry is not None
        assert reader.blocks[-1].retry < 5_000
    assert not list((server.folder / "jobs.db-durably").glob("*.bell"))


@pytest.mark.parametrize("app", ["", IN_FASTAPI])
async def test_hypercorn_cuts_them_when_its_own_patience_ends(
    tmp_path: Path, serve: Start, app: str
) -> None:
    """It tells nobody that it stops before it has waited; its log is not ours."""
    server = Server(
        Settings(str(tmp_path), worker=False), "hypercorn", app=app, program="hypercorn"
    )
    try:
        await server.start("--graceful-timeout", "1")
        await listen(server, 100)
        took = await server.end(signal.SIGTERM, OUT)
    finally:
        server.kill()
    print(f"hypercorn: out in {took:.2f} s with 100 streams open")
    assert "Exception in ASGI" not in server.said
    assert not list((server.folder / "jobs.db-durably").glob("*.bell"))
