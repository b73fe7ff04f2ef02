"""The server of the page: its jobs, their API, the page itself.

``python -m tests.compat.app FOLDER PORT``: ``/NAME/`` keeps its database in ``FOLDER/NAME/jobs.db``,
and a job of it goes on where it holds when ``FOLDER/NAME/gates/INPUT-ROW`` is there.
``FOLDER/page.js`` is the page's program. Pages of http://localhost:PORT may call the API too.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import uvicorn
from pydantic import BaseModel

from durably import Durably, Step, with_log_persistence

HTML = b'<!doctype html><meta charset="utf-8"><div id="root"></div><script type="module" src="page.js"></script>'


class Import(BaseModel):
    name: str
    rows: int
    hold: list[int] = []
    """Rows before which to wait for a gate."""


class Imported(BaseModel):
    count: int


def make_jobs(durably: Durably, gates: Path) -> None:
    async def opened(gate: str) -> None:
        while not (gates / gate).exists():
            await asyncio.sleep(0.02)

    @durably.job("import")
    async def import_rows(step: Step, input: Import) -> Imported:
        def save(row: int) -> int:
            step.log.info("saved", {"row": row})
            return row * 10

        for row in range(input.rows):
            if row in input.hold:
                await opened(f"{input.name}-{row}")
            await step.run(f"row-{row}", save, row)
            step.progress(row + 1, input.rows, f"row {row + 1}")
        step.log.warning("no more rows")
        return Imported(count=input.rows)

    @durably.job("broken")
    async def broken(step: Step, input: Import) -> Imported:
        def parse() -> int:
            raise ValueError("row 3 is no number")

        if 0 in input.hold:
            await opened(f"{input.name}-0")
        await step.run("parse", parse)
        return Imported(count=0)


class Site:
    """``/NAME/…``: a page at its root, and the API of a Durably of its own beside it."""

    def __init__(self, folder: Path, name: str, origin: str) -> None:
        self._folder = folder
        self._opening = asyncio.Lock()
        self._is_open = False
        self.durably = Durably(
            folder / name / "jobs.db",
            polling_interval=0.1,
            heartbeat_interval=0.2,
            stale_threshold=2.0,
            durability="process",
        )
        self.durably.use(with_log_persistence())
        make_jobs(self.durably, folder / name / "gates")
        self.api = self.durably.asgi(
            base_path=f"/{name}/api/durably", compat="0.15", origins=[origin]
        )

    async def open(self) -> None:
        async with self._opening:
            if not self._is_open:
                await self.durably.init()
                self._is_open = True

    async def show(self, path: str, send: Any) -> None:
        """The page or its program."""
        if path == "page.js":
            type, body = b"text/javascript", (self._folder / path).read_bytes()
        else:
            type, body = b"text/html", HTML
        headers = [(b"content-type", type), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def make_app(folder: Path, origin: str) -> Any:
    """A site for each name that is asked for: tests share a process, and nothing else."""
    sites: dict[str, Site] = {}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        name, _, path = scope["path"][1:].partition("/")
        site = sites.get(name) or sites.setdefault(name, Site(folder, name, origin))
        if path in ("", "page.js"):
            await site.show(path, send)
        else:
            await site.open()
            await site.api(scope, receive, send)

    return app


if __name__ == "__main__":
    folder, port = Path(sys.argv[1]), int(sys.argv[2])
    app = make_app(folder, f"http://localhost:{port}")
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", lifespan="off")
