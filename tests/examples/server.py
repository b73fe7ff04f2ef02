"""A server in a process of its own, that is killed and started again; and a raw client for it."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

import pytest

from tests.ports import free_port
from tests.tier import TIER

ROOT = Path(__file__).parents[2]
CI = pytest.mark.skipif(TIER == "quick", reason="the ci tier's")
API = "/api/durably"
PATIENCE = 60.0


class Frame(NamedTuple):
    """A frame of an event stream that has data."""

    id: int | None
    event: dict[str, Any]


class Server:
    """``command`` on a port of loopback: ``{port}`` in it and in the environment is replaced."""

    def __init__(self, command: Sequence[str], cwd: Path = ROOT, **env: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.env = env
        self._command, self._cwd = command, cwd
        self._child: subprocess.Popen[bytes] | None = None

    def start(self, **env: str) -> None:
        """Start it, and wait until it listens."""
        self.launch(**env)
        self.wait_for(self._listens, "the server does not answer")

    def launch(self, **env: str) -> None:
        """Start it."""
        port = str(self.port)
        given = {name: value.format(port=port) for name, value in {**self.env, **env}.items()}
        self._child = subprocess.Popen(
            [word.format(port=port) for word in self._command],
            cwd=self._cwd,
            env={**os.environ, **given},
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )

    def kill(self, number: int = signal.SIGKILL) -> int | None:
        """Kill it with all its processes; how it ended."""
        if self._child is None:
            return None
        child, self._child = self._child, None
        try:
            os.killpg(child.pid, number)
            return child.wait(PATIENCE)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            self.wait_for(lambda: not self._listens(), "somebody goes on listening")

    def wait_for(self, wanted: Callable[[], Any], otherwise: str) -> Any:
        """The first thing that is true, asked again and again."""
        deadline = time.monotonic() + PATIENCE
        while not (found := wanted()):
            assert self._child is None or self._child.poll() is None, "the server ended"
            assert time.monotonic() < deadline, otherwise
            time.sleep(0.02)
        return found

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    # -- asking

    def send(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, bytes, dict[str, str]]:
        """Status, body, headers."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, PATIENCE)) as connection:
            names = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, names)
            answer = connection.getresponse()
            return answer.status, answer.read(), {k.lower(): v for k, v in answer.getheaders()}

    def ask(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        """What the API answers, which must be no refusal."""
        full = f"{API}{path}?{urlencode(query)}"
        text = None if body is None else json.dumps(body).encode()
        status, answer, _ = self.send(method, full, text, content_type="application/json")
        assert status == 200, answer
        return json.loads(answer)

    def run(self, run_id: str) -> Any:
        """A run."""
        return self.ask("GET", "/run", runId=run_id)

    def finished(self, run_id: str) -> Any:
        """A run, once it is over."""
        over = f"run {run_id} is not over"
        return self.wait_for(lambda: (run := self.run(run_id))["isTerminal"] and run, over)

    def stream(self, path: str, last_event_id: int | None = None, **query: Any) -> Generator[Frame]:
        """Open a stream: its frames, until the server ends it or dies."""
        headers = {} if last_event_id is None else {"last-event-id": str(last_event_id)}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, PATIENCE)
        connection.request("GET", f"{API}{path}?{urlencode(query)}", headers=headers)
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        assert answer.headers.get_content_type() == "text/event-stream"
        return _frames(connection, answer)


def _frames(
    connection: http.client.HTTPConnection, answer: http.client.HTTPResponse
) -> Generator[Frame]:
    id, data = None, None
    with closing(connection), closing(answer):
        for line in _lines(answer):
            name, _, value = line.partition(": ")
            if name == "id":
                id = int(value)
            elif name == "data":
                data = json.loads(value)
            elif not name and data is not None:
                yield Frame(id, data)
                id, data = None, None


def _lines(answer: http.client.HTTPResponse) -> Iterator[str]:
    with suppress(OSError, http.client.HTTPException):  # it died
        while line := answer.readline():
            yield line.decode().rstrip("\n")
