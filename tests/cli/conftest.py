"""A directory with an application in it, and the ``durably`` command as a process in that directory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests import forked

APP = '''
"""A step ``hold`` waits for the file ``go``; each step appends its name to ``effects``."""
import asyncio
from pathlib import Path

from pydantic import BaseModel

from durably import Durably, Step, SyncStep, job, with_log_persistence

durably = Durably("jobs.db", polling_interval=0.1, heartbeat_interval=0.2, stale_threshold=2)
durably.use(with_log_persistence())
watcher = Durably("jobs.db", jobs=[], worker=False)
jobless = Durably("jobs.db")
text = "not a job"


class Wanted(BaseModel):
    steps: list[str]
    fails_without: str | None = None


class Done(BaseModel):
    count: int


async def do(name: str) -> str:
    with Path("effects").open("a") as effects:
        effects.write(name + "\\n")
    while name == "hold" and not Path("go").exists():
        await asyncio.sleep(0.01)
    return name


@durably.job("work")
async def work(step: Step, wanted: Wanted) -> Done:
    for i, name in enumerate(wanted.steps):
        await step.run(name, do, name)
        step.progress(i + 1, len(wanted.steps), name)
        step.log.info("did \\x1b[31m" + name, {"i": i})
    if wanted.fails_without and not Path(wanted.fails_without).exists():
        raise ValueError(f"no \\x1b[2J{wanted.fails_without}")
    return Done(count=len(wanted.steps))


watcher.register(work.definition)


@durably.job("nothing")
def nothing(step: SyncStep) -> None:
    """Takes no input."""


@job("loose")
async def loose(step: Step) -> int:
    return 7
'''


DURABLY = (sys.executable, "-W", "error", "-m", "durably.cli")


def wait_for(condition: Callable[[], Any], patience: float = 30.0) -> None:
    """Until it is so. The patience only keeps a broken test from hanging."""
    give_up = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < give_up, "waited in vain"
        time.sleep(0.01)


@dataclass
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Process:
    """A command that is still going on; what it says goes to a file, to be looked at meanwhile."""

    def __init__(
        self,
        program: tuple[str, ...],
        words: tuple[str, ...],
        place: Path,
        number: int,
        environment: dict[str, str],
    ) -> None:
        self._files = [place / f"{number}.{name}" for name in ("out", "err")]
        with self._files[0].open("wb") as out, self._files[1].open("wb") as err:
            streams = {"stdout": out.fileno(), "stderr": err.fileno()}
            self.process = (
                forked.start("durably.cli", *words, cwd=place, env={**os.environ, **environment},
                             warn="error", **streams)
                if program is DURABLY
                else subprocess.Popen(
                    [*program, *words], cwd=place, stdin=subprocess.DEVNULL, **streams,
                    env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
                )
            )  # fmt: skip

    def printed(self) -> str:
        return self._files[0].read_text()

    def said(self) -> str:
        return self._files[1].read_text()

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self) -> Result:
        code = self.process.wait(60)
        return Result(code, *(file.read_text() for file in self._files))


@dataclass
class Place:
    """Where the application is."""

    path: Path
    started: list[Process] = field(default_factory=list)

    def start(self, *words: str, **environment: str) -> Process:
        return self.start_program(DURABLY, *words, **environment)

    def start_program(self, program: tuple[str, ...], *words: str, **environment: str) -> Process:
        self.started.append(Process(program, words, self.path, len(self.started), environment))
        return self.started[-1]

    def durably(self, *words: str, **environment: str) -> Result:
        return self.start(*words, **environment).end()

    def effects(self) -> list[str]:
        file = self.path / "effects"
        return file.read_text().split() if file.exists() else []

    def go(self) -> None:
        (self.path / "go").touch()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    (tmp_path / "app.py").write_text(APP)
    place = Place(tmp_path)
    yield place
    for process in place.started:
        if process.process.poll() is None:
            process.process.kill()
            process.process.wait()
