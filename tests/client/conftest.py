"""Servers for clients: one for a whole module that nobody kills, one for each test that may."""

from __future__ import annotations

import importlib.util
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from durably.client import DurablyClient, connection

from .places import Server


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """One that is not started yet."""
    server = Server(tmp_path)
    yield server
    server.kill()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One that is up."""
    server = Server(tmp_path_factory.mktemp("server"))
    server.start()
    server.await_up()
    yield server
    server.kill()


@pytest.fixture
async def client(shared: Server) -> AsyncIterator[DurablyClient]:
    async with DurablyClient(shared.url) as client:
        yield client


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses between tries are short, so that there can be many tries."""
    monkeypatch.setattr(connection, "LONGEST_PAUSE", 0.05)


@pytest.fixture(scope="session")
def app(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The servers' module, for its types; its instance is never opened here."""
    place = tmp_path_factory.mktemp("app")
    path = Server(place).place / "app.py"
    spec = importlib.util.spec_from_file_location("app_of_the_servers", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
