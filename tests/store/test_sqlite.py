"""What is SQLite's own: the guards, several processes' connections, the file."""

import asyncio
import os
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from durably import Durably
from durably.errors import (
    ClosedError,
    ConfigurationError,
    DatabaseReplacedError,
    ForkedError,
    SchemaError,
    StorageError,
    StorageUnavailableError,
)
from durably.runtime import Runtime
from durably.store.records import NewRun, RunFilter
from durably.store.sqlite.store import SQLiteStore, file


async def opened(path, **options) -> SQLiteStore:
    store = SQLiteStore(path, Runtime(), **options)
    await store.open()
    await store.migrate()
    return store


def run(n: int) -> NewRun:
    return NewRun(f"{n:036d}", "job", "1", "{}", None, None)


async def test_the_file_is_its_owners_alone(tmp_path):
    old = os.umask(0)
    try:
        store = await opened(tmp_path / "a.db")
        await store.enqueue([run(1)], 1)
        modes = [
            stat.S_IMODE((tmp_path / name).stat().st_mode)
            for name in ("a.db", "a.db-wal", "a.db-shm")
        ]
        folder = stat.S_IMODE((tmp_path / "a.db-durably").stat().st_mode)
        await store.close()
    finally:
        os.umask(old)
    assert modes == [0o600] * 3
    assert folder == 0o700


async def test_every_commit_is_synced_unless_told_otherwise(tmp_path):
    for durability, level in (("full", 2), ("process", 1)):
        store = await opened(tmp_path / f"{durability}.db", durability=durability)
        assert store._connection.execute("pragma synchronous").fetchone() == (level,)
        assert store._connection.execute("pragma journal_mode").fetchone() == ("wal",)
        await store.close()


async def test_one_process_checkpoints(tmp_path):
    one, two = await opened(tmp_path / "a.db"), await opened(tmp_path / "a.db")
    pages = [s._connection.execute("pragma wal_autocheckpoint").fetchone()[0] for s in (one, two)]
    assert pages == [4000, 0]
    assert (one._writer.checkpoints, two._writer.checkpoints) == (True, False)
    assert one._reader.execute("pragma wal_autocheckpoint").fetchone() == (0,)
    await one.close()
    await two.look_after()
    assert two._writer.checkpoints
    await two.close()


async def test_the_log_stays_small(tmp_path):
    store = await opened(tmp_path / "a.db")
    for i in range(60):
        await store.enqueue([run(i * 100 + k) for k in range(50)], 1)
    await store.close()
    store = await opened(tmp_path / "a.db")
    for i in range(1000):
        await store.enqueue([run(100_000 + i)], 1)
    assert (tmp_path / "a.db-wal").stat().st_size < 32_000_000
    await store.close()


def test_d10_an_old_sqlite_is_refused():
    with pytest.raises(ConfigurationError, match=r"SQLite 3\.34\.1 is too old.*3\.35\.0"):
        file.check_sqlite((3, 34, 1))
    file.check_sqlite((3, 35, 0))
    assert file.has_checkpoint_race((3, 40, 1))
    assert not file.has_checkpoint_race((3, 51, 3))


@pytest.mark.parametrize("name", ["", "x", "x/y/z"])
async def test_a_directory_that_is_not_there(tmp_path, name):
    with pytest.raises((ConfigurationError, StorageError), match=r"does not exist|is a directory"):
        await opened(tmp_path / "missing" / name if name else tmp_path)


async def test_d12_a_file_that_is_no_database(tmp_path):
    path = tmp_path / "a.db"
    path.write_text("this is no database at all, but it is long enough to be looked at\n" * 100)
    before = path.read_bytes()
    with pytest.raises(StorageError, match=r"a.db is not a usable SQLite database"):
        await opened(path)
    assert path.read_bytes() == before


