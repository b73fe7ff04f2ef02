"""The Node project of the tests: installed once, by whoever needs it first."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROJECT = Path(__file__).parent
MODULES = PROJECT / "node_modules"

_INSTALL_SECONDS = 300


class Unavailable(Exception):
    """Node, its packages or a Chromium cannot be had on this machine; says why."""


@contextmanager
def locked(name: str) -> Iterator[None]:
    """One process at a time: several test runs may share a tree."""
    with (PROJECT / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def node() -> str:
    """The path of Node."""
    found = shutil.which("node")
    if found is None or shutil.which("npm") is None:
        raise Unavailable("node and npm are not installed (20.11 or newer)")
    return found


def installed() -> Path:
    """``node_modules``, just as package-lock.json says; installs it when it is not there.

    ``npm ci`` begins by removing the folder, so that a stamp inside it is the proof of one that ended.
    """
    node()
    lock = hashlib.sha256((PROJECT / "package-lock.json").read_bytes()).hexdigest()
    stamp = MODULES / ".installed"
    with locked("npm"):
        if not stamp.exists() or stamp.read_text() != lock:
            _install()
            stamp.write_text(lock)
    return MODULES


def _install() -> None:
    try:
        done = subprocess.run(
            ["npm", "ci"],
            cwd=PROJECT,
            env={**os.environ, "NO_UPDATE_NOTIFIER": "1"},
            capture_output=True,
            text=True,
            timeout=_INSTALL_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"npm ci did not end within {_INSTALL_SECONDS} s") from error
    if done.returncode != 0:
        raise Unavailable(f"npm ci failed:\n{done.stderr}")
