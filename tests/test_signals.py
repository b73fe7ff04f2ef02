"""What tests start hears its signals, however the tests were started."""

from __future__ import annotations

import subprocess
import sys

STOPS = ("SIGINT", "SIGHUP", "SIGQUIT", "SIGTERM")
DISPOSITIONS = f"""
import signal
print(*[name for name in {STOPS} if signal.getsignal(getattr(signal, name)) == signal.SIG_IGN])
"""


def test_a_process_that_a_test_starts_ignores_no_signal():
    command = [sys.executable, "-c", DISPOSITIONS]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "\n"


def test_nor_does_it_where_the_tests_were_started_to_ignore_them():
    tests = f"{__file__}::{test_a_process_that_a_test_starts_ignores_no_signal.__name__}"
    started = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", tests]
    ignoring = ["sh", "-c", "trap '' INT HUP QUIT TERM; exec \"$@\"", "sh", *started]
    done = subprocess.run(ignoring, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
