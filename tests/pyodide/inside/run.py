"""Run pytest inside Pyodide; the answer is what became of the tests."""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

import pytest

from .left_out import FILES


class Tally:
    """Counts outcomes."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.problems: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            self.counts[report.outcome] += 1
        if report.failed:
            self.problems.append(f"{report.nodeid}\n{report.longreprtext}")

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.problems.append(f"{report.nodeid}\n{report.longreprtext}")

    def pytest_deselected(self, items: list[Any]) -> None:
        self.counts["left out"] += len(items)


def run(*arguments: str) -> dict[str, Any]:
    """``{"code": …, "passed": …, "failed": …, "skipped": …, "left out": …, "problems": […]}``"""
    tally = Tally()
    assert all(map(os.path.exists, FILES)), FILES
    ignored = [f"--ignore={file}" for file in FILES]
    code = pytest.main([*ignored, *arguments], plugins=[tally])
    return {"code": int(code), **tally.counts, "problems": tally.problems}
