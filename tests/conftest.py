"""Fixtures that every test may use: real stores on real files and on a real server."""

import pytest
from hypothesis import HealthCheck, settings

from durably.runtime import Runtime
from durably.store.postgres.statements import DIALECT
from durably.store.postgres.store import PostgresStore
from durably.store.sqlite import SQLiteStore
from tests import parallel, postgres

# A busy machine is no failure.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):
        parallel.sort(items)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    return parallel.scheduler(config, log)


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
