"""The load on a column's server: the same requests over the same sockets, whoever answers.

The server is another process, started here: ``serve`` of the column's driver, which prints its port.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from .meter import Meter, Result, drive, percentile

BASE = "/api/durably"
WARM_UP = 50
_CONNECTING = 50  # subscribers that connect at the same time
_LAST = b'"run:complete"'


@asynccontextmanager
async def serving(server: Sequence[str], **options: Any) -> AsyncIterator[int]:
    """The port of the column's server; it is gone afterwards, so that its CPU time is counted."""
    process = subprocess.Popen(
        [*server, json.dumps(options)], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    try:
        line = await asyncio.to_thread(process.stdout.readline)
        yield json.loads(line)["port"]
    finally:
        process.kill()
        process.wait()


class Connection:
    """A connection that is kept and asked again and again."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, port: int) -> Connection:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def ask(self, method: str, path: str, body: Any = None) -> Any:
        """The JSON of an answer; None for one without any."""
        text = b"" if body is None else json.dumps(body).encode()
        self._writer.write(
            f"{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
            f"content-length: {len(text)}\r\n\r\n".encode()
            + text
        )
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        if b"chunked" in head:
            answer = b"".join([chunk async for chunk in self._chunks()])
        else:
            length = head.partition(b"content-length:")[2].partition(b"\r\n")[0]
            answer = await self._reader.readexactly(int(length))
        if b" 200 " not in head.partition(b"\r\n")[0]:
            raise RuntimeError(f"{method} {path}: {head!r} {answer!r}")
        return json.loads(answer) if answer else None

    async def _chunks(self) -> AsyncIterator[bytes]:
        while size := int(await self._reader.readline(), 16):
            yield await self._reader.readexactly(size)
            await self._reader.readline()
        await self._reader.readline()

    async def trigger(self, job: str, input: Any) -> str:
        """The id of a new run."""
        answer = await self.ask("POST", f"{BASE}/trigger", {"jobName": job, "input": input})
        return answer["runId"]

    def close(self) -> None:
        self._writer.close()


class Subscriber(asyncio.Protocol):
    """Counts the events that it is sent, and knows when the first and the last came."""

    def __init__(self) -> None:
        self.events = 0
        self.first_at = self.last_at = 0.0
        self._tail = b""
        self._transport: Any = None
        self.answered, self.heard, self.over = asyncio.Event(), asyncio.Event(), asyncio.Event()

    @classmethod
    async def follow(cls, port: int, run_id: str) -> Subscriber:
        loop = asyncio.get_running_loop()
        transport, subscriber = await loop.create_connection(cls, "127.0.0.1", port)
        path = f"{BASE}/subscribe?runId={run_id}"
        transport.write(f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".encode())
        return subscriber

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        self.answered.set()
        seen = self._tail + data
        count = seen.count(b"data: {")
        if count and not self.events:
            self.first_at = now
            self.heard.set()
        self.events += count
        if _LAST in seen:
            self.last_at = now
            self.over.set()
            self._transport.abort()
        # What might be the beginning of an event's; a whole one must not be counted twice.
        self._tail = seen[-len(_LAST) + 1 :].replace(b"data: {", b"")

    def leave(self) -> None:
        self._transport.abort()


async def triggers(server: Sequence[str], db: str, count: int, connections: int) -> Result:
    """Runs triggered per second; nobody executes them."""
    async with serving(server, db=db, worker=False) as port:
        opened = [await Connection.open(port) for _ in range(connections)]
        await _share(opened, max(WARM_UP, connections))
        meter = Meter()
        await _share(opened, count)
        meter.stop()
        for connection in opened:
            connection.close()
    return {"triggers_s": count / meter.wall}


async def _share(connections: Sequence[Connection], count: int) -> None:
    async def some(connection: Connection) -> None:
        for i in range(count // len(connections)):
            await connection.trigger("quick", i)

    await asyncio.gather(*(some(connection) for connection in connections))


async def events(server: Sequence[str], db: str, subscribers: int, steps: int) -> Result:
    """Events delivered per second: a run commits step after step, and all follow it."""
    async with serving(server, db=db) as port:
        asking = await Connection.open(port)
        await _run(asking, port, 1, WARM_UP)
        delivered, took = await _run(asking, port, subscribers, steps)
        asking.close()
    wanted = subscribers * (2 * steps + 1)  # each step's beginning and end, and the run's end
    if not wanted <= delivered <= wanted + 2 * subscribers:
        raise RuntimeError(f"{delivered} events were delivered, not {wanted}")
    return {"events_s": delivered / took}


async def _run(asking: Connection, port: int, count: int, steps: int) -> tuple[int, float]:
    run_id = await asking.trigger("burst", steps)
    followers: list[Subscriber] = []
    while len(followers) < count:
        some = min(_CONNECTING, count - len(followers))
        new = await asyncio.gather(*(Subscriber.follow(port, run_id) for _ in range(some)))
        for follower in new:
            await follower.heard.wait()
        followers += new
    before = sum(follower.events for follower in followers)
    began = time.perf_counter()
    await asking.ask("POST", "/go")
    for follower in followers:
        await follower.over.wait()
    took = max(follower.last_at for follower in followers) - began
    return sum(follower.events for follower in followers) - before, took


async def first(server: Sequence[str], db: str, count: int) -> Result:
    """From a trigger to the first event of its run; from a subscription to a running run's first."""
    async with serving(server, db=db) as port:
        asking = await Connection.open(port)
        from_trigger = [await _first_of_new(asking, port, i) for i in range(count)]
        run_id = await asking.trigger("burst", 1)
        await (await Subscriber.follow(port, run_id)).heard.wait()
        from_subscribe = [await _first_of_running(port, run_id) for _ in range(count)]
        asking.close()
    return {
        "trigger_p50_ms": percentile(from_trigger, 50) * 1e3,
        "trigger_p99_ms": percentile(from_trigger, 99) * 1e3,
        "subscribe_p50_ms": percentile(from_subscribe, 50) * 1e3,
        "subscribe_p99_ms": percentile(from_subscribe, 99) * 1e3,
    }


async def _first_of_new(asking: Connection, port: int, number: int) -> float:
    began = time.perf_counter()
    run_id = await asking.trigger("quick", number)
    took = await _first_of_running(port, run_id, began)
    await asyncio.sleep(0.011 + number % 7 * 0.0017)  # uneven, so that no poll falls into step
    return took


async def _first_of_running(port: int, run_id: str, began: float | None = None) -> float:
    began = began or time.perf_counter()
    subscriber = await Subscriber.follow(port, run_id)
    await subscriber.heard.wait()
    subscriber.leave()
    return subscriber.first_at - began


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    drive((triggers, events, first))
