"""The server of the integration tests: some jobs, their API, and the files of a page.

``python app.py FOLDER PORT``: the database and the gates are in ``FOLDER``; ``FOLDER/page`` is served
at ``/``. A job that is told to hold goes on when the file ``FOLDER/gates/NAME`` is there.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import uvicorn
from pydantic import BaseModel

from durably import Durably, Step, with_log_persistence

FOLDER = Path(sys.argv[1])
TYPES = {".html": b"text/html; charset=utf-8", ".js": b"text/javascript", ".css": b"text/css"}

durably = Durably(FOLDER / "jobs.db", polling_interval=0.1)
durably.use(with_log_persistence())


class Import(BaseModel):
    name: str = "a"
    rows: int = 3
    hold: list[int] = []
    """Rows before which to wait for the gate NAME-ROW."""
    pause: float = 0
    """Seconds that each row takes."""


class Imported(BaseModel):
    count: int


async def opened(gate: str) -> None:
    while not (FOLDER / "gates" / gate).exists():  # noqa: ASYNC110 - other processes open it
        await asyncio.sleep(0.02)


@durably.job("import-csv")
async def import_csv(step: Step, input: Import) -> Imported:
    async def save(row: int) -> int:
        await asyncio.sleep(input.pause)
        step.log.info("saved", {"row": row})
        return row

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
        if not (FOLDER / "gates" / "mended").exists():
            raise ValueError("row 3 is no number")
        return 3

    return Imported(count=await step.run("parse", parse))


@durably.job("echo")
async def echo(step: Step, input: Any) -> Any:
    return input


@durably.job("ticks")
async def ticks(step: Step, input: int) -> int:
    """Tells so many log lines, as fast as it can."""
    for tick in range(input):
        step.log.info("tick", {"tick": tick})
        if tick % 100 == 0:
            await asyncio.sleep(0)
    return input


api = durably.asgi()


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "http" or scope["path"].startswith("/api/"):
        await api(scope, receive, send)
        return
    name = scope["path"].strip("/") or "index.html"
    file = (FOLDER / "page" / name).resolve()
    found = file.is_relative_to((FOLDER / "page").resolve()) and file.is_file()
    kind = TYPES.get(file.suffix, b"application/octet-stream")
    head = {
        "type": "http.response.start",
        "status": 200 if found else 404,
        "headers": [(b"content-type", kind), (b"cache-control", b"no-store")],
    }
    await send(head)
    await send({"type": "http.response.body", "body": file.read_bytes() if found else b""})


if __name__ == "__main__":
    (FOLDER / "gates").mkdir(exist_ok=True)
    uvicorn.run(app, port=int(sys.argv[2]), log_level="warning")
