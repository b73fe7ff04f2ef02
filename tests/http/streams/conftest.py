"""Servers and workers on one folder, ended after each test; what they logged must be clean."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.http.streams.app import Settings
from tests.http.streams.reader import leave_all
from tests.http.streams.server import BAD, Process, Server, Worker

Start = Callable[..., Any]


class Gate:
    """Where a run waits until it is let through."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / f"gate-{uuid.uuid4().hex}"

    @property
    def wait(self) -> list[str]:
        """The line of a script that waits here."""
        return ["gate", self._path.name]

    def open(self) -> None:
        """Let it through, now and later."""
        self._path.touch()


@pytest.fixture(autouse=True)
async def no_connection_is_left() -> AsyncIterator[None]:
    yield
    leave_all()
    await asyncio.sleep(0)


@pytest.fixture(scope="package")
def common(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One process that serves and works, for all tests that need nothing special of it."""
    folder = tmp_path_factory.mktemp("streams")
    options = {"max_concurrent_runs": 1_000, "durability": "process"}
    server = Server(Settings(str(folder), options=options), "server")
    yield server
    server.kill()
    assert not BAD.search(server.said), server.said


@pytest.fixture
async def server(common: Server) -> Server:
    """The common server, running."""
    if not common.port:
        await common.start()
    return common


@pytest.fixture
def gate(server: Server) -> Gate:
    """A gate of the common server."""
    return Gate(server.folder)


@pytest.fixture
def processes() -> Iterator[list[Process]]:
    """All that were started by a test."""
    started: list[Process] = []
    yield started
    for process in started:
        process.kill()
    for process in started:
        assert not BAD.search(process.said), process.said


@pytest.fixture
def url() -> str:
    """Of the database of the servers and workers of one's own; "" for a file."""
    return ""


@pytest.fixture
def serve(tmp_path: Path, processes: list[Process], url: str) -> Start:
    """Start a server of one's own: ``await serve(worker=False)``; options as ``Settings`` and ``Server``."""

    async def serve(app: str = "", **settings: Any) -> Server:
        name = f"server-{len(processes)}"
        server = Server(Settings(str(tmp_path), url, **settings), name, app=app)
        processes.append(server)
        await server.start()
        return server

    return serve


@pytest.fixture
def work(tmp_path: Path, processes: list[Process], url: str) -> Start:
    """Start a process that only works."""

    async def work(**settings: Any) -> Worker:
        worker = Worker(Settings(str(tmp_path), url, **settings), f"worker-{len(processes)}")
        processes.append(worker)
        await worker.start()
        return worker

    return work


@pytest.fixture
def own_gate(tmp_path: Path) -> Gate:
    """A gate of the servers and workers of one's own."""
    return Gate(tmp_path)
