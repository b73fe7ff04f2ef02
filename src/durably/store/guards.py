"""What can be wrong with a database file, found before anything is written to it."""

from __future__ import annotations

import logging
import os
import sqlite3
import sys
from contextlib import suppress
from pathlib import Path

from ..errors import (
    ConfigurationError,
    DatabaseReplacedError,
    ForkedError,
    StorageError,
    StorageUnavailableError,
)

if sys.platform != "win32":
    import fcntl

logger = logging.getLogger("durably")

OLDEST_SQLITE = (3, 35, 0)  # RETURNING
# https://www.sqlite.org/wal.html: a race of two checkpointers can corrupt a WAL database
CHECKPOINT_RACE_FIXED = (3, 51, 3)
NETWORK_FILE_SYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb", "smb2", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs"}
    | {"fuse.sshfs", "fuse.glusterfs", "fuse.s3fs", "fuse.rclone", "fuse.ceph", "davfs"}
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


def check_file_system(path: Path, mounts: str = "/proc/self/mountinfo") -> None:
    """Refuse a network file system: WAL needs memory shared by all processes of one machine."""
    kind = file_system_of(path, mounts)
    if kind in NETWORK_FILE_SYSTEMS:
        raise ConfigurationError(
            f"{path} is on a network file system ({kind}), where SQLite can lose data; put it on a "
            "local disk, use PostgreSQL, or pass allow_network_fs=True if only one process uses it"
        )


def file_system_of(path: Path, mounts: str = "/proc/self/mountinfo") -> str | None:
    """The type of the file system that holds ``path``, where the platform tells (Linux)."""
    best, kind = "", None
    with suppress(OSError), Path(mounts).open(encoding="utf-8", errors="replace") as lines:
        target = f"{path.resolve()}/"
        for line in lines:
            left, _, right = line.partition(" - ")
            point = left.split(" ")[4].replace("\\040", " ")
            if target.startswith(point.rstrip("/") + "/") and len(point) >= len(best):
                best, kind = point, right.split(" ")[0]
    return kind


def create_private(path: Path) -> None:
    """Create the file for its owner's eyes only, and fail here if it cannot be written."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    except FileNotFoundError:
        raise ConfigurationError(f"the directory {path.parent} does not exist") from None
    except IsADirectoryError:
        raise ConfigurationError(f"{path} is a directory, not a database file") from None
    except OSError as error:
        raise StorageUnavailableError(
            f"{path} cannot be written ({error.strerror}); Durably needs to write the file and "
            "its directory"
        ) from None
    if not os.access(path.parent, os.W_OK):
        raise StorageUnavailableError(
            f"the directory {path.parent} cannot be written; SQLite keeps its log beside the file"
        )


class FileGuard:
    """Notices a fork, and a file that was deleted or replaced while it was open."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pid = os.getpid()
        self._identity = self._identify()

    def check_process(self) -> None:
        if os.getpid() != self._pid:
            raise ForkedError(
                f"this Durably was opened by process {self._pid} and is used in its fork "
                f"{os.getpid()}; call init() after the fork, in each process"
            )

    def check_file(self) -> None:
        if self._identify() != self._identity:
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

    @property
    def elected(self) -> bool:
        return self._descriptor is not None

    def try_elect(self) -> bool:
        """True when this process has become the one. (Without file locks, each is.)"""
        if sys.platform == "win32" or sys.platform == "emscripten":
            return True
        descriptor = os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        return True

    def resign(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def damaged(path: Path, error: sqlite3.Error) -> StorageError:
    """The error for a file that is not a database."""
    return StorageError(f"{path} is not a usable SQLite database: {error}")


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
