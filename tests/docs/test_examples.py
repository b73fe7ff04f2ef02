"""Each example is a program that runs and prints what it says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from .blocks import ROOT

EXAMPLES = ROOT / "examples"
PRINTED = {
    "01_crash_and_resume.py": """\
attempt 1
  looking up Oslo
  looking up Lima
  killed
the process ended with -9
attempt 2
  looking up Rome
  looking up Kyiv
completed: 16 letters
the process ended with 0
""",
    "02_sync_script.py": """\
monthly-report completed: month='2026-01' total=42
  0 fetch: [12, 7, 23]
  1 check-1: None
  2 check-2: None
  3 check-3: None
too late to cancel: it is completed
""",
    "03_parallel_steps.py": """\
  fetched page-0
  fetched page-1
  fetched page-2
  fetched page-4
failed: ConnectionError: not fetched: page-3
  fetched page-3
completed: 30 after 2 attempts
""",
    "04_idempotent_payment.py": """\
  provider: charged
  the worker dies
  provider: knows this key, does nothing
attempt 2 completed: receipt for 1990 cents
charged in total: 1990
""",
    "05_cron.py": """\
2026-01-01: 1 executed, 1 completed
2026-01-02: 1 executed, 2 completed
2026-01-02: 0 executed, 2 completed
""",
}
LOGGED = {
    "01_crash_and_resume.py": r"run \S+ \(look-up-cities\) was taken over from a worker that died .*\n",
    "03_parallel_steps.py": r"run \S+ \(crawl\) failed after .*\nTraceback (?s:.*)page-3\n",
    "04_idempotent_payment.py": r"run \S+ \(pay\) was taken over from a worker that died .*\n",
}
"""What goes to stderr."""


def test_every_example_is_run() -> None:
    assert sorted(path.name for path in EXAMPLES.glob("*.py")) == sorted(PRINTED)


@pytest.mark.parametrize("name", PRINTED)
def test_example(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", EXAMPLES / name],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(LOGGED.get(name, ""), done.stderr), done.stderr
    assert by_line(name, done.stdout) == by_line(name, PRINTED[name])


def by_line(name: str, text: str) -> list[str]:
    """Parallel steps may print in any order."""
    lines = text.splitlines()
    return sorted(lines) if name == "03_parallel_steps.py" else lines


def test_the_first_example_is_short() -> None:
    assert len((EXAMPLES / "01_crash_and_resume.py").read_text().splitlines()) < 60
