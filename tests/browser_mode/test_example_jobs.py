"""The jobs of examples/browser-only, as a server would run them; and what is said about the examples."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

from durably import Durably
from tests.docs import test_code_blocks as held

from .example import EXAMPLE, VANILLA

LINES = 2_000


@pytest.fixture
def folder() -> Path:
    return EXAMPLE


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "jobs", raising=False)
    yield import_module("jobs")
    sys.modules.pop("jobs", None)


@pytest.mark.parametrize(
    ("cell", "kind", "cleaned", "mark"),
    [
        (" Ana  Lopez ", "text", "Ana Lopez", "mended"),
        ("Ana Lopez", "text", "Ana Lopez", ""),
        ("ANA@Example.com", "email", "ana@example.com", "mended"),
        ("<ana@example.com>", "email", "ana@example.com", "mended"),
        ("ana (at) example.com", "email", "ana@example.com", "mended"),
        ("mailto:ana@example.com", "email", "ana@example.com", "mended"),
        ("see card", "email", "see card", "doubtful"),
        ("03.04.1990", "date", "1990-04-03", "mended"),
        ("3/4/1990", "date", "1990-04-03", "mended"),
        ("12/31/1990", "date", "1990-12-31", "mended"),
        ("Mar 3, 2001", "date", "2001-03-03", "mended"),
        ("2001-03-03", "date", "2001-03-03", ""),
        ("31 Feb 2001", "date", "31 Feb 2001", "doubtful"),
        ("1.234,50 €", "number", "1234.50", "mended"),
        ("$1,234.50", "number", "1234.50", "mended"),
        ("1,234,567", "number", "1234567", "mended"),
        ("1.234.567", "number", "1234567", "mended"),
        ("7,5", "number", "7.5", "mended"),
        ("-3", "number", "-3", ""),
        ("n/a", "number", "n/a", "doubtful"),
        ("", "number", "", ""),
    ],
)
def test_a_cell(jobs: ModuleType, cell: str, kind: str, cleaned: str, mark: str):
    assert jobs.clean(cell, kind) == (cleaned, mark)


@pytest.mark.parametrize(
    ("name", "cells", "kind"),
    [
        ("Contact", ["a@b.co", "c(at)d.co", "?"], "email"),
        ("Since", ["1.2.2003", "2003-02-01", ""], "date"),
        ("Turnover", ["1", "2,5", "€ 3"], "number"),
        ("Postcode", ["1234", "2345"], "text"),
        ("No.", ["0123", "2345"], "text"),
        ("Empty", ["", ""], "text"),
    ],
)
def test_a_column(jobs: ModuleType, name: str, cells: list[str], kind: str):
    assert jobs.kind_of(name, cells) == kind


async def test_the_same_file_runs_on_a_server(jobs: ModuleType, tmp_path: Path):
    text = "name,email\n" + "".join(f"Person {n},P{n % 1900}@x.org\n" for n in range(LINES))
    file = hashlib.sha256(text.encode()).hexdigest()
    wanted = [handle.definition for handle in jobs.durably.jobs.values()]
    async with Durably(tmp_path / "app.db", jobs=wanted) as durably:
        clean, keep, show = (durably.jobs[name] for name in ("clean-csv", "keep-part", "show-rows"))
        for number, start in enumerate(range(0, len(text), 10_000)):
            part = text[start : start + 10_000]
            await keep.trigger_and_wait({"file": file, "number": number, "content": part})
        run = await clean.trigger_and_wait({"name": "people.csv", "file": file})
        counts = run.output.counts
        assert (counts.rows, counts.duplicates, counts.mended) == (1900, 100, 1900)
        page = await show.trigger_and_wait({"table": run.id, "offset": 1895, "limit": 10})
        assert page.output.total == 1900
        assert [row.cells[0] for row in page.output.rows] == [
            f"Person {n}" for n in range(1895, 1900)
        ]
        await durably.jobs["forget-table"].trigger_and_wait({"table": run.id})
        page = await show.trigger_and_wait({"table": run.id})
        assert page.output.total == 0


@pytest.mark.parametrize("folder", [VANILLA])
async def test_words_are_counted(jobs: ModuleType, tmp_path: Path):
    async with Durably(tmp_path / "jobs.db", jobs=[jobs.count_words]) as durably:
        run = await durably.jobs["count-words"].trigger_and_wait("Steps: done.\n\nSteps stay.")
        assert run.output == [("steps", 2), ("done", 1), ("stay", 1)]


def test_the_types_are_those_of_the_jobs():
    done = subprocess.run(
        [sys.executable, "-m", "durably.cli", "codegen", "ts", "jobs:durably"],
        cwd=EXAMPLE,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == (EXAMPLE / "src/jobs.ts").read_text(), (
        "in examples/browser-only: durably codegen ts jobs:durably > src/jobs.ts"
    )


@pytest.mark.parametrize("folder", [EXAMPLE, VANILLA], ids=lambda folder: folder.name)
def test_a_readme_is_held_to_the_rules_of_the_docs(folder: Path):
    page = folder / "README.md"
    held.test_shell_commands_exist(page)
    held.test_every_block_has_a_language(page)
    held.test_links_lead_somewhere(page)


def test_the_lock_names_versions_and_no_host():
    assert "://" not in (EXAMPLE / "package-lock.json").read_text()
