"""What the demo counts in a Python file, and the index (a SQLite database) that it is kept in."""

from __future__ import annotations

import ast
import os
import sqlite3
import time
import warnings
from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TOP = 5  # how many of the most imported modules are shown
SUMS = ("modules", "unparsable", "classes", "functions", "lines")
_FOREIGN = frozenset({"site-packages", "dist-packages", "__pycache__"})
_TESTS = frozenset({"test", "tests", "idle_test"})
_BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")

_BUSY = 30.0  # seconds to wait for other processes
_SCHEMA = """
create table if not exists modules (
  path text primary key, parsed integer, classes integer, functions integer, lines integer
);
create table if not exists imports (path text, module text, primary key (path, module));
create table if not exists begun (id integer primary key, step text, pid integer, at integer);
"""
_UPSERT = """
insert into modules (path, parsed, classes, functions, lines) values (?, ?, ?, ?, ?)
on conflict (path) do update set parsed = excluded.parsed, classes = excluded.classes,
  functions = excluded.functions, lines = excluded.lines
"""
_TOTALS = """
select coalesce(sum(parsed), 0), coalesce(sum(1 - parsed), 0), coalesce(sum(classes), 0),
       coalesce(sum(functions), 0), coalesce(sum(lines), 0) from modules
"""
_TOP = "select module, count(*) from imports group by module order by 2 desc, 1 limit ?"


@dataclass(frozen=True, slots=True)
class Facts:
    """What was counted in a file; a file that is no Python has lines only."""

    path: str
    lines: int
    parsed: bool = False
    classes: int = 0
    functions: int = 0
    imports: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Begin:
    """A step's function was entered: noted outside Durably, by the step itself."""

    step: str
    pid: int
    at: int
    """Milliseconds since 1970 UTC."""


def find_files(root: Path, limit: int | None = None, tests: bool = True) -> list[str]:
    """The Python files below ``root``, by their path from there, without installed packages."""
    left_out = _FOREIGN if tests else _FOREIGN | _TESTS
    found = (path.relative_to(root) for path in root.rglob("*.py"))
    own = (path.as_posix() for path in found if not left_out & set(path.parts))
    return sorted(own)[:limit]


def examine(root: Path, file: str) -> Facts:
    """Parse a file and count. The library has files that are broken on purpose."""
    source = (root / file).read_bytes()
    lines = source.count(b"\n")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return Facts(file, lines)
    kinds = Counter[str]()
    imports: set[str] = set()
    for node in _statements(tree):
        kinds[type(node).__name__] += 1
        imports.update(_imported(node))
    functions = kinds["FunctionDef"] + kinds["AsyncFunctionDef"]
    return Facts(file, lines, True, kinds["ClassDef"], functions, frozenset(imports))


def _statements(tree: ast.AST) -> Iterator[ast.AST]:
    """Every statement. Expressions hold no definitions, so to pass them over halves the time."""
    stack = [tree]
    while stack:
        node = stack.pop()
        yield node
        for block in _BLOCKS:
            stack.extend(getattr(node, block, ()))


def _imported(node: ast.AST) -> list[str]:
    """The top-level modules that a statement imports; relative imports name none."""
    match node:
        case ast.Import(names=names):
            return [name.name.partition(".")[0] for name in names]
        case ast.ImportFrom(module=str(module), level=0):
            return [module.partition(".")[0]]
        case _:
            return []


def count(facts: Iterable[Facts]) -> dict[str, Any]:
    """The totals of some files, in plain Python."""
    sums = Counter[str]()
    imports = Counter[str]()
    for one in facts:
        sums.update(modules=one.parsed, unparsable=not one.parsed, lines=one.lines)
        sums.update(classes=one.classes, functions=one.functions)
        imports.update(one.imports)
    top = sorted(imports.items(), key=lambda item: (-item[1], item[0]))[:TOP]
    return {**{name: sums[name] for name in SUMS}, "most_imported": dict(top)}


class Index:
    """The index. Each call is a transaction of its own, as if to a service elsewhere."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def note_begin(self, step: str) -> None:
        """Append that a step's function was entered."""
        row = (step, os.getpid(), time.time_ns() // 1_000_000)
        self._connection.execute("insert into begun (step, pid, at) values (?, ?, ?)", row)

    def put(self, facts: Facts) -> None:
        """Insert a file's facts, or put the same ones again."""
        row = (facts.path, facts.parsed, facts.classes, facts.functions, facts.lines)
        imports = [(facts.path, module) for module in sorted(facts.imports)]
        self._connection.execute("begin immediate")
        self._connection.execute(_UPSERT, row)
        self._connection.execute("delete from imports where path = ?", (facts.path,))
        self._connection.executemany("insert into imports values (?, ?)", imports)
        self._connection.execute("commit")

    def totals(self) -> dict[str, Any]:
        """The totals of all that is in the index."""
        sums = self._connection.execute(_TOTALS).fetchone()
        top = dict(self._connection.execute(_TOP, (TOP,)).fetchall())
        return {**dict(zip(SUMS, sums, strict=True)), "most_imported": top}

    def size(self) -> int:
        """How many files are in it."""
        return int(self._connection.execute("select count(*) from modules").fetchone()[0])

    def begins(self) -> list[Begin]:
        """Which steps were entered, in order."""
        rows = self._connection.execute("select step, pid, at from begun order by id")
        return [Begin(*row) for row in rows]


def _use_wal(connection: sqlite3.Connection) -> None:
    """Switch to WAL. SQLite itself does not wait here while another process writes."""
    give_up = time.monotonic() + _BUSY
    while True:
        try:
            connection.execute("pragma journal_mode = wal")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > give_up:
                raise
            time.sleep(0.01)


@contextmanager
def open_index(path: Path) -> Generator[Index]:
    """Open the index, and make it if there is none."""
    with closing(sqlite3.connect(path, isolation_level=None, timeout=_BUSY)) as connection:
        _use_wal(connection)
        connection.execute("pragma synchronous = off")  # it must survive a kill, not a power loss
        connection.executescript(_SCHEMA)
        yield Index(connection)
