"""Programs in milliseconds: one process has imported everything, and forks a child for each that is started.

A program of Python spends half a second of CPU time on imports, and the tests start thousands. The server opens
no database and starts no thread, so that a child is what a program is that was just loaded: it has its arguments,
directory, environment and streams. What depends on the start of the interpreter itself is tested with a real one.
The server ends with the process that started it, and its children with it.
"""

from __future__ import annotations

import atexit
import functools
import importlib
import json
import os
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LOADED = (
    "durably.cli",
    "durably.client",
    "durably.http.asgi",
    "asyncpg",
    "fastapi",
    "rich.live",
    "tests.crash.child",
    "uvicorn.main",
)
"""What the server has imported: all that the programs of the tests need."""
_NUMBER = struct.Struct("i")
_INHERITED = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)  # if they are ignored
_STREAMS = 3  # stdin, stdout, stderr


# -- the side of the tests


class Forked:
    """A child of the server; the part of ``subprocess.Popen`` that the tests need."""

    def __init__(self, pid: int, status: int, name: str) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._status, self._name = status, name
        self._lock = threading.Lock()

    def poll(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        with self._lock:
            if self.returncode is None and _is_readable(self._status, 0):
                data = os.read(self._status, _NUMBER.size)
                os.close(self._status)
                if len(data) != _NUMBER.size:
                    raise RuntimeError("the server that forks programs has ended")
                (self.returncode,) = _NUMBER.unpack(data)
            return self.returncode

    def wait(self, timeout: float = 60.0) -> int:
        """Its exit code, once it has ended."""
        end = time.monotonic() + timeout
        while (code := self.poll()) is None:
            left = end - time.monotonic()
            if left <= 0:
                raise subprocess.TimeoutExpired(self._name, timeout)
            with suppress(OSError, ValueError):  # another thread has just read it
                _is_readable(self._status, left)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """Send SIGKILL, unless it has ended."""
        self.send_signal(signal.SIGKILL)


def _is_readable(descriptor: int, timeout: float) -> bool:
    """Within ``timeout`` seconds; ``select`` knows no descriptors above 1,023."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(timeout * 1000))


class _Server:
    """The server of this process."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        self._lock = threading.Lock()
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.forked", str(theirs.fileno())],
                cwd=ROOT, env={**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()],
            )  # fmt: skip
        atexit.register(self.close)

    def fork(self, order: dict[str, Any], streams: Sequence[int]) -> Forked:
        data = json.dumps(order).encode()
        read, write = os.pipe()
        try:
            with self._lock:
                socket.send_fds(self._socket, [_NUMBER.pack(len(data))], [*streams, write])
                self._socket.sendall(data)
                answer = self._socket.recv(_NUMBER.size)
        finally:
            os.close(write)
        if len(answer) != _NUMBER.size:
            raise RuntimeError(f"the server that forks programs has ended: {self._process.poll()}")
        return Forked(*_NUMBER.unpack(answer), read, order["module"])

    def close(self) -> None:
        """End the server, and every child that is left."""
        self._socket.close()
        self._process.wait()


_the_server = functools.cache(_Server)


def start(
    module: str, *words: str, cwd: Path, env: Mapping[str, str] | None = None, stdin: int | None = None,
    stdout: int, stderr: int, warn: str = "",
) -> Forked:  # fmt: skip
    """``python -W warn -m module words``, with these descriptors as its streams."""
    order = {
        "module": module,
        "words": words,
        "cwd": str(cwd),
        "env": dict(os.environ if env is None else env),
        "warnings": warn,
        "ignored": [n for n in _INHERITED if signal.getsignal(n) == signal.SIG_IGN],
    }
    with open(os.devnull) as nothing:
        given = nothing.fileno() if stdin is None else stdin
        return _the_server().fork(order, (given, stdout, stderr))


# -- the side of the server


def serve(control: socket.socket) -> dict[str, Any] | None:
    """Fork a child for each order. The order, in the child; None at the end."""
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake)
    children: dict[int, int] = {}
    while True:
        ready, _, _ = select.select([control, woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
            _reap(children)
        if control not in ready:
            continue
        size, descriptors, _, _ = socket.recv_fds(control, _NUMBER.size, _STREAMS + 1)
        if not size:
            return _end(children)
        order = json.loads(_receive(control, _NUMBER.unpack(size)[0]))
        signal.pthread_sigmask(
            signal.SIG_BLOCK, _INHERITED
        )  # until the child ignores what it is to
        pid = os.fork()
        if pid == 0:
            for number in order["ignored"]:
                signal.signal(number, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _INHERITED)
            _become_child(descriptors, [control.detach(), woken, wake, *children.values()])
            return order
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _INHERITED)
        children[pid] = descriptors[_STREAMS]
        for descriptor in descriptors[:_STREAMS]:
            os.close(descriptor)
        control.sendall(_NUMBER.pack(pid))


def _receive(control: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += control.recv(size - len(data))
    return data


def _reap(children: dict[int, int]) -> None:
    """Report each child that has ended."""
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        descriptor = children.pop(pid)
        with suppress(BrokenPipeError):  # nobody asks for it any more
            os.write(descriptor, _NUMBER.pack(os.waitstatus_to_exitcode(status)))
        os.close(descriptor)


def _end(children: dict[int, int]) -> None:
    for pid in children:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _become_child(descriptors: list[int], inherited: list[int]) -> None:
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for target, descriptor in enumerate(descriptors[:_STREAMS]):
        os.dup2(descriptor, target)
    for descriptor in {*descriptors, *inherited}:
        os.close(descriptor)


def _run(order: dict[str, Any]) -> None:
    """What ``python -m`` does, but for the start of the interpreter."""
    if order["warnings"]:
        warnings.simplefilter(order["warnings"])
    os.chdir(order["cwd"])
    os.environ.clear()
    os.environ.update(order["env"])
    sys.path[0] = order["cwd"]
    sys.argv[1:] = order["words"]
    if not hasattr(sys.modules.get(order["module"]), "__path__"):
        sys.modules.pop(order["module"], None)  # imported ahead: now it is the program
    runpy.run_module(order["module"], run_name="__main__", alter_sys=True)


def _main() -> None:
    for module in LOADED:
        importlib.import_module(module)
    if order := serve(socket.socket(fileno=int(sys.argv[1]))):
        _run(order)


if __name__ == "__main__":
    _main()
