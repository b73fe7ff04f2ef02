"""Moving to another database: whatever is there arrives as it is, whole or not at all."""

from __future__ import annotations

import asyncio
import json
import random
import re
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from durably import Status, Step, job, with_log_persistence
from durably.copying import postgres as postgres_side
from durably.copying import sides, sqlite
from durably.copying.sides import CopyError
from durably.copying.tables import JOURNAL, RUNS, Sum
from durably.errors import SchemaError
from durably.state import FINAL, NEVER
from tests import postgres
from tests.tier import by_tier

from .places import (
    Home,
    as_told,
    copy,
    execute,
    migrate,
    opened,
    rows,
    side,
    some_file,
    some_schema,
)

WAYS = ["file to server", "server to file", "file to file", "server to server"]


@pytest.fixture(params=WAYS)
def ways(request: pytest.FixtureRequest, tmp_path: Path, postgres_url: str) -> tuple[Home, Home]:
    source, _, target = request.param.split()
    make = {"file": lambda: some_file(tmp_path), "server": lambda: some_schema(postgres_url)}
    return make[source](), make[target]()


# -- databases to copy


@job("work")
async def work(step: Step, numbers: list[int]) -> dict[str, Any]:
    """Keeps odd values, and fails for a negative number."""
    for n in numbers:
        await step.run(
            f"step {n} é 🎈", lambda n=n: {"n": n**40, "text": "\0\ud800\x1b" * n, "none": None}
        )
        step.progress(n, 10, "half\0way")
        step.log.warning("a line\0", {"n": n})
        if n < 0:
            raise ValueError("negative\0 \ud800")
    return {"huge": 10**60, "text": "\0\ud83d"}


@job("later")
async def later(step: Step, n: int) -> int:
    return await step.run("only", lambda: n)


async def fill(at: Home) -> list[str]:
    """Runs of every status, with and without keys, scopes and labels; their ids."""
    async with opened(at, work, later, worker=True) as durably:
        durably.use(with_log_persistence())
        done = [
            await durably.get_job("work").trigger(
                [1, 2], idempotency_key="k", labels={"a": "b c", "é": "ü"}
            ),
            await durably.get_job("work").trigger([1, -1], idempotency_key="k", scope="tenant"),
            await durably.get_job("later").trigger(7, concurrency_key="c", scope="tenant"),
        ]
        for run in done:
            async for _ in durably.subscribe(run.id):
                pass
    async with opened(at, later) as durably:
        handle = durably.get_job("later")
        waiting = [await handle.trigger(n, concurrency_key="busy") for n in range(3)]
        gone = await handle.trigger(8)
        await durably.cancel(gone.id)
        doomed = await handle.trigger(9)
        await durably.cancel(doomed.id)
        await durably.delete_run(doomed.id)
    first, second = waiting[0].id, waiting[1].id
    await execute(at, f"update durably_runs set status = 'running', due_at = 7000, updated_at = 5000, generation = 1,"
                      f" started_at = 5000, lease_owner = 'gone', lease_token = 'right' where id = '{first}'")  # fmt: skip
    await execute(at, "insert into durably_journal (run_id, seq, at, type, attempt, started_at)"
                      f" values ('{first}', 2, 5000, 'run:start', 1, 5000)")  # fmt: skip
    await execute(
        at, f"update durably_runs set due_at = {NEVER}, key_slot = -1 where id = '{second}'"
    )
    await execute(at, f"update durably_runs set status = 'waiting' where id = '{waiting[2].id}'")
    return [run.id for run in (*done, *waiting, gone)]


async def test_whatever_is_there_arrives(ways: tuple[Home, Home]) -> None:
    source, target = ways
    ids = await fill(source)
    before = await rows(source)
    copied = await copy(source, target)
    assert copied.is_new
    assert copied.source == copied.target
    assert copied.source["durably_runs"].rows == len(ids)
    assert await rows(source) == before, "the source is as it was"
    there = await rows(target)
    assert there["durably_journal"] == before["durably_journal"]
    assert [row[:10] for row in there["durably_runs"]] == [
        row[:10] for row in before["durably_runs"]
    ]
    assert await as_told(target, ids) == await as_told(source, ids)
    assert {
        status for (status,) in await execute(target, "select distinct status from durably_runs")
    } == set(Status)


