"""What Pyodide is given: the wheel of this tree, and the tests with the packages that run them."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib.metadata import distribution
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[2]

_INSIDE = Path(__file__).with_name("inside")
_SUITES = ("docs/reference", "tests/engine", "tests/reference", "tests/store", "tests/simulation")
_PURE = ("iniconfig", "packaging", "pluggy", "pygments", "pytest")  # as they are installed here


def built(folder: Path) -> Path:
    """The wheel of this tree."""
    if find_spec("pip") is not None:
        command = [sys.executable, "-m", "pip", "wheel", "-qq", "--disable-pip-version-check"]
        command += ["--no-deps", "-w"]
    else:
        command = ["uv", "build", "--quiet", "--wheel", "--out-dir"]
    done = subprocess.run(
        [*command, str(folder), str(ROOT)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("durably-*.whl")
    return wheel


def packed_tests(archive: Path) -> Path:
    """The suites that run inside, with what they import, as one archive."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as packed:
        packed.writestr("tests/__init__.py", "")
        for name in ("asyncpg.py", "hypothesis.py"):
            packed.write(_INSIDE / name, name)
        packed.write(_INSIDE / "postgres.py", "tests/postgres.py")
        packed.write(_INSIDE / "pytest.ini", "pytest.ini")
        for path in _sources():
            packed.write(path, path.relative_to(ROOT))
        for path, name in _packages():
            packed.write(path, name)
    return archive


def _sources() -> Iterator[Path]:
    replaced = ("__init__.py", "postgres.py")
    yield from (path for path in (ROOT / "tests").glob("*.py") if path.name not in replaced)
    for folder in (*(ROOT / name for name in _SUITES), _INSIDE):
        yield from (path for path in folder.rglob("*") if path.is_file() and _is_source(path))


def _packages() -> Iterator[tuple[Path, str]]:
    for name in _PURE:
        for file in distribution(name).files or ():
            path = Path(str(file.locate()))
            if ".." not in file.parts and _is_source(path):
                yield path, file.as_posix()


def _is_source(path: Path) -> bool:
    return path.suffix != ".pyc"
