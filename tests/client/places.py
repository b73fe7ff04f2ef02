"""What a client may meet: a real server that can be killed, a proxy that cuts, a server that says anything."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path

from tests import forked
from tests.ports import free_port

APP = '''
"""Jobs for a server that is killed: what they did is in the database alone."""
import asyncio
from pathlib import Path

from pydantic import BaseModel

from durably import Durably, Step, job, with_log_persistence


class Wanted(BaseModel):
    steps: int
    pause: float = 0.0
    fails_without: str | None = None


class Done(BaseModel):
    count: int


async def nap(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "x" * 100


@job("work")
async def work(step: Step, wanted: Wanted) -> Done:
    for i in range(wanted.steps):
        await step.run(f"step-{i}", nap, wanted.pause)
        step.progress(i + 1, wanted.steps, "working")
        step.log.info("did a step", {"i": i})
    if wanted.fails_without and not Path(wanted.fails_without).exists():
        raise ValueError(f"no {wanted.fails_without}")
    return Done(count=wanted.steps)


@job("by-default")
async def by_default(step: Step, n: int | None = 5) -> int | None:
    return n


@job("hold")
async def hold(step: Step) -> int:
    while not Path("go").exists():
        await asyncio.sleep(0.01)
    return 2**60


durably = Durably(
    "jobs.db", jobs=[work, hold, by_default], polling_interval=0.1, heartbeat_interval=0.2, stale_threshold=1
)
durably.use(with_log_persistence())
'''


class Server:
    """``durably serve`` as a process, always at the same address; killed and started at will."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/api/durably"
        self.process: forked.Forked | None = None
        (place / "app.py").write_text(APP)

    def start(self, *words: str) -> None:
        with (self.place / "said").open("ab") as said:
            self.process = forked.start(
                "durably.cli", "serve", "app:durably", "--port", str(self.port), *words, cwd=self.place,
                stdout=said.fileno(), stderr=said.fileno(), warn="error",
            )  # fmt: skip

    def await_up(self) -> None:
        give_up = time.monotonic() + 60
        while True:
            with suppress(OSError), closing(socket.create_connection(("127.0.0.1", self.port))):
                return
            assert self.process is not None
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < give_up, self.said()
            time.sleep(0.02)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def stop(self) -> None:
        """As a deploy does it: streams are ended, not broken."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) == 0, self.said()
        self.process = None

    def said(self) -> str:
        return (self.place / "said").read_text()


@asynccontextmanager
async def serving(
    handle: Callable[[asyncio.StreamReader, asyncio.StreamWriter], object],
) -> AsyncIterator[int]:
    """A TCP server on a free port of this machine; all its connections end with it."""
    tasks: set[asyncio.Task[None]] = set()

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            with suppress(OSError, asyncio.IncompleteReadError):
                await handle(reader, writer)  # type: ignore[misc]
        except asyncio.CancelledError:
            pass
        finally:
            tasks.discard(task)
            writer.transport.abort()

    server = await asyncio.start_server(one, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


class Proxy:
    """Stands before a server and cuts connections.

    ``budgets`` gives for each connection how many bytes of the answers pass before it is cut; None
    lets all pass. When it has no more, all pass.
    """

    def __init__(self, port: int, budgets: Iterator[int | None], *, politely: bool = False) -> None:
        self._port, self._budgets, self._politely = port, budgets, politely
        self.cuts = 0
        self.closed = False

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.closed:
            return
        budget = next(self._budgets, None)
        to_reader, to_writer = await asyncio.open_connection("127.0.0.1", self._port)
        asking = asyncio.create_task(_copy(reader, to_writer))
        try:
            if await _copy(to_reader, writer, budget):
                self.cuts += 1
                if self._politely:
                    writer.close()
                    await writer.wait_closed()
        finally:
            asking.cancel()
            to_writer.transport.abort()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
        async with serving(self) as port:
            yield f"http://127.0.0.1:{port}/api/durably"


async def _copy(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, budget: int | None = None
) -> bool:
    """Pass bytes on; True if the budget was used up."""
    while chunk := await reader.read(65536):
        if budget is not None:
            chunk, left = chunk[:budget], budget - len(chunk)
            budget = left
        writer.write(chunk)
        await writer.drain()
        if budget is not None and budget <= 0:
            return True
    return False


class Canned:
    """Gives prepared answers, one a request, and then closes each connection."""

    def __init__(self, *answers: bytes) -> None:
        self._answers = list(answers)
        self.requests: list[bytes] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.requests.append(head)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        writer.write(answer)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
        async with serving(self) as port:
            yield f"http://127.0.0.1:{port}/api/durably"


def answer(status: str, body: str, *headers: str, kind: str = "application/json") -> bytes:
    """An HTTP answer."""
    lines: Sequence[str] = (
        f"HTTP/1.1 {status}",
        f"content-type: {kind}",
        f"content-length: {len(body.encode())}",
        "connection: close",
        *headers,
    )
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()