async def test_no_right_to_write_moves_along(ways: tuple[Home, Home]) -> None:
    source, target = ways
    await fill(source)
    await copy(source, target)
    held = (
        "select status, due_at, lease_owner, lease_token from durably_runs where status = 'running'"
    )
    assert await execute(target, held) == [("running", 5000, "gone", None)]


async def test_numbers_go_on_after_the_highest(ways: tuple[Home, Home]) -> None:
    source, target = ways
    await fill(source)
    await copy(source, target)
    [(last,)] = await execute(source, "select max(position) from durably_journal")
    async with opened(target, later) as durably:
        run = await durably.get_job("later").trigger(1)
    lines = await execute(
        target, f"select position, seq from durably_journal where run_id = '{run.id}'"
    )
    assert [seq for _, seq in lines] == [1]
    assert lines[0][0] > last


async def test_all_go_on_there(ways: tuple[Home, Home]) -> None:
    """Whoever waited for the key, and whoever held it, is executed; what was committed is not."""
    source, target = ways
    await fill(source)
    await copy(source, target)
    async with opened(target, work, later) as durably:
        await durably.retry((await durably.get_runs(status="failed"))[0].id)
    async with opened(target, work, later, worker=True) as durably:
        for run in await durably.get_runs(job="later"):
            if run.status is not Status.CANCELLED:
                await durably.wait(run, timeout=60)
        [failed] = [
            run for run in await durably.get_runs(job="work") if run.idempotency_key and run.scope
        ]
        async for _ in durably.subscribe(failed.id):
            pass
        steps = await durably.get_steps(failed.id)
    assert [(step.name, step.attempt) for step in steps] == [
        ("step 1 é 🎈", 1),
        ("step -1 é 🎈", 1),
    ]


async def test_repeated_it_finds_all_there(ways: tuple[Home, Home]) -> None:
    source, target = ways
    await fill(source)
    first = await copy(source, target)
    again = await copy(source, target)
    assert not again.is_new
    assert (again.source, again.target) == (first.source, first.target)
    async with opened(target, later) as durably:
        await durably.get_job("later").trigger(1)
    with pytest.raises(CopyError, match="is not empty: it has 8 rows in durably_runs"):
        await copy(source, target)
    await execute(source, "update durably_runs set progress = 'null' where status = 'waiting'")
    with pytest.raises(CopyError, match="is not empty: it has"):
        await copy(source, target)


async def test_a_retired_source_is_not_opened_any_more(ways: tuple[Home, Home]) -> None:
    source, target = ways
    ids = await fill(source)
    await copy(source, target, retire=True)
    with pytest.raises(SchemaError, match="is retired: its runs were copied"):
        await as_told(source, ids)
    assert not (await copy(source, target, retire=True)).is_new, "it can be looked at, and repeated"
    with pytest.raises(CopyError, match="is retired, and nobody will open it"):
        await copy(target, source)
    await execute(source, "delete from durably_version where version = 1000000")
    assert await as_told(source, ids) == await as_told(target, ids)


# -- any database

texts = st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=6
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda some: st.lists(some, max_size=3) | st.dictionaries(st.text(), some, max_size=3), max_leaves=6,
).map(json.dumps)  # fmt: skip
times = st.integers(0, 2**53)
maybe = st.none() | texts


