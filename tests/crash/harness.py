"""Processes for the harnesses, and how they report."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests import forked

ROOT = Path(__file__).resolve().parents[2]
HANG = 60.0  # seconds after which a harness gives up on something that must happen
FORBIDDEN = (
    "lost",
    "begun_after_commit",
    "stale_accepted",
    "duplicated",
    "changed",
    "corrupt",
    "torn",
    "gap",
    "disorder",
    "after_the_end",
    "undeleted",
    "stuck",
    "died",
    "locked",
    "overlap",
)


class Hang(Exception):
    """Something that must happen did not."""


class Child:
    """A process under attack: loaded and waiting, until it is told what to do."""

    def __init__(self) -> None:
        self._log = tempfile.TemporaryFile("w+")
        stdin, to_child = os.pipe()
        from_child, stdout = os.pipe()
        try:
            self.process = forked.start(
                "tests.crash.child", cwd=ROOT, stdin=stdin, stdout=stdout, stderr=self._log.fileno(), warn="default"
            )  # fmt: skip
        finally:
            os.close(stdin)
            os.close(stdout)
        self._orders, self._answers = open(to_child, "w"), open(from_child)

    @property
    def pid(self) -> int:
        return self.process.pid

    def go(self, config: dict[str, Any]) -> None:
        """Once it is loaded, give it its orders."""
        self.ready()
        self.tell(config)

    def ready(self) -> None:
        """Wait until it is loaded."""
        if self._answers.readline() != "warm\n":
            raise Hang(f"the child did not start:\n{self.output()}")

    def tell(self, config: dict[str, Any]) -> None:
        """Give it its orders."""
        self._orders.write(json.dumps(config) + "\n")
        self._orders.flush()

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.send(signal.SIGKILL)
        self.wait()

    def wait(self, timeout: float = HANG) -> int:
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise Hang(f"process {self.pid} does not end:\n{self.output()}") from None

    def alive(self) -> bool:
        return self.process.poll() is None

    def output(self) -> str:
        """What it wrote to stderr."""
        self._log.seek(0)
        return self._log.read()

    def close(self) -> None:
        """Whatever state it is in: end it."""
        self.send(signal.SIGCONT)
        self.kill()
        for stream in (self._orders, self._answers, self._log):
            stream.close()


class Nursery:
    """Starts children ahead of their use, and ends every one of them."""

    def __init__(self, ahead: int = 1) -> None:
        self._ahead = ahead
        self._waiting: deque[Child] = deque()
        self._all: list[Child] = []
        self._lock = threading.Lock()

    def __enter__(self) -> Nursery:
        return self

    def __exit__(self, *_: object) -> None:
        for child in self._all:
            child.close()

    def take(self) -> Child:
        """A child that waits for orders."""
        with self._lock:
            while len(self._waiting) <= self._ahead:
                self._waiting.append(Child())
                self._all.append(self._waiting[-1])
            return self._waiting.popleft()

    def spawn(self, config: dict[str, Any]) -> Child:
        child = self.take()
        child.go(config)
        return child

    def bury(self, child: Child) -> None:
        """Forget a child that is done."""
        child.close()
        with self._lock:
            self._all.remove(child)


@dataclass
class Report:
    """What a harness did and what it found."""

    harness: str
    seed: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    runs: int = 0
    steps: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    repeated_effects: int = 0
    wrong: Counter[str] = field(default_factory=Counter)
    samples: list[str] = field(default_factory=list)
    recovery: list[float] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def violations(self) -> int:
        return sum(self.wrong.values())

    def found(self, what: str, detail: str) -> None:
        self.wrong[what] += 1
        if len(self.samples) < 20:
            self.samples.append(f"{what}: {detail}")

    def take(self, world: Any) -> None:
        """Add a world's counts."""
        self.runs += len(set(world.acked.values()))
        self.steps += world.steps
        self.repeated_effects += world.repeats
        self.wrong.update(world.wrong)
        self.samples += world.samples[: max(0, 20 - len(self.samples))]

    def line(self) -> str:
        """The report as one line of JSON."""
        shown = {
            name: dict(value) if isinstance(value, Counter) else value
            for name, value in vars(self).items()
        }
        shown["wrong"] = {**dict.fromkeys(FORBIDDEN[:4], 0), "stuck": 0, **self.wrong}
        times = shown.pop("recovery")
        shown["recovery_mean_s"] = round(sum(times) / len(times), 3) if times else None
        shown["recovery_max_s"] = round(max(times), 3) if times else None
        shown["seconds"] = round(self.seconds, 1)
        shown |= shown.pop("extra")
        return json.dumps(shown)

    def check(self) -> None:
        """Fail the test when anything forbidden was found."""
        print(self.line())
        assert not self.violations, self.line()


@contextmanager
def folder(prefix: str) -> Iterator[Path]:
    """A short path, so that a socket fits into it."""
    path = Path(tempfile.mkdtemp(prefix=f"d{prefix}"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def until(true: Callable[[], Any], what: str, timeout: float = HANG, pause: float = 0.001) -> Any:
    """Wait for something that must happen."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if value := true():
            return value
        time.sleep(pause)
    raise Hang(what)


def main(run: Callable[..., Report], parser: argparse.ArgumentParser) -> None:
    """From the command line: one JSON line, and a failing exit for any violation."""
    report = run(**vars(parser.parse_args()))
    print(report.line())
    sys.exit(1 if report.violations else 0)
