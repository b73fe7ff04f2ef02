"""An example's page, built by Vite: once, by whoever needs it first."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Iterable
from pathlib import Path

from . import npm

ROOT = Path(__file__).parents[2]
_SOURCES = ("src", "index.html", "package-lock.json", "tsconfig.json", "vite.config.ts")
_SECONDS = 300


def built(example: Path, *more: str) -> Path:
    """``dist``, made of what lies there: the example's sources, ``more`` of them, and the package's."""
    npm.node()
    dist = example / "dist"
    with npm.locked(example.name):
        _install(example)
        now = _digest([*(example / name for name in (*_SOURCES, *more)), ROOT / "js/src"])
        stamp = dist / ".built"
        if not stamp.exists() or stamp.read_text() != now:
            _npm(example, "run", "build")  # checks the types, too
            stamp.write_text(now)
    return dist


def _install(example: Path) -> None:
    lock = _digest([example / "package-lock.json"])
    stamp = example / "node_modules/.installed"
    if not stamp.exists() or stamp.read_text() != lock:
        try:
            _npm(example, "ci")
        except subprocess.CalledProcessError as error:
            raise npm.Unavailable(f"npm ci failed:\n{error.stderr}") from error
        stamp.write_text(lock)


def _npm(example: Path, *words: str) -> None:
    subprocess.run(
        ["npm", *words],
        cwd=example,
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
