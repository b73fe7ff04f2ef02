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

from .runtime import Runtime

_DUE, _JOURNAL = b"d", b"j"
_PAUSE = 0.01  # seconds between two rings that only watchers want to hear
_OLD = 3600.0  # seconds after which nobody asks any more whether a bell's process is dead
_MAX_PATH = 100  # a socket's path may have 104 bytes on some platforms, 108 on others


class Presence(Enum):
    """Whether a bell's process lives."""

    ALIVE, DEAD, UNKNOWN = range(3)


def presence(bell: Path) -> Presence:
    """Whether the process of a bell lives, asked without a bell of one's own. Leaves all as it is."""
    if not hasattr(socket, "AF_UNIX"):
        return Presence.UNKNOWN
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as ringer:
        try:
            ringer.connect(_reachable(bell))
        except ConnectionRefusedError:
            return Presence.DEAD
        except OSError:
            return Presence.UNKNOWN
    return Presence.ALIVE


def _reachable(bell: Path) -> str:
    """The path as a socket's name, which must be short."""
    path = str(bell)
    if len(os.fsencode(path)) < _MAX_PATH:
        return path
    relative = os.path.relpath(path)
    return relative if len(relative) < len(path) else path


class Bell:
    """This process's bell, and the way to ring the others'."""

    def __init__(self, directory: Path, name: str, runtime: Runtime) -> None:
        self.name = name
        self._runtime = runtime
        self._rung_at = float("-inf")
        self._directory = directory
        self._socket: socket.socket | None = None
        self._others: list[str] = []
        self._listed_at = -1
        self._pid = os.getpid()

    def hang(self, heard: Callable[[bool], None]) -> bool:
        """Listen on the running loop: ``heard(True)`` when a run may be due. False: not possible."""
        if not hasattr(socket, "AF_UNIX"):
            return False
        path = self._path(self.name)
        bell = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        bell.setblocking(False)
        try:
            bell.bind(path)
            asyncio.get_running_loop().add_reader(bell, self._listen, bell, heard)
        except (OSError, NotImplementedError):
            bell.close()
            return False
        self._socket = bell
        self._sweep()
        return True

    def take_down(self) -> None:
        """Stop listening."""
        if self._socket is not None and os.getpid() == self._pid:
            with suppress(RuntimeError, NotImplementedError):
                asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None
            with suppress(OSError):
                (self._directory / self.name).unlink()

    def ring(self, due: bool) -> None:
        """Tell the others of a commit; from any thread. Never waits, never fails."""
        now = self._runtime.monotonic()
        if self._socket is None or (not due and now - self._rung_at < _PAUSE):
            return  # watchers look by themselves a little later
        self._rung_at = now
        with suppress(OSError):
            changed = os.stat(self._directory).st_mtime_ns  # noqa: PTH116 - half of the time
            if changed != self._listed_at:
                names = os.listdir(self._directory)  # noqa: PTH208
                self._others = [n for n in names if n.endswith(".bell") and n != self.name]
                self._listed_at = changed
        for other in self._others.copy():
            try:
                self._socket.sendto(_DUE if due else _JOURNAL, self._path(other))
            except ConnectionRefusedError:
                self._others.remove(other)
            except OSError:
                continue

    def is_dead(self, owner: str) -> bool:
        """True when the owner's process provably is no more; False when that cannot be told."""
        if self._socket is None or not owner.endswith(".bell") or owner == self.name:
            return False
        try:
            self._socket.sendto(_JOURNAL, self._path(owner))
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
        return False

    def _sweep(self) -> None:
        """Remove the bells of the long dead; those of the others prove that their leases are void."""
        for bell in self._directory.glob("*.bell"):
            with suppress(OSError):
                age = self._runtime.now() / 1000 - bell.stat().st_mtime
                if age > _OLD and self.is_dead(bell.name):
                    bell.unlink()

    def _listen(self, bell: socket.socket, heard: Callable[[bool], None]) -> None:
        rung = b""
        with suppress(BlockingIOError, OSError):
            for _ in range(1000):
                rung += bell.recv(8)
        if rung:
            heard(_DUE in rung)

    def _path(self, name: str) -> str:
        return _reachable(self._directory / name)
