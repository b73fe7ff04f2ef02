"""A file of an older schema is brought up to date with all that is in it."""

import asyncio
import hashlib
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from durably import Durably, Step
from durably.errors import SchemaError
from durably.runtime import Runtime
from durably.state import NEVER, PARKED
from durably.store.records import RunRow
from durably.store.sqlite.store import DIALECT, SQLiteStore
from durably.store.statements import migrations

ROWS = Path(__file__).with_name("version_1.sql")
RELEASED = {1: "e1fcfb9c43c410eb"}  # the beginning of its SHA-256


@pytest.fixture
def version_1(tmp_path) -> Path:
    path = tmp_path / "old.db"
    with closing(sqlite3.connect(path)) as old:
        old.execute("create table durably_version (version integer primary key)")
        old.executescript(migrations(DIALECT)[1])
        old.executescript(ROWS.read_text("utf-8"))
        old.execute("pragma journal_mode = wal")
    return path


def read(path, table):
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(f"select * from {table} order by 1").fetchall()


@pytest.mark.parametrize("number", RELEASED)
def test_a_released_migration_stays_as_it_is(number):
    text = migrations(DIALECT)[number].encode()
    assert hashlib.sha256(text).hexdigest().startswith(RELEASED[number])


async def test_schema_1_is_refused_until_it_is_migrated(version_1):
    before = read(version_1, "durably_runs")
    durably = Durably(version_1)
    with pytest.raises(SchemaError, match="schema 1, this Durably needs 3: call"):
        await durably.start()
    await durably.stop()
    assert read(version_1, "durably_runs") == before


async def test_newer_schemas_give_every_run_the_empty_scope_and_its_place_and_keep_the_rest(
    version_1,
):
    runs, journal = read(version_1, "durably_runs"), read(version_1, "durably_journal")
    assert {row[2] for row in runs} == {
        "pending", "running", "waiting", "completed", "failed", "cancelled"
    }  # fmt: skip
    stores = [SQLiteStore(version_1, Runtime()) for _ in range(5)]
    await asyncio.gather(*(store.open() for store in stores))
    await asyncio.gather(*(store.migrate() for store in stores))
    for store in stores:
        await store.require_schema()
        await store.close()
    migrated = read(version_1, "durably_runs")
    assert [row[:-2] for row in migrated] == [(*row, "") for row in runs]
    columns = RunRow._fields
    for row in (RunRow._make(row) for row in migrated):
        place = 0 if row.status == "running" and row.concurrency_key else None
        assert row.key_slot == (PARKED if row.due_at == NEVER else place)
        assert row.held_until is None
    assert columns[-2:] == ("key_slot", "held_until")
    assert read(version_1, "durably_journal") == journal
    assert read(version_1, "durably_version") == [(1,), (2,), (3,)]


async def test_what_schema_1_left_undone_is_finished(version_1):
    called = []

    async def value(n: int) -> int:
        called.append(n)
        return n

    durably = Durably(version_1, polling_interval=0.05)

    @durably.job("add")
    async def add(step: Step, n: int) -> int:
        return await step.run("one", value, n) + await step.run("two", value, n)

    @durably.job("nap")
    async def nap(step: Step) -> None: ...

    by_input = {row[3]: row[0] for row in read(version_1, "durably_runs") if row[1] == "add"}
    left = {row[2]: row[0] for row in read(version_1, "durably_runs") if row[1] == "nap"}
    async with durably:
        midway, parked = [await durably.wait(by_input[n], 30) for n in "56"]
        assert (midway.output, midway.attempt, midway.scope) == (10, 2, "")
        assert parked.output == 12
        assert called == [5, 6, 6], "what was committed before is not done again"
        for state in ("pending", "waiting"):
            assert (await durably.wait(left[state], 30)).output is None

        assert (await durably.get_run(by_input["1"])).output == 2
        assert (await durably.get_run(by_input["13"])).error.message == "unlucky"
        assert (await durably.get_run(left["cancelled"])).status == "cancelled"
        assert (await add.trigger(1, idempotency_key="first")).id == by_input["1"]
        assert (await nap.trigger(idempotency_key="later")).id == left["pending"]
        assert (await nap.trigger(idempotency_key="later", scope="new")).id != left["pending"]
        (gone,) = [r[1] for r in read(version_1, "durably_journal") if r[4] == "run:delete"]
        (told,) = [event async for event in durably.subscribe(gone)]
        assert (told.type, told.job, told.scope) == ("run:delete", "add", "")
