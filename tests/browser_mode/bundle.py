"""The bundle that pages load: made once for one state of the sources, whoever needs it first."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.browser import npm

ROOT = Path(__file__).parents[2]
FOLDER = Path(__file__).parent / ".bundles"

_SCRIPTS = ROOT / "js" / "src"
_ENTRIES = ("browser/index.ts", "browser/worker.ts")
_OLD = 2 * 3600.0  # seconds since anybody used it


def made() -> Path:
    """The folder of the bundle, made by ``durably browser-bundle`` from these sources."""
    modules = npm.installed()
    with npm.locked("browser-bundle"):
        folder = FOLDER / _digest()
        if not (folder / "manifest.json").exists():
            _forget_old()
            _make(folder, modules)
        os.utime(folder)
        return folder


def _make(folder: Path, modules: Path) -> None:
    scripts = FOLDER / f"{folder.name}-js"
    _call(
        modules / ".bin" / "esbuild", *(_SCRIPTS / entry for entry in _ENTRIES), "--bundle",
        "--format=esm", f"--outbase={_SCRIPTS}", f"--outdir={scripts}",
        "--log-level=warning",
    )  # fmt: skip
    _call(
        sys.executable, "-m", "durably.cli", "browser-bundle", folder,
        "--js", scripts, "--pyodide", modules / "pyodide",
    )  # fmt: skip
    shutil.rmtree(scripts)


def _call(*command: object) -> None:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def _forget_old() -> None:
    if FOLDER.exists():
        for folder in FOLDER.iterdir():
            if time.time() - folder.stat().st_mtime > _OLD:
                shutil.rmtree(folder)


def _digest() -> str:
    digest = hashlib.sha256()
    for path in sorted(_sources()):
        digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _sources() -> Iterator[Path]:
    yield npm.PROJECT / "package-lock.json"
    for folder in (ROOT / "src" / "durably", _SCRIPTS):
        for path in folder.rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                yield path
