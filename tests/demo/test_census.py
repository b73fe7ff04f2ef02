"""Counting: what does not parse is counted as such, and the index says the same as plain Python."""

from __future__ import annotations

from pathlib import Path

import pytest

from durably.demo import census

SOURCE = """\
import os, os.path as p
from json.decoder import JSONDecoder
from . import near

class A:
    def f(self):
        import re
        async def g(): ...

try:
    import tomllib
except ImportError:
    def h(): ...
else:
    class B: ...
finally:
    class C: ...
match 1:
    case 1:
        class D: ...
"""


def write(root: Path) -> list[str]:
    files = {
        "a.py": SOURCE.encode(),
        "deep/b.py": b"import os\n",
        "broken.py": b"def (:\n\n",
        "latin.py": "x = 'é'\n".encode("latin-1"),
        "null.py": b"x = 1\0\n",
        "declared.py": "# -*- coding: latin-1 -*-\nx = 'é'\n".encode("latin-1"),
        "warns.py": b"x = '\\d'\nassert (1, 2)\n",
        "site-packages/other.py": b"import nothing\n",
        "a.txt": b"no Python\n",
    }
    for name, content in files.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(content)
    return [name for name in sorted(files) if name.endswith(".py") and "site" not in name]


def test_installed_packages_are_left_out(tmp_path: Path) -> None:
    written = write(tmp_path)
    assert census.find_files(tmp_path) == written
    assert census.find_files(tmp_path, 2) == written[:2]


def test_a_file_is_counted_down_to_its_innermost_statement(tmp_path: Path) -> None:
    write(tmp_path)
    facts = census.examine(tmp_path, "a.py")
    assert (facts.parsed, facts.classes, facts.functions) == (True, 4, 3)
    assert facts.imports == {"os", "json", "re", "tomllib"}
    assert facts.lines == SOURCE.count("\n")


@pytest.mark.parametrize("name", ["broken.py", "latin.py", "null.py"])
def test_what_does_not_parse_is_counted_as_such(tmp_path: Path, name: str) -> None:
    write(tmp_path)
    facts = census.examine(tmp_path, name)
    assert (facts.parsed, facts.classes, facts.functions) == (False, 0, 0)
    assert facts.lines > 0


def test_the_index_says_what_plain_python_says_however_often_it_is_written(tmp_path: Path) -> None:
    facts = [census.examine(tmp_path, name) for name in write(tmp_path)]
    expected = census.count(facts)
    assert (expected["modules"], expected["unparsable"]) == (4, 3)
    assert list(expected["most_imported"]) == ["os", "json", "re", "tomllib"]
    with census.open_index(tmp_path / "index.db") as index:
        for _ in range(2):
            for one in facts:
                index.put(one)
            assert index.totals() == expected
        assert index.size() == len(facts)


def test_nothing_comes_to_nothing(tmp_path: Path) -> None:
    with census.open_index(tmp_path / "index.db") as index:
        assert index.totals() == census.count([])


def test_the_notes_of_a_begin_are_kept_in_order(tmp_path: Path) -> None:
    for step in ("one", "two", "one"):
        with census.open_index(tmp_path / "index.db") as index:
            index.note_begin(step)
    with census.open_index(tmp_path / "index.db") as index:
        assert [begin.step for begin in index.begins()] == ["one", "two", "one"]
