"""Fixtures of the tests that hold the table in docs/reference/from-typescript.md true."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from durably import Durably

QUICK = {
    "polling_interval": 0.05,
    "heartbeat_interval": 0.05,
    "stale_threshold": 1.0,
    "durability": "process",
}


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "jobs.db"


@pytest.fixture
def make(database: Path) -> Callable[..., Durably]:
    """A Durably on this test's file, not open yet."""
    return lambda **options: Durably(database, **{**QUICK, **options})


@pytest.fixture
async def durably(make: Callable[..., Durably]) -> AsyncIterator[Durably]:
    """An open one, with a worker."""
    async with make() as opened:
        yield opened


@pytest.fixture
def spawn(database: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start a worker in a process of its own: see ``crashing_worker.py``."""
    started: list[subprocess.Popen[bytes]] = []

    def start(run_input: str) -> subprocess.Popen[bytes]:
        script = Path(__file__).with_name("crashing_worker.py")
        child = subprocess.Popen([sys.executable, script, database, run_input])
        started.append(child)
        return child

    yield start
    for child in started:
        if child.poll() is None:
            child.kill()
        child.wait()
