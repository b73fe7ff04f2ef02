"""A started instance on a real file, with short times."""

import pytest

from durably import Durably


@pytest.fixture
async def make(tmp_path):
    """Makes instances on one file; all are stopped at the end."""
    made = []

    async def make(*jobs, start=True, **options):
        settings = {
            "polling_interval": 0.05,
            "heartbeat_interval": 0.1,
            "stale_threshold": 1.0,
            **options,
        }
        durably = Durably(tmp_path / "app.db", jobs=jobs, **settings)
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
