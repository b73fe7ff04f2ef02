"""The programs that these tests serve and watch.

``uvicorn tests.http.streams.app:api`` serves ``/api/durably``, and below it ``/probe``, which tells
what the process holds; ``python -m tests.http.streams.app`` works without serving. ``Settings`` says which
environment they read.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from durably import Durably, Step, with_log_persistence
from durably.http import Limits, asgi
from tests.http.streams import plants

logging.getLogger("durably.runs").addHandler(logging.NullHandler())  # runs fail here on purpose

Script = list[list[Any]]
"""What a run does, in order: ``[word, argument, …]``, see ``Work``."""


class Settings(NamedTuple):
    """Given as the variable ``STREAMS``, in JSON."""

    folder: str
    """Of the database, where it is a file, and of the gates: files for which runs wait."""
    url: str = ""
    """Of the database, where it is on a server."""
    worker: bool = True
    logs: bool = False
    """Whether log lines are kept."""
    limits: dict[str, Any] = {}
    stuck: float = 30.0
    """Seconds that a client may not read."""
    plant: str = ""
    """A bug to plant: see ``plants``."""
    options: dict[str, Any] = {}
    """More of ``Durably``'s."""


class Work:
    """One run of a script."""

    def __init__(self, step: Step, gates: Path) -> None:
        self._step, self._gates = step, gates

    async def step(self, name: str, output: Any = None) -> None:
        async def produce() -> Any:
            return output

        await self._step.run(name, produce, returns=Any)

    async def steps(self, count: int, size: int = 0, pause: float = 0.0) -> None:
        for i in range(count):
            await self.step(f"step-{i}", "x" * size)
            await asyncio.sleep(pause)

    async def progress(self, current: int, total: int | None = None) -> None:
        self._step.progress(current, total)

    async def count(self, total: int, pause: float) -> None:
        for i in range(1, total + 1):
            self._step.progress(i, total)
            await asyncio.sleep(pause)

    async def log(self, message: str) -> None:
        self._step.log.info(message)

    async def logs(self, count: int) -> None:
        for i in range(count):
            self._step.log.info("line", i)
            if i % 100 == 99:
                await asyncio.sleep(0.001)

    async def gate(self, name: str) -> None:
        while not (self._gates / name).exists():
            await asyncio.sleep(0.005)

    async def sleep(self, delay: float) -> None:
        await asyncio.sleep(delay)

    async def fail(self, message: str) -> None:
        raise ValueError(message)


def make(settings: Settings) -> Durably:
    """An instance on the folder's database, with a job of each name that tests ask for."""
    folder = Path(settings.folder)
    short = {"polling_interval": 0.05, "heartbeat_interval": 0.2, "stale_threshold": 2.0}
    database = settings.url or folder / "jobs.db"
    durably = Durably(database, worker=settings.worker, **short | settings.options)
    if settings.logs:
        durably.use(with_log_persistence())

    async def script(step: Step, input: Script) -> str:
        work = Work(step, folder)
        for word, *arguments in input:
            await getattr(work, word)(*arguments)
        return "done"

    for name in ("script", "other"):
        durably.job(name)(script)
    return durably


class Counts:
    """How often the store was asked what."""

    _WORDS = ("changed", "journal", "run", "state", "tail", "in_progress", "end_of_tail")

    def __init__(self, durably: Durably) -> None:
        self.calls: Counter[str] = Counter()
        for word in self._WORDS:
            setattr(
                durably._engine.store,
                word,
                self._counted(word, getattr(durably._engine.store, word)),
            )

    def _counted(self, word: str, method: Any) -> Any:
        async def counted(*args: Any, **options: Any) -> Any:
            self.calls[word] += 1
            return await method(*args, **options)

        return counted


class Probed:
    """The application, and beside it what its process holds."""

    def __init__(self, durably: Durably, app: Any) -> None:
        self._durably, self._app = durably, app
        self._counts = Counts(durably)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or not scope["path"].endswith("/probe"):
            await self._app(scope, receive, send)
            return
        body = json.dumps(self._held()).encode()
        headers = [(b"content-length", b"%d" % len(body)), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _held(self) -> dict[str, Any]:
        feed = self._durably._engine.session.feed
        if not (feed and feed.watchers):  # it takes a while, for which the others would wait
            gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return {
            "streams": self._app.handler.streams,
            "watchers": feed.watchers if feed else 0,
            "tasks": Counter(task.get_name().rstrip("-0123456789") for task in asyncio.all_tasks()),
            "fds": len(os.listdir("/proc/self/fd")),
            "rss": pages * os.sysconf("SC_PAGE_SIZE"),
            "cpu": time.process_time(),
            "calls": self._counts.calls,
        }


def _settings() -> Settings:
    return Settings(**json.loads(os.environ["STREAMS"]))


async def _work() -> None:
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    async with make(_settings()):
        print("ready", flush=True)
        await stopped.wait()


if __name__ == "__main__":
    asyncio.run(_work())
elif "STREAMS" in os.environ:
    plants.plant(_settings().plant)
    asgi._STUCK = _settings().stuck
    durably = make(_settings())
    api = Probed(durably, durably.asgi(limits=Limits(**_settings().limits)))
