"""A started instance on a real file and on a real server, with short times."""

import pytest

from durably import Durably
from tests import postgres


@pytest.fixture(params=["file", "postgres"])
async def database(request, tmp_path):
    """Where the instances of a test keep their runs."""
    if request.param == "file":
        yield tmp_path / "app.db"
        return
    async with postgres.database() as url:
        yield url


@pytest.fixture
async def make(database):
    """Makes instances on one database; all are stopped at the end."""
    made = []

    async def make(*jobs, start=True, **options):
        settings = {
            "polling_interval": 0.05,
            "heartbeat_interval": 0.1,
            "stale_threshold": 1.0,
            **options,
        }
        durably = Durably(database, jobs=jobs, **settings)
        made.append(durably)
        if start:
            await durably.init()
        return durably

    yield make
    for durably in made:
        await durably.stop(0)


@pytest.fixture
async def durably(make):
    return await make()
