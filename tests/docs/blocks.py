"""The code blocks of README.md and docs/, and how a page's Python is run.

As a script: runs the Python blocks of one page in the current directory, in order and in one
namespace, as one program. ``await`` is allowed at the top level. A block whose first line is
``# name.py`` is saved under that name first. A ``text`` block right after a Python block is what that
block prints.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import inspect
import io
import logging
import re
import sys
import textwrap
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
_FENCE = re.compile(r"^( *)```([^\n]*)\n(.*?)^\1```[ ]*$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A fenced block: its language, the line its text begins on, its text, and its output."""

    language: str
    line: int
    text: str
    output: str | None = None


def pages() -> list[Path]:
    """README.md, CONTRIBUTING.md and every page of docs/."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page."""
    text = page.read_text()
    matches = list(_FENCE.finditer(text))
    found: list[Block] = []
    for match, after in zip(matches, [*matches[1:], None], strict=False):
        line = text.count("\n", 0, match.start(3)) + 1
        output = None
        if after and after[2].strip() == "text" and not text[match.end() : after.start()].strip():
            output = after[3]
        found.append(Block(match[2].strip(), line, textwrap.dedent(match[3]), output))
    return found


def run_page(page: Path) -> None:
    """Run a page's Python blocks here."""
    logging.getLogger("durably.runs").addHandler(logging.NullHandler())  # pages show runs that fail
    module = sys.modules["__main__"] = ModuleType("__main__")
    sys.path.insert(0, "")  # the files that the page saves are imported by it
    with asyncio.Runner() as runner:
        for block in blocks(page):
            if block.language == "python":
                _run(page, block, module, runner)


def _run(page: Path, block: Block, module: ModuleType, runner: asyncio.Runner) -> None:
    if name := re.match(r"# ([\w/]+\.py)\n", block.text):
        Path(name[1]).write_text(block.text)
    source = "\n" * (block.line - 1) + block.text
    code = compile(source, str(page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        result = eval(code, vars(module))  # a coroutine where the block awaits
        if inspect.iscoroutine(result):
            runner.run(result)
    if block.output is not None and printed.getvalue() != block.output:
        raise AssertionError(
            f"{page}:{block.line} printed\n{printed.getvalue()}\ninstead of\n{block.output}"
        )


if __name__ == "__main__":
    run_page(Path(sys.argv[1]))
