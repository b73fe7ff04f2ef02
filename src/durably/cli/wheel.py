"""The wheel of this very Durably for the browser: what is installed, without its doors."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from collections.abc import Iterator
from importlib.metadata import metadata, version
from pathlib import Path

PACKAGE = Path(__file__).parents[1]

# They and what only they need: nothing else imports them.
_DOORS = {"__pyinstaller", "cli", "client", "copying", "demo"}
_THEN = (1980, 1, 1, 0, 0, 0)  # same files, same wheel
_WHEEL = "Wheel-Version: 1.0\nGenerator: durably\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def write_wheel(folder: Path) -> Path:
    """Write it into ``folder``; its path."""
    name = f"durably-{version('durably')}"
    path = folder / f"{name}-py3-none-any.whl"
    files = {**dict(_sources()), **_information(f"{name}.dist-info")}
    record = f"{name}.dist-info/RECORD"
    lines = [f"{file},{_digest(data)},{len(data)}\n" for file, data in files.items()]
    files[record] = "".join([*lines, f"{record},,\n"]).encode()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file, data in files.items():
            archive.writestr(zipfile.ZipInfo(file, _THEN), data, zipfile.ZIP_DEFLATED)
    return path


def _sources() -> Iterator[tuple[str, bytes]]:
    for path in sorted(PACKAGE.rglob("*")):
        below = path.relative_to(PACKAGE)
        is_door = below.parts[0] in _DOORS or below.parts[:2] == ("store", "postgres")
        if path.is_file() and "__pycache__" not in below.parts and not is_door:
            yield f"durably/{below.as_posix()}", path.read_bytes()


def _information(folder: str) -> dict[str, bytes]:
    head = f"Metadata-Version: 2.1\nName: durably\nVersion: {version('durably')}\n"
    needs = [line for line in metadata("durably").get_all("Requires-Dist", []) if ";" not in line]
    needs = [f"Requires-Dist: {need}\n" for need in needs]
    return {
        f"{folder}/METADATA": "".join([head, *needs]).encode(),
        f"{folder}/WHEEL": _WHEEL.encode(),
    }


def _digest(data: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest())
    return f"sha256={digest.decode().rstrip('=')}"
