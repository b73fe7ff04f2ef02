"""A worker of the demo: a process of its own, so that it can be killed like one."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from .app import PLACE

_COMMAND = ("-m", "durably.cli", "worker", "durably.demo.app:durably", "--until-idle")
_PATIENCE = 10.0  # seconds that a worker has to hand its run back


class WorkerFailedError(Exception):
    """A worker ended by itself with an error."""


class WorkerProcess:
    """``durably worker durably.demo.app:durably``, as anybody would start it."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._log = place / "worker.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The process's id, while there is one."""
        return None if self._process is None else self._process.pid

    def keep_running(self) -> None:
        """Start a worker unless one is running; it ends when nothing is due."""
        if self._process is not None and self._process.poll() is None:
            return
        if self._process is not None and self._process.returncode:
            raise WorkerFailedError(f"the worker failed:\n{self._last_words()}")
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, *_COMMAND],
                env={**os.environ, PLACE: str(self._place)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the driver, which then stops its worker
            )

    def kill(self) -> None:
        """SIGKILL: nothing in the process hears of it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """Let it hand its run back and leave; kill it if it does not."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_PATIENCE)
        self.kill()

    def _last_words(self) -> str:
        return self._log.read_text("utf-8", "replace")[-2000:].strip()