@st.composite
def databases(draw: st.DrawFn) -> tuple[list[Any], list[Any]]:
    """Rows of both tables, within what the tables allow."""
    runs: list[Any] = []
    lines: list[Any] = []
    for n in range(draw(st.integers(1, 6))):
        status = draw(st.sampled_from(list(Status)))
        due_at = (
            None
            if status in FINAL
            else draw(st.just(NEVER) | times)
            if status != "running"
            else draw(st.integers(0, 10**12))
        )
        key = draw(maybe) if status != "running" else f"{n}"
        slot = draw(st.sampled_from([None, -1])) if status != "running" else 0
        held = draw(st.none() | times) if status != "running" else None
        owner, token = draw(maybe), draw(maybe)
        runs.append((f"run-{n}", draw(texts), status.value, draw(values), draw(st.none() | values), draw(st.none() | values),
                     "{}", draw(st.none() | values), f"{n}" if draw(st.booleans()) else None, key, due_at, owner, token,
                     draw(times), draw(times), draw(times), draw(st.none() | times), draw(st.none() | times), draw(times),
                     draw(st.just("") | texts), slot, held))  # fmt: skip
        seen = draw(st.lists(st.tuples(times, texts, values), max_size=4))
        lines += [
            (f"run-{n}", seq + 1, at, "log:write", step, None, 1, at, data)
            for seq, (at, step, data) in enumerate(seen)
        ]
    order = draw(st.permutations(lines))
    gaps = draw(st.lists(st.integers(1, 5), min_size=len(order), max_size=len(order)))
    positions = [sum(gaps[: n + 1]) for n in range(len(order))]
    return runs, [(position, *line) for position, line in zip(positions, order, strict=True)]


async def round_trip(given: tuple[list[Any], list[Any]], folder: Path, url: str) -> None:
    start, server, back = some_file(folder), some_schema(url), some_file(folder)
    await migrate(start)
    target = side(start)
    await target.hold()
    for table, found in zip((RUNS, JOURNAL), given, strict=True):
        await target.write(table, found)
    await target.commit()
    await target.release()
    there, again = await copy(start, server), await copy(server, back)
    assert there == again
    assert await rows(server) == await rows(back)
    assert (await rows(server))["durably_journal"] == sorted(given[1], key=repr)
    assert not (await copy(start, back)).is_new
    await execute(server, f"drop schema {server.options.schema} cascade")


@pytest.fixture(scope="module")
def server() -> Any:
    url = asyncio.run(postgres.create_database())
    yield url
    asyncio.run(postgres.drop_database(url))


