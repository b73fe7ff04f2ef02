"""The tutorial, done as a reader does it: its file, its commands, a kill in the middle."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
from pathlib import Path

from . import blocks as doc

PAGE = doc.ROOT / "docs/tutorial/first-job.md"
PAUSE = '"], "pause": 0.3}'  # shorter than the page's second


def start(command: str, directory: Path) -> subprocess.Popen[str]:
    words = shlex.split(command.replace('"]}', PAUSE))
    assert words[0] == "durably"
    return subprocess.Popen(
        [sys.executable, "-m", "durably.cli", *words[1:]],
        cwd=directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(command: str, directory: Path) -> tuple[list[str], object]:
    """What was counted, and the output."""
    process = start(command, directory)
    printed, complaints = process.communicate(timeout=60)
    assert process.returncode == 0, complaints
    lines = printed.splitlines()
    counted = [line for line in lines if line.startswith("counting")]
    return counted, json.loads("".join(line for line in lines if line not in counted))


def test_the_tutorial(tmp_path: Path) -> None:
    found = doc.blocks(PAGE)
    code = next(block.text for block in found if block.text.startswith("# letters.py"))
    output = next(json.loads(block.text) for block in found if block.language == "json")
    commands = [block.text.strip() for block in found if block.language == "sh"]
    install, first, second, listing, again = commands
    assert install == "pip install durably"
    assert second == again
    (tmp_path / "letters.py").write_text(code)
    texts = [f"counting '{text}'" for text in ("one", "two", "three", "four")]

    assert finish(first, tmp_path) == (texts, output)
    assert finish(first, tmp_path) == ([], output)

    killed = start(second, tmp_path)
    assert killed.stdout is not None
    assert [killed.stdout.readline().strip() for _ in range(2)] == texts[:2]
    killed.kill()
    killed.communicate(timeout=60)
    assert killed.returncode == -signal.SIGKILL

    listed = start(listing, tmp_path).communicate(timeout=60)[0]
    (line,) = [line for line in listed.splitlines() if "second" in line]
    assert "running" in line

    assert finish(again, tmp_path) == (texts[1:], output)
