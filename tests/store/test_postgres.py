"""What is PostgreSQL's alone: schemas, migrations, clocks, poolers, values, leases from another thread."""

import asyncio
import contextlib
import logging
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from durably import Durably, Step
from durably.errors import ConfigurationError, SchemaError, StorageUnavailableError
from durably.runtime import Runtime
from durably.state import COMPLETE, RELEASE
from durably.store.postgres.migrate import migration_sql
from durably.store.postgres.statements import DIALECT, Statements
from durably.store.postgres.store import PostgresStore
from durably.store.records import Entry, NewRun, RunFilter, Settlement
from durably.store.statements import migrations
from durably.store.url import without_password
from tests import postgres

ROWS = Path(__file__).with_name("version_1.sql")
HOUR = 3_600_000


class Skewed(Runtime):
    """A host whose clock is wrong."""

    def __init__(self, by: int) -> None:
        super().__init__()
        self.by = by

    def now(self) -> int:
        return super().now() + self.by


@contextlib.asynccontextmanager
async def opened(url, runtime=None, **options):
    store = PostgresStore(url, runtime or Runtime(), **options)
    await store.open()
    await store.migrate()
    try:
        yield store
    finally:
        await store.close()


def new(n, **values):
    return NewRun(f"{n:036d}", "job", "1", "{}", None, None)._replace(**values)


# -- migrations


async def test_many_processes_migrate_at_once(postgres_url):
    script = (
        "import asyncio, sys\n"
        "from durably import Durably\n"
        "async def main():\n"
        "    durably = Durably(sys.argv[1], worker=False)\n"
        "    await durably.migrate()\n"
        "    await durably.stop()\n"
        "asyncio.run(main())\n"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", script, postgres_url], stderr=subprocess.PIPE)
        for _ in range(5)
    ]
    for process in processes:
        _, said = await asyncio.to_thread(process.communicate)
        assert process.returncode == 0, said
    async with opened(postgres_url) as store:
        await store.require_schema()


async def test_schema_1_is_refused_until_it_is_migrated(postgres_url):
    script = Statements("", DIALECT)
    connection = await asyncpg.connect(postgres_url)
    await connection.execute("create table durably_version (version integer primary key)")
    await connection.execute(migrations(DIALECT)[1])
    await connection.execute(ROWS.read_text("utf-8"))
    before = await connection.fetch("select * from durably_runs order by id")
    durably = Durably(postgres_url)
    with pytest.raises(SchemaError, match=r"schema 1, this Durably needs \d+: call"):
        await durably.start()
    await durably.stop()
    await asyncio.gather(*(_migrate(postgres_url) for _ in range(4)))
    after = await connection.fetch("select * from durably_runs order by id")
    assert [tuple(row)[: len(before[0])] for row in after] == [tuple(row) for row in before]
    assert {row["scope"] for row in after} == {""}
    versions = await connection.fetch("select version from durably_version order by 1")
    assert [row[0] for row in versions] == sorted(script.migrations)
    await connection.close()


async def _migrate(url):
    async with opened(url):
        pass


async def test_a_newer_schema_is_refused(postgres_url):
    async with opened(postgres_url):
        pass
    await postgres.execute(postgres_url, "insert into durably_version values (99)")
    with pytest.raises(SchemaError, match="newer"):
        await Durably(postgres_url).init()


async def test_the_printed_migrations_are_the_ones_that_are_made(postgres_url):
    async with postgres.database() as other:
        await postgres.execute(other, migration_sql("jobs"))
        async with opened(other, schema="jobs") as store:
            await store.enqueue([new(1)], 1)
        async with opened(postgres_url, schema="jobs"):
            pass
        question = (
            "select table_name, column_name, data_type, is_nullable from information_schema.columns"
            " where table_schema = 'jobs' order by 1, 2"
        )
        found = []
        for url in (other, postgres_url):
            connection = await asyncpg.connect(url)
            found.append(await connection.fetch(question))
            await connection.close()
        assert found[0] == found[1] != []


async def test_two_schemas_of_one_database_know_nothing_of_each_other(postgres_url):
    async with (
        opened(postgres_url, schema="one") as one,
        opened(postgres_url, schema="two") as two,
        opened(postgres_url) as none,
    ):
        for n, store in enumerate((one, two, none)):
            await store.enqueue([new(n)], 1)
            (held,) = (await store.claim(["job"], "me", 1, 30_000, 10, takeover=True)).taken
            await store.record(held.lease, Entry("step:complete", 1, "s", 0, 1, "1"))
            await store.settle(held.lease, COMPLETE, Settlement(1, output="1"))
            assert [row.id for row in await store.runs(RunFilter())] == [new(n).id]
            assert len((await store.tail(await store.end_of_tail()))[0]) == 0
            await store.delete(held.row.id, 1)


