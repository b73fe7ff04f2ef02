"""What other processes hear of several commits that come close together: the most urgent counts."""

import asyncio

import pytest

from durably.runtime import Runtime
from durably.store.base import Notice
from durably.store.postgres.notifier import Signals
from durably.store.postgres.store import PostgresStore


@pytest.mark.parametrize("urgent", [Notice.DUE, Notice.CANCEL])
async def test_a_commit_for_watchers_does_not_silence_an_urgent_one(emptied_url, urgent):
    store, heard = PostgresStore(emptied_url, Runtime()), asyncio.Queue[Notice]()
    one, two = (
        Signals(store._server, Runtime(), hears, listens=True)
        for hears in (lambda _: None, heard.put_nowait)
    )
    try:
        async with asyncio.timeout(30):
            while not (one.is_listening and two.is_listening):
                await asyncio.sleep(0.01)
        assert heard.get_nowait() is Notice.CANCEL  # whatever was sent while nobody listened
        one.send(urgent)
        one.send(Notice.JOURNAL)
        assert await asyncio.wait_for(heard.get(), 30) is urgent
    finally:
        await one.close()
        await two.close()
