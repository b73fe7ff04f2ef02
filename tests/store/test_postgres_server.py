"""The servers that tests start for themselves: as root, as a normal user, of two versions."""

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys

import asyncpg
import pytest

from durably import Durably, Step
from durably.runtime import Runtime
from durably.state import COMPLETE
from durably.store.postgres.store import PostgresStore
from durably.store.records import Entry, NewRun, Settlement
from tests import debian, postgres
from tests.oracle import check_journal
from tests.tier import TIER

NOBODY = ("--reuid=65534", "--regid=65534", "--clear-groups")
# It may be that only root can read where Python is.
READS_ALL = ("--inh-caps=+dac_override", "--ambient-caps=+dac_override")
SCRIPT = """
import os
from tests import postgres
assert os.geteuid() != 0
async def ask():
    async with postgres.database() as url:
        await postgres.execute(url, "create table t (n int)")
postgres.run(ask())
postgres.own_server().restart()
postgres.run(ask())
print("works")
"""


def test_a_normal_user_has_a_server(tmp_path):
    """As root, the other tests are what shows that root has one."""
    command = [sys.executable, "-c", SCRIPT]
    if os.geteuid() == 0:
        assert shutil.which("setpriv"), "util-linux is not installed"
        command = ["setpriv", *NOBODY, *READS_ALL, *command]
        os.chown(tmp_path, 65534, 65534)
    environment = {name: value for name, value in os.environ.items() if name != postgres.VARIABLE}
    environment |= {"TMPDIR": str(tmp_path), "HOME": str(tmp_path)}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    with reachable(tmp_path):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180)
    assert done.stdout == "works\n", done.stderr
    assert not any(path.name.startswith("durably-postgres") for path in tmp_path.iterdir())


@contextlib.contextmanager
def reachable(folder):
    """Let others pass through the folders above, which pytest makes for its user alone."""
    above = [path for path in folder.parents if path.stat().st_uid == os.geteuid()]
    modes = {path: path.stat().st_mode for path in above}
    for path, mode in modes.items():
        path.chmod(mode | 0o111)
    try:
        yield
    finally:
        for path, mode in modes.items():
            path.chmod(mode)


@pytest.fixture(scope="module")
def debians():
    """A server of Debian's, which is of another version than the one that the other tests use."""
    try:
        found = debian.program("postgresql", "usr/lib/postgresql/*/bin/postgres")
    except debian.Unavailable as why:
        if TIER != "quick":
            pytest.fail(str(why))
        pytest.skip(str(why))
    server = postgres.Server(binaries=found.path.parent, env=found.env)
    yield server
    server.close()


async def test_debians_version_is_another(debians):
    connection = await asyncpg.connect(debians.url)
    version = connection.get_server_version()
    await connection.close()
    assert version.major >= 13
    print(version)


async def test_runs_are_done_on_debians_version(debians):
    durably = Durably(debians.url, polling_interval=0.1, max_concurrent_runs=20)

    @durably.job("job")
    async def job(step: Step, n: int) -> int:
        step.progress(1)
        step.log.info("a line")
        return sum([await step.run(f"s{i}", asyncio.sleep, 0, i, returns=int) for i in range(n)])

    durably._engine.persist_logs()
    async with durably:
        runs = await job.batch_trigger([5] * 100)
        async with asyncio.timeout(60):
            assert {(await durably.wait(run)).output for run in runs} == {10}
        await asyncio.to_thread(debians.restart)
        assert (await job.trigger_and_wait(3, timeout=60)).output == 3
    assert check_journal(await postgres.as_sqlite(debians.url), fifo=False) == []


async def test_every_kind_of_write_is_known_to_debians_version(debians):
    """Each statement, for one and for many, is at least prepared there, and most of them run."""
    store = PostgresStore(debians.url, Runtime())
    await store.open()
    await store.migrate()
    try:
        async with store._commands.session() as session:
            for statement in store._statements._named.values():
                await session._connection.prepare(statement.text)
        await store.enqueue([NewRun(f"{n:036d}", "other", "1", "{}", None, "k") for n in (1, 2)], 0)
        (held,) = (await store.claim(["other"], "me", 0, 30_000, 5, takeover=True)).taken
        await store.record(held.lease, Entry("step:complete", 1, "s", 0, 1, "1"))
        await store.settle(held.lease, COMPLETE, Settlement(1, output="1"))
        assert len((await store.claim(["other"], "me", 0, 30_000, 5, takeover=True)).taken) == 1
    finally:
        await store.close()
