"""Programs of Debian: the machine's own, else downloaded and unpacked beside the tests' other downloads.

Nothing is installed and no right of root is needed: ``apt-get`` works on lists of its own in a folder of ours.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

_SECONDS = 300.0  # for a download


class Unavailable(Exception):
    """The program is not there, and cannot be had."""


@dataclass(frozen=True)
class Program:
    """A program, and what it needs in its environment."""

    path: Path
    env: Mapping[str, str] = field(default_factory=dict[str, str])


def program(package: str, pattern: str) -> Program:
    """The newest program of a package; ``pattern`` is its path without the first /, as ``usr/sbin/pgbouncer``."""
    if found := _newest(Path("/"), pattern):
        return Program(found)
    folder = Path(tempfile.gettempdir()) / f"durably-debian-{os.geteuid()}" / package
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        if not (folder / "done").exists():
            _fetch(package, folder)
            (folder / "done").touch()
    found = _newest(folder / "root", pattern)
    if found is None:
        raise Unavailable(f"{package} has no {pattern}")
    libraries = sorted({str(path.parent) for path in (folder / "root").glob("**/*.so.*")})
    return Program(found, {"LD_LIBRARY_PATH": ":".join(libraries)})


def _newest(root: Path, pattern: str) -> Path | None:
    found = sorted(root.glob(pattern), key=lambda path: (len(str(path)), str(path)))
    return found[-1] if found else None


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process at a time."""
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _fetch(package: str, folder: Path) -> None:
    """The package and what it needs that the machine has not, unpacked."""
    if shutil.which("apt-get") is None:
        raise Unavailable(f"no {package} here, and no apt-get to fetch it with")
    shutil.rmtree(folder / "root", ignore_errors=True)
    for name in ("lists/partial", "cache/archives/partial", "debs", "root"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    try:
        _download(package, folder)
    except Unavailable:  # the machine has no lists, or old ones
        settings = ("-o", f"Dir::State::lists={folder / 'lists'}")
        _apt(folder, *settings, "update")
        _download(package, folder, *settings)
    for archive in (folder / "debs").glob("*.deb"):
        _run(["dpkg-deb", "--extract", str(archive), str(folder / "root")], folder)


def _download(package: str, folder: Path, *settings: str) -> None:
    ask = ("--yes", "--no-install-recommends", "--print-uris", "install", package)
    listed = _apt(folder, *settings, *ask)
    wanted = [line.split()[1].partition("_")[0] for line in listed.splitlines() if "://" in line]
    _apt(folder, *settings, "download", *(wanted or [package]))


def _apt(folder: Path, *words: str) -> str:
    own = (f"Dir::Cache={folder / 'cache'}", "Debug::NoLocking=1", "APT::Sandbox::User=")
    settings = [word for setting in own for word in ("-o", setting)]
    return _run(["apt-get", "--quiet=2", *settings, *words], folder / "debs")


def _run(command: list[str], where: Path) -> str:
    done = subprocess.run(command, cwd=where, capture_output=True, text=True, timeout=_SECONDS)
    if done.returncode != 0:
        raise Unavailable(f"{' '.join(command)}:\n{done.stdout}{done.stderr}")
    return done.stdout
