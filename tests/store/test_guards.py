"""What may lie under, beside and around a database file."""

import os
import subprocess
import sys

import pytest

from durably.errors import ConfigurationError, StorageUnavailableError
from durably.runtime import Runtime
from durably.store.sqlite.store import SQLiteStore, file
from durably.store.url import absolute, path_of, without_password

from .test_sqlite import OPEN, _as_nobody, opened, run

root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root to become another user"
)


async def test_a_path_means_what_it_meant_when_it_was_given(tmp_path, monkeypatch):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    monkeypatch.chdir(tmp_path / "one")
    store = SQLiteStore("jobs.db", Runtime())
    monkeypatch.chdir(tmp_path / "two")
    await store.open()
    monkeypatch.chdir(tmp_path)
    await store.look_after()
    await store.migrate()
    assert store.companion == tmp_path / "one" / "jobs.db-durably"
    await store.close()
    assert list((tmp_path / "two").iterdir()) == []


async def test_a_file_found_through_links_is_one_database(tmp_path):
    (tmp_path / "data").mkdir()
    real = tmp_path / "data" / "jobs.db"
    (tmp_path / "link.db").symlink_to(real)
    (tmp_path / "folder").symlink_to(tmp_path / "data")
    names = [real, tmp_path / "link.db", tmp_path / "folder" / "jobs.db"]
    stores = [await opened(name) for name in names]
    assert {store.companion for store in stores} == {tmp_path / "data" / "jobs.db-durably"}
    assert [store._writer.checkpoints for store in stores] == [True, False, False]
    for store in stores:
        await store.close()


async def test_a_link_that_leads_to_itself_is_refused(tmp_path):
    (tmp_path / "a.db").symlink_to(tmp_path / "a.db")
    with pytest.raises((ConfigurationError, StorageUnavailableError), match=r"a\.db"):
        await opened(tmp_path / "a.db")


async def test_a_file_with_two_names_is_refused_under_each(tmp_path):
    store = await opened(tmp_path / "a.db")
    os.link(tmp_path / "a.db", tmp_path / "b.db")
    for name in ("a.db", "b.db"):
        for read_only in (False, True):
            with pytest.raises(ConfigurationError, match=r"2 names .* remove the other names"):
                await SQLiteStore(tmp_path / name, Runtime(), read_only=read_only).open()
    with pytest.raises(ConfigurationError, match="2 names"):
        file.connect_to_look(tmp_path / "b.db")
    assert not list(tmp_path.glob("b.db-*")), "SQLite would look for its log there"
    os.unlink(tmp_path / "b.db")
    await store.close()
    await (await opened(tmp_path / "a.db")).close()


@pytest.mark.parametrize("name", ["jobs.db", "my jobs.db", "tab\tand\\back.db"])
def test_a_file_that_is_mounted_by_itself_is_refused(tmp_path, name):
    path = tmp_path / name
    path.touch()
    escaped = str(path).replace("\\", "\\134").replace(" ", "\\040").replace("\t", "\\011")
    mounts = tmp_path / "mountinfo"
    head = "21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/vda rw\n"
    mounts.write_text(f"{head}22 21 8:1 /home/x {tmp_path} rw - xfs /dev/vdb rw\n")
    file.check_single_name(path, str(mounts))
    mounts.write_text(f"{head}22 21 8:1 /home/x/j.db {escaped} rw - ext4 /dev/vda rw\n")
    with pytest.raises(ConfigurationError, match="mount the directory"):
        file.check_single_name(path, str(mounts))
    mounts.write_text(f"{head}22 21 0:9 / {escaped} rw - nfs4 server:/x rw\n")
    assert file.file_system_of(path, str(mounts)) == "nfs4"


@pytest.mark.parametrize(
    ("kind", "refused"),
    [("fuse.sshfs", True), ("fuse.something-new", True), ("fuse", True), ("virtiofs", True),
     ("lustre", True), ("ocfs2", True), ("vboxsf", True), ("smb3", True), ("fuseblk", False),
     ("fuse.fuse-overlayfs", False), ("fuse.ntfs-3g", False), ("overlay", False), ("btrfs", False),
     ("zfs", False), ("xfs", False)],
)  # fmt: skip
def test_file_systems_that_other_machines_may_see(kind, refused):
    assert file.is_network(kind) is refused


