"""Fixtures that every test may use: real stores on real files and on a real server."""

import logging
import os
import re
import signal
import sys

import pytest
from hypothesis import HealthCheck, settings

from durably.runtime import Runtime
from durably.store.postgres.statements import DIALECT
from durably.store.postgres.store import PostgresStore
from durably.store.sqlite.store import SQLiteStore
from tests import parallel, postgres
from tests.tier import LEFT_TO_CI, TIER

# A busy machine is no failure.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

# Containers often keep Python from writing bytecode. The tests start hundreds of processes: each of them, and
# each process of xdist, would compile everything again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# A run that was started in the background ignores signals, and so would all that it starts: `sh -c '… &'`
# does so with SIGINT, nohup with SIGHUP. A handler is not inherited; an ignored signal is.
for _number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM):
    if signal.getsignal(_number) == signal.SIG_IGN:
        signal.signal(_number, lambda *_: None)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):
        parallel.sort(items)
    for item in items if TIER == "quick" else []:
        for pattern, reason in LEFT_TO_CI.items():
            if re.search(pattern, item.nodeid):
                item.add_marker(pytest.mark.skip(reason=f"{reason}: the ci tier's"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    return parallel.processes()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    return parallel.scheduler(config, log)


@pytest.fixture(autouse=True)
def logging_is_restored():
    """Frameworks and commands set up logging for the whole process; the next test starts without it."""
    root = logging.getLogger()
    before = root.level, root.handlers[:]
    yield
    root.setLevel(before[0])
    for handler in root.handlers[:]:
        if handler not in before[1]:
            root.removeHandler(handler)


class ManualRuntime(Runtime):
    """A runtime whose wall clock is set by hand."""

    def __init__(self, *, threads: bool = True) -> None:
        super().__init__()
        self.threads = threads
        self.at = 1_700_000_000_000

    def now(self) -> int:
        return self.at


class ManualPostgresStore(PostgresStore):
    """A store whose leases are measured by the runtime's clock, which is set by hand."""

    dialect = DIALECT._replace(now="cast(:now as bigint)")


@pytest.fixture
def runtime() -> ManualRuntime:
    return ManualRuntime()


@pytest.fixture
async def postgres_url():
    """An empty database."""
    async with postgres.database() as url:
        yield url


@pytest.fixture(params=["file", "memory", "inline", "exclusive", "postgres"])
async def store(request, tmp_path):
    """An open, migrated store of each kind: threads, memory, no threads, no threads and alone; a server."""
    runtime = ManualRuntime(threads=request.param in ("file", "memory", "postgres"))
    if request.param == "postgres":
        store = ManualPostgresStore(await postgres.create_database(), runtime)
    else:
        path = ":memory:" if request.param == "memory" else tmp_path / "test.db"
        store = SQLiteStore(path, runtime, exclusive=request.param == "exclusive")
    await store.open()
    await store.migrate()
    store.clock = runtime
    yield store
    await store.close()
    if request.param == "postgres":
        await postgres.drop_database(store.url)