def test_any_database_survives_the_way_there_and_back(server: str, tmp_path: Path) -> None:
    @settings(max_examples=by_tier(quick=5, ci=15, soak=400), deadline=None, database=None,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(databases())
    def holds(given: tuple[list[Any], list[Any]]) -> None:
        asyncio.run(round_trip(given, tmp_path, server))

    holds()


# -- what must not happen


@pytest.mark.parametrize("harm", ["a line left out", "a line twice", "a value changed"])
async def test_the_checksums_catch_what_did_not_arrive(
    harm: str, ways: tuple[Home, Home], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A planted bug in the writer."""
    source, target = ways
    await fill(source)
    kind = postgres_side.Database if target.is_server else sqlite.File
    rightly = kind.write

    async def wrongly(self: Any, table: Any, rows: Any) -> None:
        if table is JOURNAL and harm == "a line left out":
            rows = rows[:-1]
        elif table is JOURNAL and harm == "a line twice":
            rows = [*rows, (rows[-1][0] + 1, *rows[-1][1:3][:1], 99, *rows[-1][3:])]
        elif table is RUNS and harm == "a value changed":
            rows = [*rows[:-1], tuple(f"{v} " if n == 3 else v for n, v in enumerate(rows[-1]))]
        await rightly(self, table, rows)

    monkeypatch.setattr(kind, "write", wrongly)
    with pytest.raises(CopyError, match=r"what arrived in .* differs: durably_"):
        await copy(source, target)
    assert await rows(target) == {"durably_runs": [], "durably_journal": []}
    monkeypatch.undo()
    assert (await copy(source, target)).is_new


def test_a_sum_knows_every_value_and_no_order() -> None:
    some = [(1, "a", None), (2, "b", None), (3, "1", 1)]

    def total(rows: list[Any]) -> Sum:
        sum = Sum()
        for row in rows:
            sum.add(row)
        return sum

    assert total(some) == total(some[::-1])
    for other in (
        [(1, "b", None), (2, "a", None), (3, "1", 1)],
        [*some[:2], (3, 1, "1")],
        some[1:],
        [*some, some[0]],
    ):
        assert total(other).checksum != total(some).checksum


async def test_a_lease_that_has_not_run_out_refuses(ways: tuple[Home, Home]) -> None:
    source, target = ways
    await fill(source)
    await execute(source, "update durably_runs set due_at = 9000000000000 where status = 'running'")
    with pytest.raises(CopyError, match=r"worker gone holds 1 runs .* stop it with SIGTERM"):
        await copy(source, target, force=True)


async def test_whoever_has_the_source_open_would_go_on_with_it(ways: tuple[Home, Home]) -> None:
    source, target = ways
    await fill(source)
    async with opened(source) as durably:
        await durably.get_runs()
        with pytest.raises(CopyError, match=r"still using .* stop them, or pass --force"):
            await copy(source, target)
        assert (await copy(source, target, force=True)).is_new
    assert not (await copy(source, target)).is_new


async def test_a_writer_at_work_refuses(
    ways: tuple[Home, Home], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_side, "LOCK_TIMEOUT", 1)
    monkeypatch.setattr(sqlite, "LOCK_TIMEOUT", 1)
    source, target = ways
    await fill(source)
    await migrate(target)
    for busy in (source, target):
        writer = side(busy)
        await writer.hold()
        try:
            with pytest.raises(CopyError, match=f"{re.escape(busy.name)} cannot be locked"):
                await copy(source, target)
        finally:
            await writer.release()
    assert (await copy(source, target)).is_new


async def test_another_schema_is_refused_before_a_target_is_made(
    ways: tuple[Home, Home],
) -> None:
    source, target = ways
    await fill(source)
    await execute(source, "delete from durably_version where version > 1")
    with pytest.raises(
        CopyError, match="has schema 1, this Durably needs 3: run 'durably migrate'"
    ):
        await copy(source, target)
    assert target.is_server or not target.path.exists()


async def test_large_rows_come_few_at_a_time(
    ways: tuple[Home, Home], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sides, "BATCH_BYTES", 10_000)
    source, target = ways
    async with opened(source, later) as durably:
        await durably.get_job("later").batch_trigger(list(range(100)))
    await execute(source, f"update durably_runs set output = '\"{'x' * 4000}\"' where input > '50'")
    await copy(source, target)
    for at in (source, target):
        held = side(at)
        await held.hold()
        batches = [batch async for batch in held.batches(RUNS)]
        await held.release()
        assert sum(map(len, batches)) == 100
        assert max(sum(map(sides.size_of, batch)) for batch in batches) < 10_000 + 5_000


# -- killed in the middle

CHILD = """
import asyncio, sys
from durably.cli.home import home
from tests.copying.places import migrate, newest_schema, side
from durably.copying.copy import copy
source, target = home(sys.argv[1]), home(sys.argv[2], sys.argv[3])
def show(progress): print(progress.current, flush=True); sys.stdin.readline()
asyncio.run(copy(side(source), side(target), newest_schema(), lambda: migrate(target), show, retire=True))
print("done", flush=True)
"""


@pytest.mark.parametrize("kind", ["file", "server"])
async def test_a_copy_that_is_killed_is_as_if_it_had_never_begun(
    kind: str, tmp_path: Path, postgres_url: str
) -> None:
    source = some_file(tmp_path)
    await fill(source)
    kills = by_tier(quick=3, ci=5, soak=200)
    for n in range(kills):
        target = some_file(tmp_path) if kind == "file" else some_schema(postgres_url)
        words = [str(source.path), target.database, target.options.schema]
        child = subprocess.Popen([sys.executable, "-c", CHILD, *words], cwd=Path(__file__).parents[2],
                                 stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # fmt: skip
        try:
            for _ in range(random.Random(n).randint(1, 4)):  # each table is copied, then checked
                assert child.stdout.readline()
                assert await _unseen(target)
                child.stdin.write("\n")
                child.stdin.flush()
        finally:
            child.send_signal(signal.SIGKILL)
            child.communicate()
        found = await rows(target)
        copied = await copy(source, target, retire=False)
        assert copied.is_new == (found == {"durably_runs": [], "durably_journal": []}), (
            "all or nothing"
        )
        await execute(source, "delete from durably_version where version = 1000000")


async def _unseen(target: Home) -> bool:
    try:
        return await execute(target, "select * from durably_runs", timeout=0) == []
    except sqlite3.OperationalError as error:  # a file is not even opened by others meanwhile
        return "locked" in str(error)
