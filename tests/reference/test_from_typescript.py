"""Each row of docs/reference/from-typescript.md has one test here and each test a row, or names a test elsewhere."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PAGE = ROOT / "docs" / "reference" / "from-typescript.md"


def rows() -> list[str]:
    return re.findall(r"^\| (T\d{3}) \|", PAGE.read_text(), re.MULTILINE)


def counted() -> Counter[str]:
    names: Counter[str] = Counter()
    for path in HERE.glob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            name = getattr(node, "name", None) or ""
            if match := re.match(r"test_(t\d{3})_\w", name):
                names[match[1].upper()] += 1
    return names


def test_rows_are_numbered_from_one_without_a_gap() -> None:
    assert rows() == [f"T{number:03}" for number in range(1, len(rows()) + 1)]


def test_every_row_has_one_test_and_every_test_a_row() -> None:
    counts = counted()
    assert sorted(set(rows()) - set(counts)) == [], "rows without a test"
    assert sorted(set(counts) - set(rows())) == [], "tests without a row"
    assert [row for row, count in counts.items() if count > 1] == [], "rows with two tests"


def test_every_row_has_three_filled_cells() -> None:
    for line in PAGE.read_text().splitlines():
        if line.startswith(("| T0", "| T1")):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            assert len(cells) == 4, line
            assert all(cells), line
            assert cells[3].endswith("."), line


@pytest.mark.parametrize("letter", ["H", "R", "B"])
def test_rows_about_http_and_react_name_a_test(letter: str) -> None:
    found = re.findall(rf"^\| ({letter}\d{{3}}) \|(.*)\|$", PAGE.read_text(), re.MULTILINE)
    assert [id for id, _ in found] == [f"{letter}{n:03}" for n in range(1, len(found) + 1)]
    for id, line in found:
        documented, here, proof = (cell.strip() for cell in line.split(" | "))
        assert documented, id
        assert here.endswith("."), id
        path, _, name = proof.partition(" › ")
        text = (ROOT / path).read_text()
        ways = [f"def {name}("] if path.endswith(".py") else [f'("{name}", ', f"(`{name}`, "]
        assert any(way in text for way in ways), f"{id}: {path} has no test {name!r}"
