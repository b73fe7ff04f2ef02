"""T16: a crowd listens to one process while another works.

``python -m tests.http.streams.crowd --subscribers 2000 --seconds 3600`` prints one line of JSON: what was
asked, what was seen. It fails when anything forbidden was: a subscriber that missed an event or its run's
end, or was told twice; a slow reader that costs more than a mebibyte; anything that is left.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.http.streams.app import Settings
from tests.http.streams.reader import PATIENCE, Block, Reader, leave_all
from tests.http.streams.server import BAD, Server, Worker

PAUSE = 0.5  # seconds between two steps of a run: 50 runs give 100 events a second
WINDOW = 4_096  # bytes of a slow reader's socket
FLOOD = 250  # steps of 20 KB: 5 MB that slow readers do not read
WAKING = 3  # of those who do not read: they read at last
AT_ONCE = 100  # connections that are being made
MEBIBYTE = 2**20
_PROGRESS = re.compile(r'"progress":\{"current":(\d+)')
_NUMBERED = re.compile(r'"type":"([a-z:]+)","runId":"([^"]+)".*"sequence":(\d+)\}$')


@dataclass
class Options:
    """How large the crowd is."""

    subscribers: int = 1_000
    runs: int = 50
    seconds: float = 10.0
    slow: int = 50
    """Who never read."""
    cycles: int = 500
    """Who connect and leave."""
    lists: float = 0.05
    """The share of the subscribers that follow all runs."""
    restarts: int = 0
    """How often the server is killed and started again; all come back."""
    seed: int = 7
    plant: str = ""
    patience: float = PATIENCE
    """Seconds to wait for what is missing."""


@dataclass
class Report:
    """What was seen; the first ones are forbidden."""

    missed: int = 0
    missed_ends: int = 0
    missed_progress: int = 0
    """The last one of a run."""
    twice_or_disordered: int = 0
    left: dict[str, Any] = field(default_factory=dict)
    too_large: float = 0.0
    """Bytes for each slow reader, if more than a mebibyte."""
    bad_lines: int = 0
    """Of the logs."""

    events: int = 0
    delivered: int = 0
    reconnects: int = 0
    resyncs: int = 0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    slow_mib: float = 0.0
    """Memory for each slow reader."""
    crowd_kib: float = 0.0
    """Memory for each other subscriber."""
    cpu_us: float = 0.0
    """CPU time of the server for each delivered event, with all that went on beside."""
    took: float = 0.0

    @property
    def violations(self) -> dict[str, Any]:
        """What must not be."""
        wrong = {
            "missed": self.missed,
            "missed_ends": self.missed_ends,
            "missed_progress": self.missed_progress,
            "twice_or_disordered": self.twice_or_disordered,
            "left": self.left,
            "too_large": self.too_large,
            "bad_lines": self.bad_lines,
        }
        return {name: found for name, found in wrong.items() if found}


class Subscriber:
    """Follows a run as a page does: comes back by id, and stops at the end."""

    def __init__(self, crowd: Crowd, run_id: str) -> None:
        self._crowd, self.run_id = crowd, run_id
        self.told: list[int] = []
        self.progress = 0
        self.ended = self.was_away = False
        self.connected = asyncio.Event()
        self.task = asyncio.create_task(self._follow())

    async def _follow(self) -> None:
        while not self.ended:
            last_id = self.told[-1] if self.told else 0
            with suppress(OSError, TimeoutError):
                async with self._crowd.door:
                    reader = await self._crowd.server.subscribe(
                        self.run_id, last_id, hear=self._hear
                    )
                assert reader.status == 200, reader.status
                self.connected.set()
                await reader.end()
                reader.leave()
            if not self.ended:
                self.was_away = True
                self._crowd.report.reconnects += 1
                await asyncio.sleep(self._crowd.chance.random())

    def _hear(self, block: Block) -> None:
        if block.id is None:
            if (found := _PROGRESS.search(block.text)) is not None:
                self.progress = int(found[1])
            return
        self.told.append(block.id)
        self._crowd.heard(block)
        self.ended = '"type":"run:complete"' in block.text

    def check(self, events: int) -> None:
        """Everything once, in order, to the end."""
        report = self._crowd.report
        report.missed_ends += not self.ended
        report.missed_progress += not self.was_away and self.progress != 2
        report.missed += len(set(range(1, events + 1)) - set(self.told))
        report.twice_or_disordered += self.told != sorted(set(self.told))


class ListSubscriber:
    """Follows all runs; comes back too."""

    def __init__(self, crowd: Crowd) -> None:
        self._crowd = crowd
        self._told: dict[str, list[int]] = {}
        self._ended: set[str] = set()
        self._was_away = False
        self.connected = asyncio.Event()
        self.task = asyncio.create_task(self._follow())

    async def _follow(self) -> None:
        while True:
            with suppress(OSError, TimeoutError):
                async with self._crowd.door:
                    reader = await self._crowd.server.follow(
                        was_away=self._was_away, hear=self._hear
                    )
                self.connected.set()
                self._was_away = True
                await reader.end()
            await asyncio.sleep(self._crowd.chance.random())

    def _hear(self, block: Block) -> None:
        if '"type":"runs:resync"' in block.text:
            self._told.clear()  # a page reads its list again
            self._crowd.report.resyncs += 1
        elif (found := _NUMBERED.search(block.text)) is not None:
            type, run_id, number = found.groups()
            self._told.setdefault(run_id, []).append(int(number))
            if type == "run:complete":
                self._ended.add(run_id)
            self._crowd.heard(block)

    def missing_ends(self, runs: Iterable[str]) -> set[str]:
        """Runs whose end it was not told; one that was away has read the list instead."""
        return set() if self._was_away and self._crowd.restarted else set(runs) - self._ended

    def check(self, runs: list[str]) -> None:
        report = self._crowd.report
        report.missed_ends += len(self.missing_ends(runs))
        for numbers in self._told.values():
            wanted = list(range(numbers[0], numbers[0] + len(numbers)))
            report.twice_or_disordered += numbers != wanted


class Crowd:
    """A server, a worker, and all who listen."""

    def __init__(self, folder: Path, options: Options) -> None:
        self.options, self.report = options, Report()
        self.chance = random.Random(options.seed)
        self.door = asyncio.Semaphore(AT_ONCE)
        self.restarted = False
        self._folder = folder
        shared: dict[str, Any] = {"durability": "process", "max_concurrent_runs": 2 * options.runs}
        limits = {"streams": 2 * options.subscribers + options.slow + options.cycles}
        self.server = Server(
            Settings(str(folder), worker=False, limits=limits, plant=options.plant, options=shared),
            "server",
        )
        self._worker = Worker(Settings(str(folder), options=shared), "worker")
        self._late: list[float] = []
        self._offset = time.time() - time.monotonic()

    def heard(self, block: Block) -> None:
        """Note how late an event came, if it is of those that happened while all were there."""
        self.report.delivered += 1
        if '"type":"run:trigger"' in block.text or '"type":"run:start"' in block.text:
            return
        _, _, rest = block.text.partition('"timestamp":"')
        happened = datetime.fromisoformat(rest[:24]).timestamp()
        self._late.append(block.at + self._offset - happened)

    async def run(self) -> Report:
        began = time.monotonic()
        _allow_files(2 * self.options.subscribers + 1_000)
        try:
            await self.server.start()
            await self._worker.start()
            await self._listen()
        finally:
            leave_all()
            for process in (self.server, self._worker):
                process.kill()
                self.report.bad_lines += len(BAD.findall(process.said))
        self._late.sort()
        if self._late:
            self.report.p50_ms = self._late[len(self._late) // 2] * 1e3
            self.report.p99_ms = self._late[len(self._late) * 99 // 100] * 1e3
        self.report.took = time.monotonic() - began
        return self.report

    async def _listen(self) -> None:
        await self._cycles(20)  # whatever the first ones cost
        if self.options.slow:
            await self._flood("warm-up", 100, 0, 0)
        with suppress(AssertionError):
            await self.server.until(lambda held: not held["watchers"], self.options.patience)
        before = await self.server.probe()
        steps = max(1, int(self.options.seconds / PAUSE))
        work = ["steps", steps, 10, PAUSE]
        # Two values soon after one another, and the end: the last must not be lost.
        end = [["progress", 1], ["sleep", 0.06], ["progress", 2]]
        count = self.options.runs
        scripts = [
            [["gate", "begin"], ["sleep", i * PAUSE / count], work, *end] for i in range(count)
        ]
        runs = await asyncio.gather(*(self.server.trigger(*script) for script in scripts))
        subscribers, lists = await self._gather(runs)
        after = await self.server.probe()
        crowd = len(subscribers) + len(lists)
        self.report.crowd_kib = (after["rss"] - before["rss"]) / crowd / 1024
        (self._folder / "begin").touch()
        await self._disturb()
        await asyncio.wait(
            {each.task for each in subscribers},
            timeout=self.options.seconds + self.options.patience,
        )
        for each in subscribers:
            each.task.cancel()
            each.check(steps + 3)
        self.report.events = count * (steps + 3)
        if not self.restarted:
            busy = (await self.server.probe())["cpu"] - after["cpu"]
            self.report.cpu_us = busy / max(1, self.report.delivered) * 1e6
        await self._until(lambda: not any(each.missing_ends(runs) for each in lists))
        for each in lists:
            each.check(runs)
            each.task.cancel()
        leave_all()
        await self._check_left(before)

    async def _gather(self, runs: list[str]) -> tuple[list[Subscriber], list[ListSubscriber]]:
        many = round(self.options.subscribers * self.options.lists)
        lists = [ListSubscriber(self) for _ in range(many)]
        rest = self.options.subscribers - many
        subscribers = [Subscriber(self, runs[i % len(runs)]) for i in range(rest)]
        for each in [*lists, *subscribers]:
            await asyncio.wait_for(each.connected.wait(), PATIENCE)
        return subscribers, lists

    async def _disturb(self) -> None:
        await asyncio.gather(self._slow_readers(), self._cycles(self.options.cycles))
        for _ in range(self.options.restarts):
            await asyncio.sleep(self.options.seconds / (self.options.restarts + 1))
            self.restarted = True
            self.server.kill()
            await self.server.start()

    async def _slow_readers(self) -> None:
        if self.options.slow:
            pause = self.options.seconds / FLOOD / 1.5
            await self._flood("flood", FLOOD, pause, self.options.slow)

    async def _flood(self, gate: str, steps: int, pause: float, slow: int) -> None:
        """A run whose events are large, and those who do not read them."""
        run_id = await self.server.trigger(["gate", gate], ["steps", steps, 20_000, pause])
        readers: list[Reader] = []
        for _ in range(slow):
            reader = await self.server.subscribe(run_id, 0, window=WINDOW)
            reader.pause()
            readers.append(reader)
        before = (await self.server.probe())["rss"]
        (self._folder / gate).touch()
        witness = await self.server.subscribe(run_id, 0, hear=lambda block: None)
        await asyncio.wait_for(witness.end(), 4 * PATIENCE)
        if slow:
            grown = max(0, (await self.server.probe())["rss"] - before) / slow
            self.report.slow_mib = grown / MEBIBYTE
            self.report.too_large = grown if grown > MEBIBYTE else 0.0
        for reader in readers[WAKING:]:
            reader.leave()
        for reader in readers[:WAKING]:
            reader.resume()
            with suppress(TimeoutError):
                await asyncio.wait_for(reader.end(), self.options.patience)
            numbers = [block.id for block in reader.blocks if block.id is not None]
            self.report.missed += len(set(range(1, steps + 4)) - set(numbers))
            self.report.twice_or_disordered += numbers != sorted(set(numbers))

    async def _cycles(self, count: int) -> None:
        async def come_and_go() -> None:
            async with self.door:
                reader = await self.server.connect("/runs/subscribe")
                if self.chance.random() < 0.7:
                    with suppress(ConnectionError):
                        await reader.answered()
                reader.leave()

        for first in range(0, count, 10):
            await asyncio.gather(*(come_and_go() for _ in range(min(10, count - first))))

    async def _until(self, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + self.options.patience
        while not done() and time.monotonic() < deadline:
            await asyncio.sleep(0.05)

    async def _check_left(self, before: dict[str, Any]) -> None:
        wanted = ("streams", "watchers", "fds")
        with suppress(AssertionError):
            await self.server.until(
                lambda held: (
                    all(held[name] <= before[name] for name in wanted)
                    and set(held["tasks"]) <= set(before["tasks"])
                ),
                self.options.patience,
            )
        held = await self.server.probe()
        for name in wanted:
            if held[name] > before[name] and not self.restarted:
                self.report.left[name] = held[name] - before[name]
        for name in ("streams", "watchers"):
            if held[name]:
                self.report.left[name] = held[name]
        tasks = set(held["tasks"]) - set(before["tasks"])
        if tasks and not self.restarted:
            self.report.left["tasks"] = sorted(tasks)


def _allow_files(count: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(count, hard), hard))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.http.streams.crowd", description=__doc__)
    for name, value in asdict(Options()).items():
        parser.add_argument(f"--{name}", type=type(value), default=value)
    options = Options(**vars(parser.parse_args()))
    with tempfile.TemporaryDirectory() as folder:

        async def run() -> Report:
            return await Crowd(Path(folder), options).run()

        report = asyncio.run(run())
    print(json.dumps({"options": asdict(options), **asdict(report)}))
    if report.violations:
        sys.exit(f"forbidden: {report.violations}")


if __name__ == "__main__":
    main()
