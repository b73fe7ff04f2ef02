"""The threads of users' functions: as many at once as were asked for."""

import asyncio
import logging
import threading

from durably.threads import Running, Threads


async def test_calls_that_come_together_do_not_share_one_idle_thread():
    threads, running, meeting = Threads(2, "test"), Running(), threading.Barrier(2)
    try:
        await threads.call(running, lambda: None)
        async with asyncio.timeout(30):
            while not threads._idle:  # its result is known a little before it waits for more
                await asyncio.sleep(0.001)
        met = [threads.call(running, meeting.wait, 20) for _ in range(2)]
        assert sorted(await asyncio.gather(*met)) == [0, 1]
    finally:
        threads.close()


async def test_a_log_that_raises_does_not_lose_a_call_whose_thread_could_not_be_started(
    monkeypatch,
):
    refused, start = [], threading.Thread.start

    def refuse_once(thread):
        if thread.name.startswith("test-") and not refused:
            refused.append(thread.name)
            raise RuntimeError("can't start new thread")
        start(thread)

    def fail(record):
        raise RuntimeError("the collector is gone")

    monkeypatch.setattr(threading.Thread, "start", refuse_once)
    logger, threads = logging.getLogger("durably"), Threads(1, "test")
    logger.addFilter(fail)
    try:
        async with asyncio.timeout(30):
            assert await threads.call(Running(), lambda: 5) == 5
    finally:
        logger.removeFilter(fail)
        threads.close()
    assert refused == ["test-1"]
