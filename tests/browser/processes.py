"""End what a browser or a script left behind.

Chromium's processes detach from whoever started them. What they inherit is their environment: a mark
in it finds them (on Linux; elsewhere they end by themselves when the pipe to their driver closes).
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

MARK = "DURABLY_TEST_MARK"

_PROC = Path("/proc")


def end(mark: str) -> None:
    """Kill every process that carries the mark, and wait until it is gone."""
    while found := marked(mark):
        for pid in found:
            _kill(pid)
        time.sleep(0.01)


def marked(mark: str) -> list[int]:
    """The ids of the live processes that carry the mark."""
    wanted = f"{MARK}={mark}".encode()
    pids = [int(entry.name) for entry in _PROC.glob("[0-9]*")]
    return [pid for pid in pids if wanted in _environment(pid)]


def _environment(pid: int) -> list[bytes]:
    try:
        return (_PROC / str(pid) / "environ").read_bytes().split(b"\0")
    except OSError:  # gone, or somebody else's
        return []


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
