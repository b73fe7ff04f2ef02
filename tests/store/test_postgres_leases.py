"""The thread that renews leases: it ends with its store, whatever the server does."""

import asyncio
import logging
import threading

import pytest

from durably.runtime import Runtime
from durably.store.postgres.store import PostgresStore
from durably.store.records import Lease


class Stuck(logging.Handler):
    """Whoever logs waits for it."""

    def __init__(self):
        super().__init__()
        self.met, self.free = threading.Event(), threading.Event()

    def emit(self, record):
        self.met.set()
        self.free.wait(60)


@pytest.fixture
def stuck():
    handler = Stuck()
    logging.getLogger("durably").addHandler(handler)
    yield handler
    handler.free.set()
    logging.getLogger("durably").removeHandler(handler)


async def test_renewals_wait_for_no_log_handler_and_tell_each_failure(
    emptied_url, monkeypatch, stuck
):
    store, tries = PostgresStore(emptied_url, Runtime()), []
    await store.open()

    async def broken_once(link, wanted):
        tries.append(1)
        if len(tries) == 1:
            raise ConnectionError("the server is away")
        return ["r"]

    monkeypatch.setattr(store._leases, "_try", broken_once)
    loop = asyncio.get_running_loop()
    renewed, failed = loop.create_future(), loop.create_future()
    lease = Lease("r", "t", 1, 1000)
    try:
        store.renew([lease], 1, loop, renewed.set_result, failed.set_result)
        async with asyncio.timeout(30):
            assert str(await failed) == "the server is away"
            assert await renewed == ["r"]  # the handler waits on
        assert await asyncio.to_thread(stuck.met.wait, 30)
    finally:
        stuck.free.set()
        await store.close()


async def test_a_store_closes_while_leases_cannot_be_renewed(emptied_url, monkeypatch):
    store, tried, mended = PostgresStore(emptied_url, Runtime()), threading.Event(), []
    await store.open()

    async def broken(link, wanted):
        tried.set()
        if not mended:
            raise ConnectionError("the server is away")
        return []

    monkeypatch.setattr(store._leases, "_try", broken)
    store.renew([Lease("r", "t", 1, 1000)], 1, asyncio.get_running_loop(), lambda _: None)
    closing = None
    try:
        assert await asyncio.to_thread(tried.wait, 30)
        closing = asyncio.ensure_future(store.close())
        await asyncio.wait_for(asyncio.shield(closing), 30)
    finally:
        mended.append(True)
        await (closing or store.close())
