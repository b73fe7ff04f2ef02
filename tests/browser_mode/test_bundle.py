"""``durably browser-bundle``: what it writes, and what it refuses."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path

import pytest

from durably.cli import bundle, main
from durably.cli.wheel import write_wheel
from durably.errors import ConfigurationError


def test_the_wheel_is_this_durably_without_its_doors(tmp_path: Path):
    wheel = write_wheel(tmp_path)
    with zipfile.ZipFile(wheel) as archive:
        assert archive.testzip() is None
        names = set(archive.namelist())
        (information,) = (name for name in names if name.endswith("/METADATA"))
        told = archive.read(information).decode()
    assert {"durably/__init__.py", "durably/browser/port.py", "durably/store/queries.sql"} <= names
    assert not {name for name in names if name.startswith(("durably/cli/", "durably/demo/"))}
    assert "Name: durably\n" in told
    assert "Requires-Dist: pydantic" in told
    assert "asyncpg" not in told


def test_same_sources_same_wheel(tmp_path: Path):
    digests: set[str] = set()
    for folder in (tmp_path / "one", tmp_path / "two"):
        folder.mkdir()
        digests.add(hashlib.sha256(write_wheel(folder).read_bytes()).hexdigest())
    assert len(digests) == 1


def test_the_manifest_tells_all_files(bundled: Path):
    manifest = json.loads((bundled / "manifest.json").read_text())
    files = {path.relative_to(bundled).as_posix() for path in bundled.rglob("*") if path.is_file()}
    assert set(manifest["files"]) == files - {"manifest.json", "service-worker.js"}
    for name, told in manifest["files"].items():
        data = (bundled / name).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (told["size"], told["sha256"])
    assert set(manifest["wheels"]) == {name for name in files if name.endswith(".whl")}
    assert manifest["wheels"][-1].startswith("wheels/durably-")


def test_the_service_worker_is_another_script_for_another_manifest(tmp_path: Path):
    scripts: set[str] = set()
    for wheels in ([], ["wheels/durably-9.9.9-py3-none-any.whl"]):
        bundle.write_manifest(tmp_path, wheels)
        bundle.write_service_worker(tmp_path)
        script = (tmp_path / "service-worker.js").read_text()
        assert hashlib.sha256((tmp_path / "manifest.json").read_bytes()).hexdigest() in script
        scripts.add(script)
        (tmp_path / "service-worker.js").unlink()
    assert len(scripts) == 2


def test_a_file_that_is_another_is_refused(tmp_path: Path):
    for name in bundle.PINS["wheels"]:
        (tmp_path / name).write_bytes(b"something else")
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(ConfigurationError, match="is not the file that this Durably was tested"):
        bundle.add_wheels(out, tmp_path)


def test_a_folder_that_is_no_bundle_is_left_alone(tmp_path: Path):
    (tmp_path / "made").mkdir()
    out = tmp_path / "public"
    out.mkdir()
    (out / "index.html").write_text("mine")
    with pytest.raises(Exception, match="is not empty, and no bundle"):
        bundle.replace(out, tmp_path / "made")
    assert (out / "index.html").read_text() == "mine"


def test_scripts_that_are_not_built(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for name in bundle.PINS["pyodide"]["files"]:
        (tmp_path / name).write_bytes(b"")
    code = main(["browser-bundle", str(tmp_path / "out"), "--pyodide", str(tmp_path)])
    assert code == 2
    assert "is not the file" in capsys.readouterr().err
    with pytest.raises(ConfigurationError, match=r"no browser/worker.js: build durably-react"):
        bundle.add_scripts(tmp_path / "out", tmp_path, [])
