"""An id that no run can have is no trouble of the database, on a file or on a server."""

import pytest

from durably import errors

NO_ID = ["", "a", "a\0b", "\ud800", "x" * 1_000, "'; --"]


async def test_an_id_that_no_run_can_have(make):
    durably = await make(worker=False)
    calls = [durably.retry, durably.retrigger, durably.cancel, durably.delete_run]
    calls += [durably.get_steps, durably.get_logs, durably.wait]
    for run_id in NO_ID:
        assert await durably.get_run(run_id) is None
        for call in calls:
            with pytest.raises(errors.RunNotFoundError):
                await call(run_id)
        with pytest.raises(errors.RunNotFoundError):
            await anext(durably.subscribe(run_id))
    for call in (durably.get_run, *calls):
        with pytest.raises(errors.ConfigurationError, match="run_id must be a str, not 5"):
            await call(5)