def test_opening_a_file_takes_no_lock_away_from_who_has_it_open(tmp_path):
    """POSIX: a process that closes a file by any descriptor loses all its locks on it."""
    code = f"""
import asyncio, sqlite3, sys
sys.path[:0] = {sys.path!r}
from tests.store.test_sqlite import opened, run
async def main():
    one = await opened({str(tmp_path / "a.db")!r})
    two = await opened({str(tmp_path / "a.db")!r})
    await two.close()
    await one.enqueue([run(1)], 1)
    print("ready", flush=True)
    sys.stdin.readline()
    await one.enqueue([run(2)], 1)
    await one.close()
asyncio.run(main())
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "ready\n"
        # The last connection to close would take the log away; here is not the last one.
        look = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('select count(*) from durably_runs').fetchone(); c.close()"
        subprocess.run([sys.executable, "-c", look, tmp_path / "a.db"], check=True)
        assert (tmp_path / "a.db-wal").exists()
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.wait(30) == 0


@pytest.mark.parametrize("what", ["the directory", "the lock"])
async def test_what_vanishes_beside_the_file_is_made_again_and_elects_one(tmp_path, what):
    one, two = await opened(tmp_path / "a.db"), await opened(tmp_path / "a.db")
    companion = tmp_path / "a.db-durably"
    (companion / "checkpointer").unlink()
    if what == "the directory":
        companion.rmdir()
    three = await opened(tmp_path / "a.db")
    for store in (one, two, three):
        await store.look_after()
    assert [s._writer.checkpoints for s in (one, two, three)].count(True) == 1
    assert three._writer.checkpoints, "whose lock everybody finds"
    for store in (one, two, three):
        await store.close()


async def test_a_file_in_the_place_of_the_directory_says_what_to_do(tmp_path):
    (tmp_path / "a.db-durably").touch()
    with pytest.raises(StorageUnavailableError, match="remove what is in its place"):
        await opened(tmp_path / "a.db")


@root
async def test_what_root_makes_beside_another_users_file_is_that_users(tmp_path):
    path = tmp_path / "a.db"
    await (await opened(path)).close()
    for item in (tmp_path / "a.db-durably" / "checkpointer", tmp_path / "a.db-durably"):
        item.unlink() if item.is_file() else item.rmdir()
    os.chown(path, 60123, 60124)
    store = await opened(path)
    for made in (tmp_path / "a.db-durably", tmp_path / "a.db-durably" / "checkpointer"):
        assert (made.stat().st_uid, made.stat().st_gid) == (60123, 60124)
    await store.close()


@root
async def test_a_directory_of_another_user_is_refused_with_a_way_out(tmp_path):
    path = tmp_path / "a.db"
    await (await opened(path)).close()
    for place in (tmp_path, path):
        os.chown(place, 65534, 65534)
    said = _as_nobody(path, OPEN.format(path=str(path)))
    assert said.startswith("StorageUnavailableError")
    assert "chown -R --reference" in said


async def test_a_log_that_the_elected_one_leaves_alone_is_written_back(tmp_path, monkeypatch):
    monkeypatch.setattr("durably.store.sqlite.store._LONG_LOG", 1_000)
    monkeypatch.setattr("durably.store.sqlite.store._UNTENDED", 0.0)
    one, two = await opened(tmp_path / "a.db"), await opened(tmp_path / "a.db")
    one._writer.checkpoints = False  # as one that hangs: it holds the lock and does nothing
    one._connection.execute("pragma wal_autocheckpoint = 0")
    before = (tmp_path / "a.db").stat().st_size
    await two.enqueue([run(i)._replace(input='"' + "x" * 5000 + '"') for i in range(100)], 1)
    for _ in range(3):
        two._mend_log()
    await two.close()
    assert (tmp_path / "a.db").stat().st_size > before + 400_000
    await one.close()


@pytest.mark.parametrize("where", ["a read-only directory", "a live database"])
async def test_looking_makes_no_companion_and_writes_nothing(tmp_path, where):
    store = await opened(tmp_path / "a.db")
    await store.enqueue([run(1)], 1)
    if where == "a read-only directory":
        await store.close()
        for item in (tmp_path / "a.db-durably").iterdir():
            item.unlink()
        (tmp_path / "a.db-durably").rmdir()
    before = _beside(tmp_path)
    looking = SQLiteStore(tmp_path / "a.db", Runtime(), read_only=True)
    await looking.open()
    await looking.require_schema()
    assert (await looking.run(run(1).id)).status == "pending"
    with pytest.raises(StorageUnavailableError, match="look at it only"):
        await looking.enqueue([run(2)], 1)
    await looking.close()
    assert _beside(tmp_path) == before
    await store.close()


def _beside(directory):
    """SQLite itself makes its log and its memory, also for those who only read."""
    return sorted(i.name for i in directory.rglob("*") if not i.name.endswith(("-wal", "-shm")))


@root
async def test_a_log_that_cannot_be_read_is_not_left_out(tmp_path):
    """Without its log the file would show an older state, as if nothing had happened since."""
    store = await opened(tmp_path / "a.db")
    await store.enqueue([run(1)], 1)
    for name in ("a.db", "a.db-wal"):
        (tmp_path / f"copy-{name}").write_bytes((tmp_path / name).read_bytes())
        os.chmod(tmp_path / f"copy-{name}", 0o644)
    await store.close()
    code = f"""
