"""Fixtures that every test may use: real stores on real files."""

import pytest

from durably.runtime import Runtime
from durably.store.sqlite import SQLiteStore


class ManualRuntime(Runtime):
    """A runtime whose wall clock is set by hand."""

    def __init__(self, *, threads: bool = True) -> None:
        super().__init__()
        self.threads = threads
        self.at = 1_700_000_000_000

    def now(self) -> int:
        return self.at


@pytest.fixture
def runtime() -> ManualRuntime:
    return ManualRuntime()


@pytest.fixture(params=["file", "memory", "inline", "exclusive"])
async def store(request, tmp_path):
    """An open, migrated store of each kind: threads, memory, no threads, no threads and alone."""
    runtime = ManualRuntime(threads=request.param in ("file", "memory"))
    path = ":memory:" if request.param == "memory" else tmp_path / "test.db"
    store = SQLiteStore(path, runtime, exclusive=request.param == "exclusive")
    await store.open()
    await store.migrate()
    store.clock = runtime
    yield store
    await store.close()