@pytest.mark.parametrize("schema", ["Jobs", "a-b", 'a"b', "1a", "a b"])
def test_a_schema_is_a_plain_word(schema):
    with pytest.raises(ConfigurationError, match="schema"):
        Durably("postgresql://localhost/x", schema=schema)


async def test_a_role_that_may_not_create_tables_can_work(postgres_url):
    async with opened(postgres_url):
        pass
    role = f"worker_{time.time_ns()}"
    await postgres.execute(
        postgres_url,
        f"create role {role} login; grant select, insert, update, delete on all tables in schema public"
        f" to {role}; grant usage on all sequences in schema public to {role}",
    )
    parts = urlsplit(postgres_url)
    url = f"postgresql://{role}@{parts.hostname}:{parts.port}{parts.path}"
    try:
        durably = Durably(url)

        @durably.job("job")
        async def job(step: Step) -> int:
            return await step.run("a", int, "7")

        async with durably:
            assert (await job.trigger_and_wait(timeout=30)).output == 7
    finally:
        await postgres.execute(postgres_url, f"drop owned by {role}; drop role {role}")


# -- names


def test_a_missing_driver_is_named(monkeypatch):
    monkeypatch.setattr("durably.store.url.find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=r"pip install 'durably\[postgres\]'"):
        Durably("postgresql://localhost/x")


def test_options_of_a_server_are_refused_for_a_file():
    with pytest.raises(ConfigurationError, match="PostgreSQL"):
        Durably("jobs.db", schema="jobs")


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("postgresql://me:s3cret@host:5432/db", "postgresql://me:***@host:5432/db"),
        (
            "postgresql://host/db?user=me&password=s3cret",
            "postgresql://host/db?user=me&password=***",
        ),
        ("postgresql://me:s3/c:r@t@host/db", "postgresql://me:***@host/db"),
        ("jobs.db", "jobs.db"),
        ("postgresql://me@host/db", "postgresql://me@host/db"),
    ],
)
def test_a_password_is_not_shown(given, shown):
    assert without_password(given) == shown


async def test_a_wrong_database_is_refused_at_once(postgres_url):
    wrong = postgres_url.rsplit("/", 1)[0] + "/nothing_like_it"
    with pytest.raises(StorageUnavailableError, match="does not exist"):
        await Durably(wrong).init()


# -- the clock (T12)


@pytest.mark.parametrize("by", [45_000, -60_000, HOUR, -HOUR])
async def test_a_host_whose_clock_is_wrong_takes_nothing_and_loses_nothing(postgres_url, by):
    async with opened(postgres_url) as right, opened(postgres_url, Skewed(by)) as wrong:
        for mine, other in ((right, wrong), (wrong, right)):
            now, its_now = mine._runtime.now(), other._runtime.now()
            await mine.enqueue([new(by + 2 * HOUR + (mine is wrong))], now)
            taken = (await other.claim(["job"], "other", its_now, 30_000, 5, takeover=True)).taken
            assert len(taken) == 1, "it is due at once, whoever triggered it"
            for store, at in ((mine, now), (other, its_now)):
                stolen = await store.claim(["job"], "thief", at, 30_000, 5, takeover=True)
                assert stolen.taken == []
            (held,) = taken
            assert held.lease.duration == 30_000
            assert await other.holds(held.lease, its_now)
            assert (await mine.claim(["job"], "thief", now, 30_000, 5, takeover=True)).taken == []
            await other.settle(held.lease, RELEASE, Settlement(its_now))
            (again,) = (await mine.claim(["job"], "me", now, 30_000, 5, takeover=True)).taken
            await mine.settle(again.lease, COMPLETE, Settlement(now, output="1"))
        for store in (right, wrong):
            before = store._runtime.now() - 60_000
            assert await store.purge(before, store._runtime.now()) == []