import os
from pathlib import Path
from durably.store.sqlite import file
os.setuid(65534)
try:
    file.connect_to_look(Path({str(tmp_path / "copy-a.db")!r}))
except Exception as error:
    print(type(error).__name__, error)
"""
    said = _as_nobody(tmp_path / "copy-a.db", code)
    assert said.startswith("StorageUnavailableError"), said
    assert "there are commits in its log" in said


@pytest.mark.parametrize(
    "name",
    ["jobs.db\n", "jobs.db\r", " jobs.db", "jobs.db ", '"jobs.db"', "'jobs.db'", "a\x00b.db",
     "a\x1b[1m.db", "a\u2028b.db", "", "postgresql+asyncpg://u@h/x", "postgresql:/u@h/x",
     "postgresql//u@h/x", "postgresql:u@h/x", "mysql://u@h/x", "file:jobs.db?mode=ro", "sqlite:jobs.db",
     "host=h dbname=x", "password=x", "//u:p@h/x", "u:p@h/x", "postgresql://u@h/x\n"],
)  # fmt: skip
def test_what_is_no_files_name_is_refused_before_a_file_is_made(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    from durably import Durably

    with pytest.raises(ConfigurationError):
        Durably(name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name",
    ["jobs.db", "a b/c@d.db", "C:/data/jobs.db", "C:\\data\\x@y.db", "postgres/jobs.db", "ü.db"],
)
def test_what_is_a_files_name_is_taken(name):
    assert path_of(name) == name


@pytest.mark.parametrize(
    "name",
    ["postgresql://u:S3#S3@h:1/x", "postgresql://u:S3/S3@h/x", "postgresql://u:/S3@h/x",
     "postgresql://u@server:S3@h/x", "postgresql://h/x?password=S3&S3", "postgresql://h/x?sslpassword=S3",
     "postgresql://h/x?sslkey=S3", "postgresql:/u:S3@h/x", "postgresql//u:S3@h/x", "u:S3@h/x",
     "POSTGRES://u:S3@h/x", "host=h user=u password = 'S3 S3' dbname=x", "redis://:S3@h"],
)  # fmt: skip
def test_no_part_of_a_password_is_shown(name):
    assert "S3" not in without_password(name)


def test_a_servers_scheme_may_be_written_in_any_case(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert absolute("PostgreSQL://u@h/x") == "PostgreSQL://u@h/x"
    assert absolute(":memory:") == ":memory:"
    assert absolute("sqlite:///jobs.db") == str(tmp_path / "jobs.db")


async def test_nothing_is_spilled_into_a_directory_for_temporary_files(tmp_path):
    """It may be read-only, as everything but the database's own directory in a container."""
    store = await opened(tmp_path / "a.db")
    looking = SQLiteStore(tmp_path / "a.db", Runtime(), read_only=True)
    await looking.open()
    for connection in (store._connection, store._reader, looking._reader):
        assert connection.execute("pragma temp_store").fetchone() == (2,)
    await looking.close()
    await store.close()
