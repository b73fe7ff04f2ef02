"""What can be wrong with a database file, found before anything is written to it."""

from __future__ import annotations

import os
import re
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ...errors import (
    ConfigurationError,
    DatabaseReplacedError,
    ForkedError,
    StorageError,
    StorageUnavailableError,
)
from ...forks import close_in_children

if sys.platform != "win32":
    import fcntl


OLDEST_SQLITE = (3, 35, 0)  # RETURNING
# https://www.sqlite.org/wal.html: a race of two checkpointers can corrupt a WAL database
CHECKPOINT_RACE_FIXED = (3, 51, 3)
# Where the memory that the readers of a log share cannot be made.
_CANNOT_SHARE = frozenset({sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY})
MOUNTS = "/proc/self/mountinfo"
# Several machines, or a machine and its guests, see the files: they share no memory for the WAL.
NETWORK_FILE_SYSTEMS = frozenset(
    {"nfs", "nfs3", "nfs4", "cifs", "smb", "smb2", "smb3", "smbfs", "afp", "afpfs", "afs", "coda"}
    | {"ncp", "ncpfs", "davfs", "davfs2", "webdav", "ceph", "glusterfs", "lustre", "gpfs", "beegfs"}
    | {"beegfs_nodev", "ocfs2", "gfs", "gfs2", "orangefs", "pvfs2", "panfs", "acfs", "quobyte"}
    | {"9p", "virtiofs", "vboxsf", "vmhgfs", "prl_fs", "fakeowner", "grpcfuse", "osxfs", "dfs"}
)
# A file system in user space may be anything; these are known to be on this machine.
LOCAL_FUSE = frozenset(
    {
        "ntfs",
        "ntfs-3g",
        "ntfs3",
        "exfat",
        "ext2",
        "fuse2fs",
        "fuse-ext2",
        "zfs-fuse",
        "apfs",
        "bcachefs",
    }
    | {"fuse-overlayfs", "overlayfs", "unionfs", "unionfs-fuse", "mergerfs", "bindfs", "encfs"}
    | {"gocryptfs", "cryfs", "securefs", "ecryptfs", "veracrypt", "lxcfs", "shfs"}
)


def check_sqlite(version: tuple[int, ...] = sqlite3.sqlite_version_info) -> None:
    """Refuse a SQLite that cannot run the statements."""
    if version < OLDEST_SQLITE:
        raise ConfigurationError(
            f"SQLite {_dotted(version)} is too old: Durably needs {_dotted(OLDEST_SQLITE)} or newer"
        )


def has_checkpoint_race(version: tuple[int, ...] = sqlite3.sqlite_version_info) -> bool:
    """True for a SQLite in which two processes must not checkpoint one file."""
    return version < CHECKPOINT_RACE_FIXED


def real_path(path: Path) -> Path:
    """The file itself, whatever links lead to it: SQLite's log and our companion lie beside it."""
    try:
        return path.resolve()
    except (OSError, RuntimeError) as error:  # a link that leads to itself
        raise ConfigurationError(f"{path} cannot be followed to a file: {error}") from None


def companion_of(path: Path) -> Path:
    """The directory beside a database that its processes share."""
    return Path(f"{real_path(path)}-durably")


def check_file_system(path: Path, mounts: str = MOUNTS) -> None:
    """Refuse a network file system: WAL needs memory shared by all processes of one machine."""
    kind = file_system_of(path, mounts)
    if kind is not None and is_network(kind):
        may_be = "what may be a network file system" if "fuse" in kind else "a network file system"
        raise ConfigurationError(
            f"{path} is on {may_be} ({kind}), where SQLite can lose data; put it on a "
            "local disk, use PostgreSQL, or pass allow_network_fs=True if only one process uses it"
        )


def is_network(kind: str) -> bool:
    """Whether other machines may see a file system of this type; of one in user space nobody knows."""
    prefix, _, name = kind.rpartition(".")
    unknown = kind == "fuse" or (prefix == "fuse" and name not in LOCAL_FUSE)
    return unknown or name in NETWORK_FILE_SYSTEMS