def _as_nobody(path: Path, code: str) -> str:
    """Run code as a user without root's rights, on the given directory."""
    os.chmod(path.parent, 0o755)
    for parent in path.parents:
        if parent.stat().st_uid == os.getuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o011)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=env,
        timeout=60,
        check=False,
    )
    return done.stdout + done.stderr


OPEN = """
import asyncio
import os
from durably import Durably
d = Durably({path!r})
os.setuid(65534)
async def main():
    try:
        await d.init()
    except Exception as error:
        print(type(error).__name__, error)
asyncio.run(main())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
@pytest.mark.parametrize("readonly", ["file", "directory"])
async def test_d13_what_cannot_be_written_is_an_error_at_the_door(tmp_path, readonly):
    path = tmp_path / "a.db"
    store = await opened(path)
    await store.close()
    path.chmod(0o644 if readonly == "file" else 0o666)
    said = _as_nobody(path, OPEN.format(path=str(path)))
    assert "StorageUnavailableError" in said
    assert "cannot be written" in said


@pytest.mark.parametrize(
    ("kind", "refused"),
    [("nfs4", True), ("cifs", True), ("9p", True), ("ext4", False), ("tmpfs", False)],
)
def test_d14_a_network_file_system_is_refused(tmp_path, kind, refused):
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/vda rw\n"
        f"22 21 0:5 / {tmp_path} rw shared:2 - {kind} server:/export rw\n"
        f"23 21 0:6 / {tmp_path}x rw shared:3 - nfs server:/other rw\n"
    )
    path = tmp_path / "a.db"
    assert file.file_system_of(path, str(mounts)) == kind
    if refused:
        with pytest.raises(ConfigurationError, match=f"network file system \\({kind}\\)"):
            file.check_file_system(path, str(mounts))
    else:
        file.check_file_system(path, str(mounts))


async def test_d15_a_fork_is_told_to_open_its_own(tmp_path):
    store = await opened(tmp_path / "a.db")
    store._file._pid = -1  # as a child would find it
    with pytest.raises(ForkedError, match="open this one after the fork"):
        await store.enqueue([run(1)], 1)
    with pytest.raises(ForkedError):
        await store.run("x")
    store._file._pid = os.getpid()
    await store.close()


def test_d15_a_real_fork(tmp_path):
    code = f"""
import asyncio, os
from durably import Durably, Step
durably = Durably({str(tmp_path / "a.db")!r})
@durably.job("j")
async def j(step: Step) -> int:
    return 1
async def main():
    await durably.init()
    done = await j.trigger_and_wait()
    pid = os.fork()
    if pid == 0:
        try:
            asyncio._set_running_loop(None)
            asyncio.new_event_loop().run_until_complete(durably.get_run(done.id))
        except Exception as error:
            os.write(1, type(error).__name__.encode())
        os._exit(0)
    os.waitpid(pid, 0)
    assert (await durably.get_run(done.id)).output == 1
    await durably.stop()
asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "ForkedError", done.stderr


@pytest.mark.parametrize("how", ["deleted", "replaced"])
async def test_d16_a_file_that_is_not_ours_any_more(tmp_path, how):
    path = tmp_path / "a.db"
    store = await opened(path)
    os.rename(path, tmp_path / "moved.db")
    if how == "replaced":
        path.write_bytes(b"")
    with pytest.raises(DatabaseReplacedError, match=r"a\.db was deleted or replaced"):
        await store.look_after()
    await store.close()


async def test_d16_a_worker_stops_when_its_file_is_gone(tmp_path, caplog):
    durably = Durably(tmp_path / "a.db", polling_interval=0.02)
    await durably.init()
    os.rename(tmp_path / "a.db", tmp_path / "b.db")
    async with asyncio.timeout(10):
        while "this worker stops" not in caplog.text:
            await asyncio.sleep(0.02)
    await durably.stop(0)


