"""The doorbell: processes on one database tell each other at once that something was committed.

Each process binds a datagram socket in the directory beside the database; after a commit a process
sends one byte to each of the others. A socket that refuses proves that its process is dead, so its
leases need not run out. Where the platform has no such sockets, polling is all there is.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from contextlib import closing, suppress
from enum import Enum
from pathlib import Path

from ...forks import close_in_children
from ...runtime import Runtime
from ...telemetry.logs import logger
from ..base import Notice
from .file import share

_BYTES = {Notice.JOURNAL: b"j", Notice.DUE: b"d", Notice.CANCEL: b"c"}
_PAUSE = 0.01  # seconds between two rings that only watchers want to hear
_OLD = 3600.0  # seconds after which nobody asks any more whether a bell's process is dead
_MAX_PATH = 100  # a socket's path may have 104 bytes on some platforms, 108 on others
_DESCRIPTORS = Path("/proc/self/fd")  # by which a directory with a long path has a short one


class Presence(Enum):
    """Whether a bell's process lives."""

    ALIVE, DEAD, UNKNOWN = range(3)


def presence(bell: Path) -> Presence:
    """Whether the process of a bell lives, without a bell of its own. Changes nothing."""
    if not hasattr(socket, "AF_UNIX"):
        return Presence.UNKNOWN
    directory = _Directory(bell.parent)
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as ringer, closing(directory):
        try:
            ringer.connect(directory.name_of(bell.name))
        except ConnectionRefusedError:
            return Presence.DEAD
        except OSError:
            return Presence.UNKNOWN
    return Presence.ALIVE


class _Directory:
    """Names the sockets in a directory, however long its path is: a socket's must be short."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None
        is_long = len(os.fsencode(path)) + len("/4194304-0123456789ab.bell") >= _MAX_PATH
        if is_long and _DESCRIPTORS.is_dir():
            with suppress(OSError):  # it is not there
                self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def name_of(self, bell: str) -> str:
        if self._descriptor is not None:
            return f"{_DESCRIPTORS}/{self._descriptor}/{bell}"
        path = str(self._path / bell)
        if len(os.fsencode(path)) < _MAX_PATH:
            return path
        relative = os.path.relpath(path)
        return relative if len(relative) < len(path) else path

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class Bell:
    """This process's bell, and the way to ring the others'."""

    def __init__(self, directory: Path, name: str, runtime: Runtime) -> None:
        self.name = name
        self._runtime = runtime
        self._rung_at = float("-inf")
        self._path_of_directory = directory
        self._directory: _Directory | None = None
        self._socket: socket.socket | None = None
        self._identity: tuple[int, int] | None = None
        self._on_notify: Callable[[Notice], None] = lambda _: None
        self._lost: str | None = None
        self._others: list[str] = []
        self._listed_at = -1
        self._pid = os.getpid()
        close_in_children(self)

    def hang(self, on_notify: Callable[[Notice], None]) -> bool:
        """Listen on the running loop. False: not possible."""
        self._on_notify = on_notify
        if not self._bind():
            return False
        self._sweep()
        return True

    def look_after(self) -> None:
        """Hang the bell again if somebody has removed it: nobody could ring it any more."""
        if self._socket is None or self._identity != self._identify():
            self.take_down()
            self._bind()

    def _bind(self) -> bool:
        if not hasattr(socket, "AF_UNIX"):
            return False
        self._directory = _Directory(self._path_of_directory)
        bell = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        bell.setblocking(False)
        try:
            bell.bind(self._path(self.name))
            asyncio.get_running_loop().add_reader(bell, self._listen, bell, self._on_notify)
        except (OSError, NotImplementedError) as error:
            bell.close()
            self._directory.close()
            self._note_loss(str(error) or type(error).__name__)
            return False
        share(self._path_of_directory / self.name, self._path_of_directory)
        self._socket, self._identity, self._lost = bell, self._identify(), None
        return True

    def _identify(self) -> tuple[int, int] | None:
        with suppress(OSError):
            found = (self._path_of_directory / self.name).stat()
            return found.st_dev, found.st_ino
        return None

    def _note_loss(self, why: str) -> None:
        if why != self._lost:
            self._lost = why
            logger.warning(
                "other processes cannot wake this one through %s (%s); it polls",
                self._path_of_directory, why,
            )  # fmt: skip

    def take_down(self) -> None:
        """Stop listening."""
        if self._socket is not None and os.getpid() == self._pid:
            with suppress(RuntimeError, NotImplementedError):
                asyncio.get_running_loop().remove_reader(self._socket)
            self.close_in_child()
            with suppress(OSError):
                (self._path_of_directory / self.name).unlink()

    def close_in_child(self) -> None:
        """Close the descriptors only: a bell that a child holds would answer for its dead parent."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._directory is not None:
            self._directory.close()

    def ring(self, notice: Notice) -> None:
        """Notify the others of a commit; from any thread. Never waits, never fails."""
        now = self._runtime.monotonic()
        if self._socket is None or (notice is Notice.JOURNAL and now - self._rung_at < _PAUSE):
            return  # watchers look by themselves a little later
        self._rung_at = now
        with suppress(OSError):
            changed = os.stat(self._path_of_directory).st_mtime_ns  # noqa: PTH116 - half of the time
            if changed != self._listed_at:
                names = os.listdir(self._path_of_directory)  # noqa: PTH208
                self._others = [n for n in names if n.endswith(".bell") and n != self.name]
                self._listed_at = changed
        for other in self._others.copy():
            try:
                self._socket.sendto(_BYTES[notice], self._path(other))
            except ConnectionRefusedError:
                self._others.remove(other)
            except OSError:
                continue

    def is_dead(self, owner: str) -> bool:
        """True when the owner's process provably is no more; False when that is unknown."""
        if self._socket is None or not owner.endswith(".bell") or owner == self.name:
            return False
        try:
            self._socket.sendto(_BYTES[Notice.JOURNAL], self._path(owner))
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
        return False

    def _sweep(self) -> None:
        """Remove the bells of the long dead; those of the others prove that their leases are void."""
        for bell in self._path_of_directory.glob("*.bell"):
            with suppress(OSError):
                age = self._runtime.now() / 1000 - bell.stat().st_mtime
                if age > _OLD and self.is_dead(bell.name):
                    bell.unlink()

    def _listen(self, bell: socket.socket, on_notify: Callable[[Notice], None]) -> None:
        rung = b""
        with suppress(BlockingIOError, OSError):
            for _ in range(1000):
                rung += bell.recv(8)
        if rung:
            on_notify(
                max(
                    (notice for notice, byte in _BYTES.items() if byte in rung),
                    default=Notice.JOURNAL,
                )
            )

    def _path(self, name: str) -> str:
        assert self._directory is not None
        return self._directory.name_of(name)
