"""The page of the example, built once by whoever needs it first."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

from tests.browser import npm

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples/fullstack"
_SOURCES = ("src", "index.html", "package-lock.json", "tsconfig.json", "vite.config.ts")
_SECONDS = 300


def built() -> None:
    """``dist`` is made of what lies there: the example's sources and the package's."""
    npm.node()
    with npm.locked("fullstack"):
        _install()
        stamp, now = EXAMPLE / "dist/.built", _digest([EXAMPLE / name for name in _SOURCES])
        if not stamp.exists() or stamp.read_text() != now:
            _npm("run", "build")  # checks the types, too
            stamp.write_text(now)


def _install() -> None:
    lock = _digest([EXAMPLE / "package-lock.json"], more=())
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


def _digest(paths: list[Path], more: tuple[Path, ...] = (ROOT / "js/src",)) -> str:
    files = [
        file
        for path in (*paths, *more)
        for file in ([path] if path.is_file() else sorted(path.rglob("*")))
        if file.is_file()
    ]
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file}\0".encode() + file.read_bytes() + b"\0")
    return digest.hexdigest()
