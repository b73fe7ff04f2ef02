"""durably.sync(): nobody hangs when it is closed under them."""

import asyncio
import threading

import pytest

from durably import Step
from durably.errors import ClosedError


async def test_closing_frees_whoever_waits(make):
    durably = await make(start=False)
    blocking = durably.sync()
    heard: list[BaseException] = []
    waits = threading.Event()

    async def forever() -> None:
        waits.set()
        await asyncio.sleep(3600)

    def wait() -> None:
        try:
            blocking.call(forever())
        except ClosedError as error:
            heard.append(error)

    await asyncio.to_thread(blocking.init)
    thread = threading.Thread(target=wait)
    thread.start()
    assert await asyncio.to_thread(waits.wait, 10)
    await asyncio.to_thread(blocking.stop)
    await asyncio.to_thread(thread.join, 10)
    assert len(heard) == 1
    with pytest.raises(ClosedError):
        blocking.get_runs()


async def test_a_stream_left_open_ends_with_it(make):
    durably = await make(start=False)

    @durably.job("one")
    async def one(step: Step) -> None:
        await asyncio.sleep(0)

    def use() -> None:
        with durably.sync() as blocking:
            stream = blocking.subscribe(blocking.trigger(one).id)
            assert next(stream).type == "run:trigger"
        with pytest.raises(ClosedError):
            next(stream)

    await asyncio.to_thread(use)


def test_it_is_always_the_same(tmp_path):
    from durably import Durably

    durably = Durably(tmp_path / "a.db")
    assert durably.sync() is durably.sync()
