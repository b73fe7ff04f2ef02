"""The command where streams, encodings and applications are awkward."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from durably.cli import main

APP = """
import asyncio
from durably import Durably, Step
async def read_settings():
    return "jobs.db"
durably = Durably(asyncio.run(read_settings()))
@durably.job("日本の仕事")
async def hi(step: Step) -> str:
    return "終"
class Auth:
    def authenticate(self, request): ...
"""
UNGUARDED = """
async def main():
    async with durably:
        await hi.trigger_and_wait()
asyncio.run(main())
"""


def durably(here: Path, *words: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "durably.cli", *words],
        **{"cwd": here, "capture_output": True, "timeout": 60, **options},
    )


@pytest.fixture
def here(tmp_path):
    (tmp_path / "app.py").write_text(APP, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    "words",
    ["run app:hi", "worker app:durably --until-idle", "jobs app:durably", "migrate --app app:durably",
     "codegen ts app:durably"],
)  # fmt: skip
def test_an_application_may_run_a_loop_while_it_is_imported(here, words):
    done = durably(here, *words.split())
    assert done.returncode == 0, done.stderr


def test_so_may_the_module_of_the_auth(here):
    done = durably(
        here,
        "serve",
        "app:durably",
        "--auth",
        "app:Auth",
        "--host",
        "nowhere.invalid",
        "--port",
        "0",
    )
    assert b"nowhere.invalid" in done.stderr
    assert done.returncode == 2


@pytest.mark.parametrize("words", ["run app:hi", "worker app:durably", "jobs app:durably"])
def test_a_program_that_runs_when_imported_is_told_to_guard_it(here, words):
    (here / "app.py").write_text(APP + UNGUARDED, encoding="utf-8")
    done = durably(here, *words.split())
    assert done.returncode == 2
    assert b"__main__" in done.stderr
    assert done.stderr.count(b"\n") == 1
    assert not (here / "jobs.db").exists()


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
@pytest.mark.parametrize("words", ["run app:hi", "runs list --db jobs.db", "jobs app:durably"])
def test_what_the_output_cannot_encode_is_escaped(here, encoding, words):
    assert durably(here, "run", "app:hi").returncode == 0
    done = durably(here, *words.split(), env={**os.environ, "PYTHONIOENCODING": encoding})
    assert done.returncode == 0, done.stderr
    assert b"\\u" in done.stdout


@pytest.mark.skipif(os.name == "nt", reason="a shell that closes a stream")
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("words", ["run app:hi", "jobs app:durably", "nonsense"])
def test_a_closed_stream_changes_nothing(here, closed, words):
    line = f"{sys.executable} -m durably.cli {words} {closed}"
    done = subprocess.run(["sh", "-c", line], cwd=here, capture_output=True, timeout=60)
    assert done.returncode == (2 if words == "nonsense" else 0), done.stderr
    assert b"Traceback" not in done.stderr
    assert not done.stdout or ">&-" not in closed.replace("2>&-", "")


def test_without_any_streams(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    assert main(["migrate", "--db", "jobs.db"]) == 0
    assert main(["runs", "show", "none", "--db", "jobs.db"]) == 1
    sys.stdout.close()
    sys.stderr.close()
