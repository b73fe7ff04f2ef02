"""The example's page, built once by whoever needs it first."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Iterable
from pathlib import Path

from tests.browser import npm

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples/browser-only"
VANILLA = ROOT / "examples/browser-vanilla"

_SOURCES = ("src", "jobs.py", "index.html", "package-lock.json", "tsconfig.json", "vite.config.ts")
_SECONDS = 300


def built() -> Path:
    """``dist``, made of what lies there: the example's sources and the package's. Without a bundle."""
    npm.node()
    with npm.locked("browser-only"):
        _install()
        dist = EXAMPLE / "dist"
        now = _digest([*(EXAMPLE / name for name in _SOURCES), ROOT / "js/src"])
        stamp = dist / ".built"
        if not stamp.exists() or stamp.read_text() != now:
            _npm("run", "build")  # checks the types, too
            stamp.write_text(now)
    return dist


def _install() -> None:
    lock = _digest([EXAMPLE / "package-lock.json"])
    stamp = EXAMPLE / "node_modules/.installed"
    if not stamp.exists() or stamp.read_text() != lock:
        try:
            _npm("ci")
        except subprocess.CalledProcessError as error:
            raise npm.Unavailable(f"npm ci failed:\n{error.stderr}") from error
        stamp.write_text(lock)


def _npm(*words: str) -> None:
    subprocess.run(
        ["npm", *words],
        cwd=EXAMPLE,
        env={**os.environ, "NO_UPDATE_NOTIFIER": "1", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=True,
    )


def _digest(paths: Iterable[Path]) -> str:
    files = [
        file
        for path in paths
        for file in ([path] if path.is_file() else sorted(path.rglob("*")))
        if file.is_file()
    ]
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file}\0".encode() + file.read_bytes() + b"\0")
    return digest.hexdigest()
