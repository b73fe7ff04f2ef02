"""``durably demo`` from end to end: real workers, really killed."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

import durably.demo.index_stdlib
from durably.demo import census
from durably.demo.worker import WorkerFailedError, WorkerProcess
from tests.tier import TIER

for_ci = pytest.mark.skipif(TIER == "quick", reason="three times as long: the ci tier's")


class Demo:
    """The command, with a directory of its own to keep its state in."""

    def __init__(self, caches: Path) -> None:
        self.place = caches / "durably-demo"
        self._env = {**os.environ, "XDG_CACHE_HOME": str(caches)}
        self._started: list[subprocess.Popen[str]] = []

    def start(self, *words: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "durably.cli", "demo", *words],
            env=self._env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # A shell's background jobs ignore SIGINT, and so would our children.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        self._started.append(process)
        return process

    def run(self, *words: str) -> tuple[int, str]:
        process = self.start(*words)
        out, _ = process.communicate(timeout=120)
        return process.returncode, out

    def indexed(self) -> int:
        """How many files are in the index."""
        if not (self.place / "index.db").exists():
            return 0
        with suppress(Exception), census.open_index(self.place / "index.db") as index:
            return index.size()
        return 0

    def end(self) -> None:
        for process in self._started:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                process.communicate(timeout=30)


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    demo = Demo(tmp_path)
    yield demo
    demo.end()


def wait_for(condition: Callable[[], bool], patience: float = 60.0) -> None:
    """Until it is so. The patience only keeps a broken test from hanging."""
    give_up = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < give_up, "waited in vain"
        time.sleep(0.01)


@pytest.mark.parametrize("words", [(), pytest.param(("--all",), marks=for_ci)])
def test_the_whole_library(demo: Demo, words: tuple[str, ...]) -> None:
    code, said = demo.run(*words)
    assert code == 0, said
    assert "was killed (SIGKILL)" in said
    assert "2 attempts, by 2 workers:" in said
    assert "skipped, from their checkpoints:" in said
    assert "ran again, begun before and not committed: index-" in said
    assert "comes to exactly the same." in said
    assert f"The job's code: {durably.demo.index_stdlib.__file__}" in said
    shown = [line.strip() for line in said.partition("Look at it:\n")[2].splitlines()]
    assert [line.split(" --db ")[1] for line in shown] == [str(demo.place / "jobs.db")] * 3
    listed, run, logged = (subprocess.check_output(line, shell=True, text=True) for line in shown)
    assert "index-stdlib" in listed
    assert "index-stdlib" in run
    assert "indexed" in logged


def test_an_interrupted_demo_goes_on(demo: Demo) -> None:
    words = ("--limit", "600")
    first = demo.start(*words)
    wait_for(lambda: demo.indexed() > 5)
    first.send_signal(signal.SIGINT)
    said, _ = first.communicate(timeout=30)
    assert first.returncode == 130
    assert "The same command goes on from here" in said
    assert demo.run("--limit", "550")[0] == 1, "other files are another demo"
    code, said = demo.run(*words)
    assert code == 0, said
    assert "Going on with the run of before: pending" in said
    assert "comes to exactly the same." in said
    code, said = demo.run("--limit", "20")
    assert (code, "Going on" in said) == (0, False), "what is over is not gone on with"


def test_a_count_that_differs_is_named(demo: Demo) -> None:
    first = demo.start("--limit", "600")
    wait_for(lambda: demo.indexed() > 55)
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=30)
    with closing(sqlite3.connect(demo.place / "index.db")) as connection, connection:
        path = "select min(path) from modules"
        connection.execute(f"update modules set lines = lines + 7 where path = ({path})")
    code, said = demo.run("--limit", "600")
    assert code == 1
    assert "WRONG: lines: " in said
    assert "exactly the same" not in said
    assert demo.place.exists(), "kept, to be looked at"


def test_an_index_that_another_process_makes_is_opened_when_it_is_made(tmp_path: Path) -> None:
    path = tmp_path / "index.db"
    options = {"isolation_level": None, "check_same_thread": False}
    with closing(sqlite3.connect(path, **options)) as writer:
        writer.execute("create table other (id)")
        writer.execute("begin immediate")  # SQLite does not wait for it to switch to WAL
        threading.Timer(0.1, writer.rollback).start()
        with census.open_index(path) as index:
            assert index.size() == 0


def test_a_worker_that_fails_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "jobs.db").write_bytes(b"no database" * 1000)
    worker = WorkerProcess(tmp_path)

    def failed() -> bool:
        try:
            worker.keep_running()
        except WorkerFailedError as error:
            return "durably: error: jobs.db" in str(error).replace(f"{tmp_path}/", "")
        return False

    wait_for(failed)


def test_the_job_is_short_enough_to_read() -> None:
    source = Path(durably.demo.index_stdlib.__file__).read_text("utf-8")
    assert len(source.splitlines()) < 65
