"""``durably browser-bundle``: all that a page needs to run jobs, in one folder of the application.

Pyodide comes from npm, wheels from PyPI, each as its own client gets it and each checked against the
SHA-256 in ``bundle.json``; Durably itself is the one that is running. Nothing is fetched at run time.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from argparse import Namespace
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..errors import ConfigurationError
from .target import UsageError
from .wheel import PACKAGE, write_wheel

PINS = json.loads(Path(__file__).with_suffix(".json").read_text())
_REACT = "durably-react"
_SCRIPTS = ("browser", "core")


def browser_bundle(args: Namespace) -> int:
    """Write the bundle; 0."""
    out: Path = args.folder
    with tempfile.TemporaryDirectory() as temporary:
        made = Path(temporary) / "bundle"
        for part in ("pyodide", "wheels"):
            (made / part).mkdir(parents=True)
        near = [out.resolve(), Path.cwd()]
        add_pyodide(made / "pyodide", args.pyodide, near)
        wheels = add_wheels(made / "wheels", args.wheels)
        wheels.append(write_wheel(made / "wheels"))
        add_scripts(made, args.js, near)
        write_manifest(made, [f"wheels/{wheel.name}" for wheel in wheels])
        write_service_worker(made)
        replace(out, made)
    print(f"{out}: {_size(out):,} bytes in {len(list(_files(out)))} files")
    return 0


def replace(out: Path, made: Path) -> None:
    """Put the new bundle where the old one was. What is no bundle is not touched."""
    if out.exists() and any(out.iterdir()) and not (out / "manifest.json").exists():
        raise UsageError(f"{out} is not empty, and no bundle; name a folder of its own")
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.exists():
        shutil.rmtree(out)
    shutil.copytree(made, out)


def write_manifest(folder: Path, wheels: list[str]) -> None:
    """``manifest.json``: the versions, the wheels in their order, and of each file its size and SHA-256."""
    files = {
        path.relative_to(folder).as_posix(): {"size": path.stat().st_size, "sha256": _sha256(path)}
        for path in _files(folder)
    }
    manifest = {
        "durably": version("durably"),
        "pyodide": PINS["pyodide"]["version"],
        "python": PINS["python"],
        "wheels": wheels,
        "files": files,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")


def write_service_worker(folder: Path) -> None:
    """``service-worker.js`` names its manifest: a browser looks for a new release by the script's bytes."""
    script = (PACKAGE / "browser" / "service-worker.js").read_text()
    digest = _sha256(folder / "manifest.json")
    (folder / "service-worker.js").write_text(script.replace("SHA-256 of manifest.json", digest))


# -- Pyodide, from npm


def add_pyodide(folder: Path, given: Path | None, near: list[Path]) -> None:
    """Copy Pyodide's files, checked."""
    pins = PINS["pyodide"]
    with _npm_package("pyodide", pins["version"], given, near) as package:
        for name in pins["files"]:
            shutil.copy(package / name, folder / name)
    _check(folder, pins["files"])


def add_scripts(folder: Path, given: Path | None, near: list[Path]) -> None:
    """Copy the worker and the page's side, which are modules without dependencies."""
    ours = PACKAGE.parents[1] / "js"  # of a source tree
    if given is None and (ours / "dist" / "browser").is_dir():
        given = ours / "dist"
    with _npm_package(_REACT, version("durably"), given, near) as package:
        scripts = package if given is not None else package / "dist"
        if not (scripts / "browser" / "worker.js").exists():
            raise ConfigurationError(f"{scripts} has no browser/worker.js: build {_REACT} first")
        for part in _SCRIPTS:
            for script in (scripts / part).rglob("*.js"):
                to = folder / script.relative_to(scripts)
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(script, to)


@contextmanager
def _npm_package(
    name: str, requested: str, given: Path | None, near: list[Path]
) -> Generator[Path]:
    """The folder of a package: the given one, an installed one, or what ``npm pack`` gets."""
    if (found := given or _installed(name, requested, near)) is not None:
        yield found
        return
    with tempfile.TemporaryDirectory() as temporary:
        _call(["npm", "pack", "--silent", f"{name}@{requested}"], temporary, f"{name} from npm")
        (archive,) = Path(temporary).glob("*.tgz")
        with tarfile.open(archive) as packed:
            packed.extractall(temporary, filter="data")
        yield Path(temporary) / "package"


def _installed(name: str, requested: str, near: list[Path]) -> Path | None:
    for folder in near:
        for parent in (folder, *folder.parents):
            package = parent / "node_modules" / name
            described = package / "package.json"
            if described.exists() and json.loads(described.read_text())["version"] == requested:
                return package
    return None


# -- wheels, from PyPI


def add_wheels(folder: Path, given: Path | None) -> list[Path]:
    """Get the wheels that Durably needs there, checked, in the order of their installation."""
    pins: Mapping[str, str] = PINS["wheels"]
    if given is not None:
        for name in pins:
            shutil.copy(given / name, folder / name)
    else:
        _download(folder, pins)
    _check(folder, pins)
    return [folder / name for name in pins]


def _download(folder: Path, pins: Mapping[str, str]) -> None:
    lines: list[str] = []
    for wheel, digest in pins.items():
        name, number, *_ = wheel.split("-")
        lines.append(f"{name}=={number} --hash=sha256:{digest}\n")
    with tempfile.TemporaryDirectory() as temporary:
        requested = Path(temporary) / "requirements.txt"
        requested.write_text("".join(lines))
        command = [
            *_pip(), "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes",
            "--only-binary=:all:", "--platform", PINS["platform"], "--python-version", PINS["python"],
            "--implementation", "cp", "--dest", str(folder), "--requirement", str(requested),
        ]  # fmt: skip
        _call(command, temporary, "the wheels from PyPI")


def _pip() -> list[str]:
    """pip as it is to be had: this Python's, the command, or the one that uv gets."""
    if find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    if shutil.which("pip"):
        return ["pip"]
    if shutil.which("uv"):
        return ["uv", "tool", "run", "--quiet", "pip"]
    raise ConfigurationError("pip is not installed; the wheels come from PyPI")


# -- files


def _call(command: list[str], folder: str, what: str) -> None:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603
    except FileNotFoundError:
        raise ConfigurationError(f"{command[0]} is not installed; it gets {what}") from None
    if done.returncode != 0:
        output = (done.stderr or done.stdout).strip()
        raise ConfigurationError(f"{what} could not be fetched: {output}")


def _check(folder: Path, pins: Mapping[str, str]) -> None:
    for name, digest in pins.items():
        path = folder / name
        if not path.exists() or _sha256(path) != digest:
            raise ConfigurationError(
                f"{name} is not the file that this Durably was tested with (SHA-256 {digest})"
            )


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in _files(folder))


def add_arguments(parser: Any) -> None:
    """The arguments of the command."""
    parser.add_argument("folder", metavar="FOLDER", type=Path,
                        help="where to write it, as public/durably; what was there is replaced")  # fmt: skip
    parser.add_argument("--pyodide", metavar="FOLDER", type=Path,
                        help="Pyodide is here (a node_modules near, else npm)")  # fmt: skip
    parser.add_argument("--wheels", metavar="FOLDER", type=Path,
                        help="the wheels are here (PyPI)")  # fmt: skip
    parser.add_argument("--js", metavar="FOLDER", type=Path,
                        help="durably-react's dist is here (a node_modules near, else npm)")  # fmt: skip
