"""The act of copying: all or nothing, while nobody works, checked on both sides before it counts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

from ..models import Progress
from ..runtime import to_datetime
from .sides import CopyError, Side
from .tables import TABLES, Sum, Table

Show = Callable[[Progress], None]
Sums = Mapping[str, Sum]


class Copied(NamedTuple):
    """What came of it: the count and the checksum of each table, which are both sides' own."""

    source: Sums
    target: Sums
    is_new: bool
    """False when all of it was there already."""


async def copy(
    source: Side,
    target: Side,
    schema: int,
    migrate: Callable[[], Awaitable[None]],
    show: Show,
    *,
    force: bool = False,
    retire: bool = False,
) -> Copied:
    """Copy all runs and journals of this schema into an empty database, which ``migrate`` makes.

    Both are held until the end, so that nobody writes to either, and what is written is seen by others
    at once or, whatever happens on the way, never. Repeated, it finds that all is there. ``force``:
    though other processes have the source open. ``retire``: nobody is to open the source any more.
    Raises ``CopyError``.
    """
    try:
        await source.hold()
        await _check_source(source, schema, force=force)
        try:
            await _hold_target(target, schema, migrate)
            copied = await _copy(source, target, show)
        finally:
            await target.release()
        if retire:
            await source.retire()
            await source.commit()
        return copied
    finally:
        await source.release()


async def _check_source(source: Side, schema: int, *, force: bool) -> None:
    version = await source.schema_version()
    if version != schema:
        raise CopyError(
            f"{source.name} has schema {version}, this Durably needs {schema}: run 'durably migrate' "
            "on it, or upgrade this Durably"
        )
    for holder in await source.holders():
        until = to_datetime(holder.until).strftime("%H:%M:%S")
        raise CopyError(
            f"worker {holder.owner} holds {holder.runs} runs of {source.name}: stop it with SIGTERM, and "
            f"it hands them back; if it is gone, its leases end at {until} UTC at the latest"
        )
    if not force and (users := await source.users()):
        raise CopyError(
            f"{', '.join(users)}: still using {source.name}, and would go on with it afterwards; stop "
            "them, or pass --force if they only read"
        )


async def _hold_target(target: Side, schema: int, migrate: Callable[[], Awaitable[None]]) -> None:
    if target.exists():
        await target.hold()
        if await target.schema_version() == schema:
            if await target.is_retired():
                raise CopyError(f"{target.name} is retired, and nobody will open it")
            return
        await target.release()
    await migrate()
    await target.hold()


async def _copy(source: Side, target: Side, show: Show) -> Copied:
    counts = {
        table.name: (await source.count(table), await target.count(table)) for table in TABLES
    }
    work = _Work(show, sum(expected for expected, _ in counts.values()))
    if any(found for _, found in counts.values()):
        if any(expected != found for expected, found in counts.values()):
            found = " and ".join(f"{found} rows in {name}" for name, (_, found) in counts.items())
            raise CopyError(
                f"{target.name} is not empty: it has {found}; copy into a new database, or into a schema "
                "of its own"
            )
        return await _compare(source, target, work)
    sent = {table.name: await work.send(source, target, table) for table in TABLES}
    await target.settle()
    arrived = {table.name: await work.add_up(target, table) for table in TABLES}
    if sent != arrived:
        raise CopyError(f"what arrived in {target.name} differs: {_differences(sent, arrived)}")
    await target.commit()
    return Copied(sent, arrived, is_new=True)


async def _compare(source: Side, target: Side, work: _Work) -> Copied:
    """Perhaps it was copied before, and nothing has happened there since."""
    sums = {table.name: await work.add_up(source, table) for table in TABLES}
    there = {table.name: await work.add_up(target, table) for table in TABLES}
    if sums != there:
        raise CopyError(
            f"{target.name} is not empty, and what it has differs: {_differences(sums, there)}"
        )
    return Copied(sums, there, is_new=False)


def _differences(expected: Sums, found: Sums) -> str:
    return "; ".join(
        f"{name} has {found[name].rows} rows with checksum {found[name].checksum[:16]} instead of "
        f"{expected[name].rows} with {expected[name].checksum[:16]}"
        for name in expected
        if expected[name] != found[name]
    )


class _Work:
    """Goes through rows, and tells how far it is: each row is gone through twice."""

    def __init__(self, show: Show, rows: int) -> None:
        self._show = show
        self._done, self._all = 0, 2 * rows

    async def send(self, source: Side, target: Side, table: Table) -> Sum:
        sum = Sum()
        async for batch in source.batches(table):
            rows = [table.arrives(row) for row in batch]
            for row in rows:
                sum.add(row)
            await target.write(table, rows)
            self._tell(len(rows), f"copying {table.name}")
        return sum

    async def add_up(self, side: Side, table: Table) -> Sum:
        sum = Sum()
        async for batch in side.batches(table):
            for row in batch:
                sum.add(table.arrives(row))
            self._tell(len(batch), f"checking {table.name}")
        return sum

    def _tell(self, rows: int, what: str) -> None:
        self._done += rows
        self._show(Progress(self._done, self._all, what))
