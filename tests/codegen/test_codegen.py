"""The generated types are jobs.ts, letter for letter, and the compiler agrees with what a page does with them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from durably import Durably, SyncStep
from durably.cli import main
from durably.cli.codegen import typescript
from tests.browser import npm
from tests.browser.fixtures import give_up
from tests.browser.node import NodeError

from . import typescript as compiler

HERE = Path(__file__).parent
GOLDEN = HERE / "jobs.ts"


def generated(**env: str) -> bytes:
    """What the command prints, in a process of its own."""
    command = [sys.executable, "-W", "error", "-m", "durably.cli", "codegen", "ts", "app:durably"]
    return subprocess.run(
        command, cwd=HERE, env={**os.environ, **env}, stdout=subprocess.PIPE, check=True
    ).stdout


@pytest.mark.parametrize("seed", ["1", "2"])
def test_the_same_jobs_give_the_same_text(seed: str):
    """Whatever the order of hashes, and whatever the terminal can show."""
    text = generated(PYTHONHASHSEED=seed, PYTHONIOENCODING="ascii", LC_ALL="C", PYTHONUTF8="0")
    assert text == GOLDEN.read_bytes(), "run: python -m tests.codegen.test_codegen"


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """A folder with the page and the types."""
    try:
        compiler.install()
    except npm.Unavailable as why:
        give_up(why)
    for name in ("jobs.ts", "page.ts"):
        (tmp_path / name).write_bytes((HERE / name).read_bytes())
    return tmp_path


def test_a_page_compiles_with_them(page: Path):
    compiler.check(page)


def test_a_page_that_asks_for_something_else_does_not(page: Path):
    more = "durably.everything.useRun('id').output?.no_such_member;\n"
    with (page / "page.ts").open("a") as text:
        text.write(more)
    with pytest.raises(NodeError, match=r"page.ts.*'no_such_member'"):
        compiler.check(page)


def test_an_application_without_jobs_has_an_empty_map(tmp_path: Path):
    text = typescript([], "app:durably")
    assert text.endswith("export interface Jobs {\n}\n")


def test_a_type_that_no_schema_describes_is_unknown(tmp_path: Path):
    class Opaque:
        pass

    durably = Durably(tmp_path / "jobs.db")

    @durably.job("opaque")
    def opaque(step: SyncStep, input: complex) -> object:
        return Opaque()

    text = typescript([opaque.definition], "app:durably")
    assert "export type OpaqueOutput = unknown;" in text


def test_a_mistake_is_said_in_one_line(capsys: pytest.CaptureFixture[str]):
    assert main(["codegen", "ts", "no_such_module:durably"]) == 2
    assert main(["codegen", "cobol", "app:durably"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert [line[:15] for line in err.splitlines()] == ["durably: error:"] * 2


if __name__ == "__main__":
    GOLDEN.write_bytes(generated())
