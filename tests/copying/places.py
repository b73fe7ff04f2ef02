"""Databases to copy from and to: files and schemas of a server; what is in them, read as users read it."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg

from durably import Durably
from durably.cli.home import Home, home, newest_schema
from durably.copying.copy import Copied
from durably.copying.copy import copy as copy_all
from durably.copying.postgres import Database
from durably.copying.sides import Side
from durably.copying.sqlite import File
from durably.copying.tables import TABLES

Rows = dict[str, list[tuple[Any, ...]]]


def some_file(folder: Path) -> Home:
    return home(str(folder / f"{uuid.uuid4().hex}.db"))


def some_schema(url: str) -> Home:
    return home(url, f"s{uuid.uuid4().hex}")


def side(at: Home) -> Side:
    if at.is_server:
        return Database(at.database, at.name, at.options.schema)
    return File(at.path)


async def migrate(at: Home) -> None:
    durably = at.instance()
    await durably.migrate()
    await durably.stop(0)


async def copy(source: Home, target: Home, **options: Any) -> Copied:
    async def make() -> None:
        await migrate(target)

    return await copy_all(
        side(source), side(target), newest_schema(), make, lambda _: None, **options
    )


async def execute(at: Home, statement: str, timeout: float = 5) -> list[tuple[Any, ...]]:
    """A statement of an outsider, with the tables' names as they are everywhere."""
    if not at.is_server:
        with closing(sqlite3.connect(at.path, timeout)) as connection, connection:
            return connection.execute(statement).fetchall()
    connection = await asyncpg.connect(
        at.database, server_settings={"search_path": at.options.schema or "public"}
    )
    try:
        return [tuple(row) for row in await connection.fetch(statement)]
    finally:
        await connection.close()


async def rows(at: Home) -> Rows:
    """All that is there, in an order of our own."""
    return {table.name: sorted(await execute(at, table.select), key=repr) for table in TABLES}


@asynccontextmanager
async def opened(at: Home, *jobs: Any, **options: Any) -> AsyncIterator[Durably]:
    durably = replace(at, jobs=list(jobs)).instance(**options)
    await durably.init()
    try:
        yield durably
    finally:
        await durably.stop(0)


async def as_told(at: Home, run_ids: list[str]) -> list[Any]:
    """What a user is told of each run: itself, its steps, its log lines, and its history if it is over."""
    async with opened(at) as durably:
        found: list[Any] = []
        for run_id in run_ids:
            run = await durably.get_run(run_id)
            assert run is not None
            found += [run, await durably.get_steps(run_id), await durably.get_logs(run_id)]
            if run.is_final:
                found.append([event async for event in durably.subscribe(run_id, after=0)])
        return found
