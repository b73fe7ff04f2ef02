"""Processes that serve and work, each on a folder."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from tests import forked
from tests.http.streams.app import Settings
from tests.http.streams.reader import PATIENCE, Reader, connect
from tests.ports import free_port

BASE = "/api/durably"
BAD = re.compile(r"Traceback|\bERROR\b|never retrieved|never awaited|was destroyed|Warning")


class Process:
    """A program in a process of its own; what it says is kept in a file."""

    def __init__(self, command: Sequence[str], settings: Settings, name: str) -> None:
        self._command = command
        self._environment = {**os.environ, "STREAMS": json.dumps(settings._asdict())}
        self.folder = Path(settings.folder)
        self.log = self.folder / f"{name}.log"
        self._process: forked.Forked | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def run(self, *more: str) -> None:
        """Begin."""
        with self.log.open("ab") as log:
            self._process = forked.start(
                *self._command, *more, cwd=self.folder, env=self._environment,
                stdout=log.fileno(), stderr=log.fileno(),
            )  # fmt: skip

    async def say(self, pattern: str, *, after: int = 0) -> re.Match[str]:
        """Wait for a line of its log; ``after`` so many characters of it."""
        deadline = time.monotonic() + PATIENCE
        while (found := re.search(pattern, self.said[after:])) is None:
            assert self._process is not None
            assert self._process.poll() is None, self.said
            assert time.monotonic() < deadline, self.said
            await asyncio.sleep(0.01)
        return found

    @property
    def said(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    async def end(self, number: int = signal.SIGKILL, patience: float = PATIENCE) -> float:
        """Send a signal, and the seconds until the process is no more."""
        assert self._process is not None
        began = time.monotonic()
        self._process.send_signal(number)
        while self._process.poll() is None:
            assert time.monotonic() - began < patience, self.said
            await asyncio.sleep(0.005)
        return time.monotonic() - began

    def kill(self) -> None:
        """SIGKILL, if it is there."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


class Worker(Process):
    """A process that works and serves nobody."""

    def __init__(self, settings: Settings, name: str) -> None:
        super().__init__(["tests.http.streams.app"], settings, name)

    async def start(self) -> None:
        """Begin, until it works."""
        before = len(self.said)
        self.run()
        await self.say("ready", after=before)


class Server(Process):
    """A web server; restarted, it has the same port."""

    def __init__(
        self,
        settings: Settings,
        name: str,
        *,
        app: str = "",
        program: str = "uvicorn",
    ) -> None:
        super().__init__([program, app or "tests.http.streams.app:api"], settings, name)
        self._program = program
        self.port = 0

    async def start(self, *more: str) -> None:
        """Begin, until it answers that it is well; with more of its program's options."""
        self.port = self.port or free_port()
        if self._program == "uvicorn":
            where = ["--port", str(self.port), "--no-access-log"]
        else:
            where = ["--bind", f"127.0.0.1:{self.port}"]
        before = len(self.said)
        self.run(*where, *more)
        await self.say(rf"[Rr]unning on http://127\.0\.0\.1:{self.port}\b", after=before)
        health = await self.ask("GET", "/healthz")
        assert health["status"] == "ok", health

    async def request(
        self,
        method: str,
        path: str,
        query: Sequence[tuple[str, Any]] | Mapping[str, Any] = (),
        headers: Mapping[str, str] | None = None,
        **options: Any,
    ) -> Reader:
        """Ask, and wait for the headers."""
        reader = await self.connect(path, query, headers, method=method, **options)
        return await reader.answered()

    async def connect(
        self,
        path: str,
        query: Sequence[tuple[str, Any]] | Mapping[str, Any] = (),
        headers: Mapping[str, str] | None = None,
        **options: Any,
    ) -> Reader:
        """Ask, and wait for nothing."""
        asked = f"{BASE}{path}" + (f"?{urlencode(query)}" if query else "")
        return await connect(self.port, asked, headers, **options)

    async def ask(self, method: str, path: str, **query: Any) -> Any:
        """The JSON of an answer."""
        headers = {"connection": "close", "x-durably": "1", "content-length": "0"}
        reader = await self.request(method, path, query, headers)
        return await reader.json()

    async def trigger(self, *script: list[Any], job: str = "script", **more: Any) -> str:
        """A new run's id."""
        body = json.dumps({"jobName": job, "input": script, **more})
        headers = {"connection": "close", "content-type": "application/json"}
        reader = await self.request("POST", "/trigger", headers=headers, body=body)
        answer = await reader.json()
        return answer["runId"]

    async def subscribe(self, run_id: str, last_id: int | None = None, **options: Any) -> Reader:
        """Follow a run; the headers have come."""
        headers = {} if last_id is None else {"last-event-id": str(last_id)}
        return await self.request("GET", "/subscribe", {"runId": run_id}, headers, **options)

    async def follow(
        self, query: Sequence[tuple[str, str]] = (), *, was_away: bool = False, **options: Any
    ) -> Reader:
        """Follow all runs; the headers have come."""
        headers = {"last-event-id": "0"} if was_away else {}
        return await self.request("GET", "/runs/subscribe", query, headers, **options)

    async def probe(self) -> dict[str, Any]:
        """What the process holds."""
        return await self.ask("GET", "/probe")

    async def until(self, done: Any, patience: float = PATIENCE) -> dict[str, Any]:
        """What it holds, once that is as wanted."""
        deadline = time.monotonic() + patience
        while not done(held := await self.probe()):
            assert time.monotonic() < deadline, held
            await asyncio.sleep(0.05)
        return held

    async def over(self, run_id: str, *statuses: str) -> dict[str, Any]:
        """The run, once it is in one of the statuses (over, by default)."""
        wanted = statuses or ("completed", "failed", "cancelled")
        deadline = time.monotonic() + PATIENCE
        while (run := await self.ask("GET", "/run", runId=run_id))["status"] not in wanted:
            assert time.monotonic() < deadline, run
            await asyncio.sleep(0.01)
        return run