def check_single_name(path: Path, mounts: str = MOUNTS) -> None:
    """Refuse a file that has a second name: SQLite's log, and our companion, belong to a name.

    Two processes that use two names of one file see different logs, and lose committed runs.
    """
    if not path.is_file():
        return
    if (links := path.stat().st_nlink) > 1:
        raise ConfigurationError(
            f"{path} is one of {links} names (hard links) of the same file, and SQLite would keep a "
            "log for each, which loses committed runs; remove the other names ('find DIRECTORY "
            f"-samefile {path}' lists them), or copy the file and use the copy"
        )
    if any(point == str(path) for point, _ in _mounted(mounts)):
        raise ConfigurationError(
            f"{path} is mounted as a single file, and SQLite keeps its log beside the file, which "
            "stays outside: committed runs would be lost; mount the directory that holds the file, "
            "not the file"
        )


def file_system_of(path: Path, mounts: str = MOUNTS) -> str | None:
    """The type of the file system that holds ``path``, where the platform tells (Linux)."""
    best, kind = "", None
    target = f"{path.resolve()}/"
    for point, mounted in _mounted(mounts):
        if target.startswith(point.rstrip("/") + "/") and len(point) >= len(best):
            best, kind = point, mounted
    return kind


def _mounted(mounts: str) -> Iterator[tuple[str, str]]:
    """Where something is mounted, and the type of its file system."""
    with suppress(OSError), Path(mounts).open(encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            left, _, right = line.partition(" - ")
            point = re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), left.split(" ")[4])
            yield point, right.split(" ")[0]


def create_private(path: Path) -> None:
    """Create the file for its owner's eyes only, and fail here if it cannot be written.

    A file that exists is not opened: to close it would end every lock that SQLite holds on it in
    this process, and another process could then take the log away from under an open connection.
    """
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError:
        _check_existing(path)
    except FileNotFoundError:
        raise ConfigurationError(f"the directory {path.parent} does not exist") from None
    except OSError as error:
        raise StorageUnavailableError(
            f"{path} cannot be written ({error.strerror}); Durably needs to write the file and "
            "its directory"
        ) from None
    if not os.access(path.parent, os.W_OK):
        raise StorageUnavailableError(
            f"the directory {path.parent} cannot be written; SQLite keeps its log beside the file"
        )


def _check_existing(path: Path) -> None:
    if path.is_dir():
        raise ConfigurationError(f"{path} is a directory, not a database file")
    if not os.access(path, os.R_OK | os.W_OK):
        raise StorageUnavailableError(
            f"{path} cannot be written by this user; Durably needs to read and write the file and its "
            "directory"
        )


def make_companion(directory: Path, database: Path) -> None:
    """Make the directory that the processes on a database share, for all who may use the database."""
    try:
        if not directory.is_dir():
            directory.mkdir(mode=0o700, exist_ok=True)
            share(directory, database)
    except OSError as error:
        raise StorageUnavailableError(
            f"the directory {directory} cannot be made ({error.strerror}); Durably's processes find "
            "each other there. Let this user write to its parent, and remove what is in its place"
        ) from None
    if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
        raise StorageUnavailableError(
            f"the directory {directory} cannot be used by this user (another one made it); run "
            f"'chown -R --reference={database} {directory}', or remove it while nothing uses the "
            "database"
        )


def share(path: Path, model: Path) -> None:
    """Give what we have made the permissions of ``model`` and, as root, its owner, as SQLite does with
    its log: a command that root ran must not lock out the worker."""
    with suppress(OSError):
        status, is_directory = model.stat(), path.is_dir()
        mode = status.st_mode & 0o666
        path.chmod(mode | (mode & 0o444) >> 2 if is_directory else mode)
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            os.chown(path, status.st_uid, status.st_gid, follow_symlinks=False)


