"""The page's server in a process of its own, and what tests ask of it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from tests.ports import free_port

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0


class Process:
    """``app.py`` on a port of loopback; what it keeps is in ``folder``."""

    def __init__(self, folder: Path, bundle: Path) -> None:
        self.folder, self.port = folder, free_port()
        os.link(bundle, folder / "page.js")
        self._child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "tests.compat.app", str(self.folder), str(self.port)]
        self._child = subprocess.Popen(command, cwd=ROOT)
        deadline = time.monotonic() + PATIENCE
        while not self._answers():
            assert self._child.poll() is None, "the server ended"
            assert time.monotonic() < deadline, "the server does not answer"
            time.sleep(0.02)

    def kill(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            self._child = None

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


class Server:
    """A site of a process: an empty database, a page, an API."""

    def __init__(self, process: Process) -> None:
        name = uuid.uuid4().hex[:8]
        self.process = process
        self.url = f"http://127.0.0.1:{process.port}/{name}"
        self.listed_url = f"http://localhost:{process.port}/{name}"
        """The same page, for the browser of another origin."""
        self.database = process.folder / name / "jobs.db"
        self._gates = process.folder / name / "gates"
        self._gates.mkdir(parents=True)

    def open_gate(self, name: str, row: int) -> None:
        """Let the run of this input go on with this row."""
        (self._gates / f"{name}-{row}").touch()

    def ask(self, method: str, path: str, **query: str) -> Any:
        return self._fetch(method, f"{path}?{urlencode(query)}", None)

    def trigger(self, job: str, name: str, *, rows: int = 2, hold: Any = (), **more: Any) -> str:
        """Trigger as somebody else than the page; the run's id."""
        input = {"name": name, "rows": rows, "hold": list(hold)}
        return self._fetch("POST", "/trigger", {"jobName": job, "input": input, **more})["runId"]

    def run_of(self, job: str, name: str, **more: Any) -> str:
        """Trigger, and wait until the run is over; its id."""
        run_id = self.trigger(job, name, **more)
        self.wait_for(run_id, lambda run: run["isTerminal"])
        return run_id

    def wait_for(self, run_id: str, wanted: Callable[[Any], bool]) -> None:
        """Wait until the run is as it is wanted."""
        deadline = time.monotonic() + PATIENCE
        while not wanted(run := self.ask("GET", "/run", runId=run_id)):
            assert time.monotonic() < deadline, f"the run stays at {run}"
            time.sleep(0.02)

    def _fetch(self, method: str, path: str, body: Any) -> Any:
        request = urllib.request.Request(
            f"{self.url}/api/durably{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=PATIENCE) as response:
            return json.load(response)