async def test_d17_a_backup_made_while_runs_go_on_can_be_continued(tmp_path):
    store = await opened(tmp_path / "a.db")
    await store.enqueue([run(1), run(2)], 1)
    (held,) = (await store.claim(["job"], "me", 10, 30_000, 1, takeover=True)).taken
    with sqlite3.connect(tmp_path / "a.db") as source:
        source.execute("vacuum into ?", (str(tmp_path / "copy.db"),))
    source.close()
    await store.close()
    copy = await opened(tmp_path / "copy.db")
    claims = await copy.claim(["job"], "you", 100_000, 30_000, 5, takeover=True)
    assert sorted(claimed.row.id for claimed in claims.taken) == [run(1).id, run(2).id]
    assert held.row.id == run(1).id
    await copy.close()


async def test_d18_a_newer_schema_is_left_alone(tmp_path):
    store = await opened(tmp_path / "a.db")
    await store.close()
    with sqlite3.connect(tmp_path / "a.db") as newer:
        newer.execute("insert into durably_version values (999)")
    newer.close()
    durably = Durably(tmp_path / "a.db")
    with pytest.raises(SchemaError, match="newer Durably \\(schema 999"):
        await durably.init()
    with pytest.raises(SchemaError, match="newer Durably"):
        await durably.start()
    await durably.stop()


async def test_a_missing_schema_says_what_to_do(tmp_path):
    durably = Durably(tmp_path / "a.db")
    with pytest.raises(SchemaError, match="durably migrate"):
        await durably.start()
    await durably.stop()


async def test_many_connections_may_open_a_fresh_file_at_once(tmp_path):
    stores = [SQLiteStore(tmp_path / "a.db", Runtime()) for _ in range(10)]
    await asyncio.gather(*(store.open() for store in stores))
    await asyncio.gather(*(store.migrate() for store in stores))
    for store in stores:
        await store.close()


async def test_writers_take_turns_and_nobody_sees_a_lock(tmp_path):
    stores = [await opened(tmp_path / "a.db") for _ in range(6)]

    async def write(store, base):
        for i in range(40):
            await store.enqueue([run(base + i)], 1)

    await asyncio.gather(*(write(store, n * 1000) for n, store in enumerate(stores)))
    assert len(await stores[0].runs(RunFilter(limit=1000))) == 240
    for store in stores:
        await store.close()


async def test_a_caller_outside_a_run_does_not_wait_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr("durably.store.sqlite.store.PATIENCE", 0.2)
    store = await opened(tmp_path / "a.db")
    other = sqlite3.connect(tmp_path / "a.db", isolation_level=None)
    other.execute("begin immediate")
    with pytest.raises(StorageUnavailableError, match="cannot be written"):
        await store.enqueue([run(1)], 1)
    other.execute("rollback")
    other.close()
    await store.enqueue([run(1)], 1)
    await store.close()


async def test_a_closed_store_says_so(tmp_path):
    store = await opened(tmp_path / "a.db")
    await store.close()
    await store.close()
    with pytest.raises(ClosedError, match="init\\(\\)"):
        await store.enqueue([run(1)], 1)
    with pytest.raises(ClosedError):
        await store.run("x")


async def test_what_waits_is_written_before_the_close(tmp_path):
    store = await opened(tmp_path / "a.db")
    waiting = [asyncio.ensure_future(store.enqueue([run(i)], 1)) for i in range(50)]
    await asyncio.sleep(0)
    await store.close()
    assert all(created for ((_, created),) in await asyncio.gather(*waiting))


async def test_a_close_does_not_wait_for_ever_for_its_turn(tmp_path, monkeypatch):
    monkeypatch.setattr("durably.store.sqlite.writer._LAST_PATIENCE", 0.2)
    store = await opened(tmp_path / "a.db")
    other = sqlite3.connect(tmp_path / "a.db", isolation_level=None)
    other.execute("begin immediate")
    waiting = asyncio.ensure_future(store.enqueue([run(1)], 1))
    await asyncio.sleep(0.05)
    async with asyncio.timeout(10):
        await store.close()
    with pytest.raises(ClosedError, match="was closed"):
        await waiting
    other.execute("rollback")
    other.close()
