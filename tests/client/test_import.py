"""The client is an extra: who does not ask for it does not pay for it, and its absence has one message."""

from __future__ import annotations

import subprocess
import sys

NO_HTTPX = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "httpx2":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
"""


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )


def test_durably_does_not_import_the_client() -> None:
    loaded = python(
        "import sys, durably; print([m for m in sys.modules if 'httpx' in m or '.client' in m])"
    )
    assert (loaded.stdout, loaded.stderr) == ("[]\n", "")


def test_without_httpx2_the_message_says_what_to_install() -> None:
    missing = python(NO_HTTPX + "import durably.client")
    last = missing.stderr.splitlines()[-1]
    assert last == (
        "ModuleNotFoundError: durably.client needs httpx2, which is not installed: "
        "pip install 'durably[client]'"
    )
    assert "During handling" not in missing.stderr
    assert python(NO_HTTPX + "import durably, durably.cli").returncode == 0


def test_another_missing_module_is_named_itself() -> None:
    missing = python(NO_HTTPX.replace('"httpx2"', '"idna"') + "import durably.client")
    assert missing.stderr.splitlines()[-1] == "ModuleNotFoundError: No module named 'idna'"
