"""The guide's TypeScript, with the types of its own jobs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.codegen import typescript
from tests.docs import blocks as doc

PAGE = doc.ROOT / "docs/guides/full-stack.md"


@pytest.fixture
def folder(tmp_path: Path, built_page: None) -> Path:
    """The guide's files, each under the name that its first line says."""
    typescript.install()
    for block in doc.blocks(PAGE):
        if name := re.match(r"(?:#|//) ([\w.-]+)\n", block.text):
            (tmp_path / name[1]).write_text(block.text)
    command = [sys.executable, "-m", "durably.cli", "codegen", "ts", "jobs:durably"]
    with (tmp_path / "jobs.ts").open("wb") as types:
        subprocess.run(command, cwd=tmp_path, stdout=types, check=True)
    return tmp_path


def test_the_types_are_printed_as_the_guide_says(folder: Path):
    printed = (folder / "printed.ts").read_text().partition("\n")[2]
    assert (folder / "jobs.ts").read_text().endswith(printed)


def test_its_page_compiles_with_them(folder: Path):
    (folder / "printed.ts").unlink()
    typescript.check(folder)
