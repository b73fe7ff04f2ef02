"""How the tests are shared out to several processes: ``pytest -n auto``, which ``make test`` uses.

A file stays in one process, so that what its tests share is made once. The files that take longest come
first, and their tests are handed out one by one: then no process is left alone with them at the end.
"""

from __future__ import annotations

import os

import pytest

try:
    from xdist.scheduler import LoadScopeScheduling
except ImportError:  # without it, all tests run here, one after the other
    LoadScopeScheduling = None

LONGEST = (
    "tests/http/test_fuzz.py",
    "tests/pyodide/",
    "tests/crash/",
    "tests/simulation/",
    "tests/demo/",
    "tests/store/test_state_machine.py",
    "tests/store/test_postgres",
    "tests/http/streams/",
    "tests/browser_mode/",
    "tests/fullstack/",
    "tests/compat/",
    "tests/examples/",
    "tests/copying/",
    "tests/cli/",
    "tests/packaging/",
    "tests/client/",
    "tests/http/",
    "tests/store/",
)
"""What takes longest, first; all else comes after it."""

ONE_BY_ONE = (
    "tests/http/test_fuzz.py",
    "tests/crash/",
    "tests/simulation/",
    "tests/demo/",
    "tests/http/streams/test_processes.py",
    "tests/http/streams/test_readers.py",
)

_MOST = 4  # they share the disk, and each starts a PostgreSQL of its own


def processes() -> int:
    """How many processes ``-n auto`` means: more than there are cores, since many tests wait for something."""
    return min(_MOST, 1 + (os.cpu_count() or 1))


def sort(items: list[pytest.Item]) -> None:
    """What takes longest comes first; otherwise the order stays."""
    items.sort(key=lambda item: _rank(item.nodeid))


def _rank(nodeid: str) -> int:
    return next((n for n, start in enumerate(LONGEST) if nodeid.startswith(start)), len(LONGEST))


def scheduler(config: pytest.Config, log: object) -> object:
    """Who hands out the tests."""
    config.option.loadscopereorder = False  # they are in order already

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return nodeid if nodeid.startswith(ONE_BY_ONE) else nodeid.partition("::")[0]

    return ByFile(config, log)