async def test_workers_with_wrong_clocks_run_everything_once(postgres_url):
    effects = []

    async def effect(run_id, i):
        effects.append((run_id, i))
        await asyncio.sleep(0.01)
        return i

    async def body(step: Step, n: int) -> int:
        for i in range(n):
            await step.run(f"s{i}", effect, step.run_id, i)
        return n

    crew = [
        Durably(postgres_url, runtime=Skewed(by), polling_interval=0.05, stale_threshold=2,
                heartbeat_interval=0.2, max_concurrent_runs=5)
        for by in (0, 45_000, -60_000, HOUR, -HOUR)
    ]  # fmt: skip
    jobs = [durably.job("job")(body) for durably in crew]
    async with contextlib.AsyncExitStack() as stack:
        for durably in crew:
            await stack.enter_async_context(durably)
        runs = [run for job in jobs for run in await job.batch_trigger([5] * 10)]
        async with asyncio.timeout(60):
            done = [await crew[0].wait(run) for run in runs]
    assert {run.attempt for run in done} == {1}
    assert len(effects) == len(set(effects)) == 250


# -- leases


async def test_a_blocked_loop_keeps_its_leases(postgres_url, caplog):
    """The heartbeat has a thread, a loop and a connection of its own."""
    options = {"polling_interval": 0.05, "heartbeat_interval": 0.2, "stale_threshold": 1.0}
    bodies = []

    async def body(step: Step) -> int:
        bodies.append(1)
        time.sleep(3)
        return 1

    durably = Durably(postgres_url, **options)
    job = durably.job("job")(body)
    async with durably:
        run = await job.trigger()
        thief = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _THIEF, postgres_url, stdout=asyncio.subprocess.PIPE
        )
        assert (await durably.wait(run)).attempt == 1
        said, _ = await thief.communicate()
    assert said.strip() == b"[]"
    assert bodies == [1]


_THIEF = """
import asyncio, sys, time
from durably.runtime import Runtime
from durably.store.postgres.store import PostgresStore
async def main():
    store = PostgresStore(sys.argv[1], Runtime())
    await store.open()
    stolen = []
    for _ in range(25):
        stolen += (await store.claim(["job"], "thief", 0, 1000, 5, takeover=True)).taken
        await asyncio.sleep(0.1)
    print(stolen)
    await store.close()
asyncio.run(main())
"""


# -- values


async def test_values_that_servers_dislike_come_back_as_they_are(postgres_url):
    odd = [
        "\x00",
        "a\x00b",
        "\ud800",
        "\udfff\ud800",
        "é",
        "e\u0301",
        "😀",
        10**30,
        -(2**63) - 1,
        -0.0,
        {"": {"\x00": 1}},
    ]
    durably = Durably(postgres_url)

    @durably.job("echo")
    async def echo(step: Step, value: list) -> list:
        step.log.info("a\x00b\ud800", {"x": "\x00"})
        step.progress(1, 2, "a\x00\ud800")
        return await step.run("again", lambda: value)

    @durably.job("fail")
    async def fail(step: Step) -> None:
        raise ValueError("NUL \x00 and \ud800 surrogate")

    durably._engine.persist_logs()
    async with durably:
        done = await echo.trigger_and_wait(odd, labels={"ä 'x' $.y": '😀 %_\\"'}, timeout=30)
        assert done.output == odd
        assert repr(done.output) == repr(odd)
        assert (await durably.get_steps(done.id))[0].output == odd
        assert len(await durably.get_logs(done.id)) == 1
        found = await durably.get_runs(labels={"ä 'x' $.y": '😀 %_\\"'})
        assert [run.id for run in found] == [done.id]
        failed = await fail.trigger()
        async with asyncio.timeout(30):
            while not (run := await durably.get_run(failed.id)).is_final:
                await asyncio.sleep(0.02)
        assert "surrogate" in run.error.message


# -- a pooler


async def test_a_server_that_takes_no_settings_is_used_as_a_pooler(
    postgres_url, caplog, monkeypatch
):
    """As PgBouncer in transaction mode answers; then nothing may outlive a transaction."""
    from durably.store.postgres import connection

    refused = []
    connect = connection.connect

    async def picky(url, **options):
        if set(options["server_settings"]) != {"application_name"}:
            refused.append(1)
            error = asyncpg.ProtocolViolationError("unsupported startup parameter: jit")
            raise error
        assert options["statement_cache_size"] == 0
        return await connect(url, **options)

    monkeypatch.setattr(connection, "connect", picky)
    caplog.set_level(logging.INFO)
    durably = Durably(postgres_url, polling_interval=0.05)

    @durably.job("job")
    async def job(step: Step, n: int) -> int:
        return sum([await step.run(f"s{i}", int, "1") for i in range(n)])

    async with durably:
        runs = await job.batch_trigger([3] * 20)
        assert [(await durably.wait(run)).output for run in runs] == [3] * 20
        assert not durably._engine.store._signals.is_listening
    assert len(refused) == 1
    assert "pooler" in caplog.text
