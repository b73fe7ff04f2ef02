"""The wheel of this tree, in a clean environment with pydantic alone."""

import subprocess
import venv
import zipfile
from pathlib import Path

import pytest

from tests.tier import TIER

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(TIER == "quick", reason="installs from an index: the ci tier's")


def run(*command, cwd):
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_holds_all_it_needs(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for path in (ROOT / "src/durably").rglob("*"):
        if path.is_file() and path.suffix in (".py", ".sql", ".typed"):
            assert path.relative_to(ROOT / "src").as_posix() in names
    assert not [name for name in names if name.startswith("tests")]
    (points,) = [name for name in names if name.endswith("entry_points.txt")]
    hook = b"[pyinstaller40]\nhook-dirs = durably.__pyinstaller:get_hook_dirs"
    assert hook in zipfile.ZipFile(wheel).read(points)


def test_it_installs_with_pydantic_alone_and_the_demo_runs(wheel, tmp_path):
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv/bin/python"
    run(python, "-m", "pip", "install", "-qq", "--disable-pip-version-check", wheel, cwd=tmp_path)
    installed = run(python, "-m", "pip", "list", "--format=freeze", cwd=tmp_path).lower()
    names = {line.split("==")[0].replace("-", "_") for line in installed.split()}
    assert names - {"pip", "setuptools"} == {
        "durably", "pydantic", "pydantic_core", "annotated_types", "typing_extensions", "typing_inspection",
    }  # fmt: skip
    said = run(tmp_path / "venv/bin/durably", "demo", "--fresh", cwd=tmp_path)
    assert "index_stdlib.py" in said
    assert "durably" in run(tmp_path / "venv/bin/durably", "--version", cwd=tmp_path)