class FileGuard:
    """Notices a fork, and a file that was deleted or replaced while it was open."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pid = os.getpid()
        self._is_lost = False
        self._identity = self._identify()

    def check_process(self) -> None:
        if os.getpid() != self._pid:
            raise ForkedError(
                f"this Durably was opened by process {self._pid} and is used in its fork "
                f"{os.getpid()}; make another Durably there, or open this one after the fork"
            )

    def check_file(self) -> None:
        """Once it fails, ``check`` does too: nothing may go to a file that nobody else will read."""
        if self._identify() != self._identity:
            self._is_lost = True
        self.check()

    def check(self) -> None:
        """Costs nothing: for every read and write."""
        self.check_process()
        if self._is_lost:
            raise DatabaseReplacedError(
                f"{self._path} was deleted or replaced while it was open; nothing more is written. "
                "Stop this process, put the file back or start again with the new one"
            )

    def _identify(self) -> tuple[int, int] | None:
        try:
            status = self._path.stat()
        except FileNotFoundError:
            return None
        return status.st_dev, status.st_ino


class Checkpointer:
    """Elects the one process of this machine whose connection writes the log back into the file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None
        close_in_children(self)

    @property
    def elected(self) -> bool:
        return self._descriptor is not None

    def elect(self) -> bool:
        """Whether this process is the one, now. (Without file locks, each is.)

        The lock counts only while others find it: one whose file was removed or replaced is void.
        """
        if sys.platform == "win32" or sys.platform == "emscripten":
            return True
        if self._descriptor is not None and not self._is_found():
            self.resign()
        if self._descriptor is None:
            self._try_lock()
        return self.elected

    def _try_lock(self) -> None:
        try:
            descriptor = os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StorageUnavailableError(
                f"{self._path} cannot be written ({error.strerror}), by which Durably's processes "
                f"elect one to write the log back; remove it, or run 'chown -R "
                f"--reference={self._path.parent} {self._path.parent}'"
            ) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return
        self._descriptor = descriptor
        share(self._path, self._path.parent)
        if not self._is_found():  # removed between the two
            self.resign()

    def _is_found(self) -> bool:
        assert self._descriptor is not None
        try:
            found = self._path.stat()
        except OSError:
            return False
        return os.path.samestat(found, os.fstat(self._descriptor))

    def resign(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def close_in_child(self) -> None:
        """The lock stays the parent's: closing is no unlocking while the parent has it open."""
        self.resign()


def connect_to_look(path: Path, timeout: float = 5.0) -> sqlite3.Connection:
    """A connection that can change nothing, also to a file on a read-only mount."""
    real = real_path(path)
    if real.is_dir():
        raise ConfigurationError(f"{path} is a directory, not a database file")
    check_single_name(real)  # before SQLite makes a log for this name
    uri = f"{real.as_uri()}?mode=ro"
    try:
        return _look(uri, timeout)
    except sqlite3.OperationalError as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF not in _CANNOT_SHARE:
            raise
        log = Path(f"{real}-wal")
        if log.exists() and log.stat().st_size:
            raise StorageUnavailableError(
                f"{path} cannot be read: there are commits in its log {log.name}, and SQLite needs to "
                "write beside the file to read those; copy the file and its log to a directory of "
                "yours, and look at the copy"
            ) from None
    # Nobody writes to it, and there is no log: so nothing is shared.
    return _look(f"{uri}&immutable=1", timeout)


def _look(uri: str, timeout: float) -> sqlite3.Connection:
    connection = sqlite3.connect(
        uri, uri=True, isolation_level=None, check_same_thread=False, timeout=timeout
    )
    try:
        connection.execute("pragma temp_store = memory")
        connection.execute("select count(*) from sqlite_master").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection


def damaged(path: Path, error: sqlite3.Error) -> StorageError:
    """The error for a file that is not a database."""
    return StorageError(f"{path} is not a usable SQLite database: {error}")


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
