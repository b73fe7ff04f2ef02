"""What a newcomer types: the README to the letter in an empty directory, and ``make demo`` in a fresh clone."""

from __future__ import annotations

import os
import re
import subprocess
import time
import venv
from pathlib import Path

import pytest

from tests.docs import blocks as doc
from tests.docs.shell import lines, shell
from tests.tier import TIER

pytestmark = pytest.mark.skipif(TIER == "quick", reason="installs from an index: the ci tier's")
MAX_MB = 60


def test_the_readme_to_the_letter(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    here = tmp_path / "empty"
    here.mkdir()
    ran = 0
    environment = clean_environment() | {"XDG_CACHE_HOME": str(tmp_path)}
    with shell(here, environment, tmp_path / "venv/bin", wheel) as terminal:
        for block in doc.blocks(doc.ROOT / "README.md"):
            if name := re.match(r"# ([\w/]+\.py)\n", block.text):
                (here / name[1]).write_text(block.text)
            elif block.language == "sh":
                printed = [terminal.run(words) for words in lines(block)]
                ran += len(printed)
                if block.output is not None:
                    assert "".join(printed) == block.output
    assert ran > 5


def test_make_demo_in_a_fresh_clone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clone, caches = tmp_path / "durably", tmp_path / "caches"
    caches.mkdir()
    subprocess.run(["git", "clone", "--quiet", doc.ROOT, clone], check=True)
    cold = {"PIP_NO_CACHE_DIR": "1", "UV_NO_CACHE": "1", "XDG_CACHE_HOME": str(caches)}
    began = time.monotonic()
    done = subprocess.run(
        ["make", "demo"],
        cwd=clone,
        env=clean_environment() | cold,
        capture_output=True,
        text=True,
        check=False,
    )
    took = time.monotonic() - began
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("Setting up .demo")
    assert "comes to exactly the same." in done.stdout
    used = subprocess.check_output(["du", "-sm", clone / ".demo", caches], text=True)
    megabytes = sum(int(line.split()[0]) for line in used.splitlines())
    with capsys.disabled():
        print(f"\nmake demo with its set-up, nothing cached: {took:.0f} s, {megabytes} MB")
    assert megabytes <= MAX_MB, used


def clean_environment() -> dict[str, str]:
    """This process's without what a virtual environment or ``make`` put there."""
    left_out = ("VIRTUAL_ENV", "PYTHONPATH", "MAKEFLAGS", "MAKELEVEL", "PYTHONWARNINGS")
    return {name: value for name, value in os.environ.items() if name not in left_out}
