"""Every code block of README.md and docs/ is true: Python runs, shell commands exist."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from durably.cli.parser import build_parser
from tests import postgres
from tests.tier import TIER

from . import blocks as doc
from .shell import lines, shell

LANGUAGES = {"python", "sh", "text", "json", "sql", "mermaid", "html", "ini", "nginx", "dockerfile"}
LANGUAGES |= {"ts", "tsx"}  # checked in js/
EXTRAS = {"cli", "client", "postgres", "server"}
PAGES = [pytest.param(page, id=str(page.relative_to(doc.ROOT))) for page in doc.pages()]


def with_block(language: str) -> list[object]:
    return [
        param
        for param in PAGES
        if any(block.language == language for block in doc.blocks(param.values[0]))
    ]


@pytest.fixture
def environment(page: Path) -> Iterator[dict[str, str]]:
    """With a database on a server for the pages that ask for one."""
    if "DATABASE_URL" not in page.read_text():
        yield dict(os.environ)
        return
    url = asyncio.run(postgres.create_database())
    yield {**os.environ, "DATABASE_URL": url}
    asyncio.run(postgres.drop_database(url))


@pytest.mark.parametrize("page", with_block("python"))
def test_what_a_page_says_runs(page: Path, environment: dict[str, str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", doc.__file__, page],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Traceback" not in done.stderr, done.stderr[-3000:]
    if TIER == "quick" and page.name != "README.md":
        return
    with shell(tmp_path, environment) as terminal:
        for block in doc.blocks(page):
            if block.language == "sh":
                printed = [terminal.run(words) for words in lines(block)]
                if block.output is not None and page.name == "README.md":
                    assert "".join(printed) == block.output, f"{page}:{block.line}"


@pytest.mark.parametrize("page", with_block("sh"))
def test_shell_commands_exist(page: Path) -> None:
    targets = re.findall(r"^([a-z-]+):", (doc.ROOT / "Makefile").read_text(), re.MULTILINE)
    for block in doc.blocks(page):
        if block.language != "sh":
            continue
        for line in lines(block):
            match line:
                case ["make", *words]:
                    assert set(words) <= set(targets), line
                case ["pip", "install", package, *others]:
                    name, _, extras = package.rstrip("]").partition("[")
                    assert name == "durably", line
                    assert set(extras.split(",")) <= EXTRAS | {""}, line
                    assert set(others) <= {"fastapi"}, line
                case ["durably", *words]:
                    build_parser().parse_args(words)
                case ["python" | "uvicorn", _]:
                    pass  # run, where the page's Python is
                case _:
                    pytest.fail(f"{page}:{block.line}: {line!r} is no command that is checked")


@pytest.mark.parametrize("page", PAGES)
def test_every_block_has_a_language(page: Path) -> None:
    unnamed = {""} if page.name == "benchmarks.md" else set()  # printed by the benchmarks
    assert {block.language for block in doc.blocks(page)} <= LANGUAGES | unnamed


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page}: {target}"


def test_a_failing_block_is_noticed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    for text in ("assert False", "await missing()", "print(1)\n```\n```text\n2"):
        page.write_text(f"```python\nimport asyncio\n```\n\n```python\n{text}\n```\n")
        done = subprocess.run(
            [sys.executable, doc.__file__, page], cwd=tmp_path, capture_output=True, check=False
        )
        assert done.returncode != 0, text
