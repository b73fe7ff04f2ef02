"""The server without a page, and what lies around it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.browser import npm
from tests.codegen import typescript
from tests.codegen.typescript import JS
from tests.docs import test_code_blocks as held
from tests.examples.server import Server

from .building import EXAMPLE, ROOT


def test_the_types_are_those_of_the_jobs(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "durably.cli", "codegen", "ts", "jobs:durably"],
        cwd=EXAMPLE,
        env={"PATH": "/usr/bin:/bin", "DATA": str(tmp_path)},
        stdout=subprocess.PIPE,
        check=True,
    )
    generated = (EXAMPLE / "src/jobs.ts").read_bytes()
    assert done.stdout == generated, (
        "in examples/fullstack: durably codegen ts jobs:durably > src/jobs.ts"
    )


def test_the_readme_is_held_to_the_rules_of_the_docs():
    page = EXAMPLE / "README.md"
    held.test_shell_commands_exist(page)
    held.test_every_block_has_a_language(page)
    held.test_links_lead_somewhere(page)


def test_the_lock_names_versions_and_no_host():
    text = (EXAMPLE / "package-lock.json").read_text()
    assert "://" not in text, "take out resolved and funding: the lock is for every registry"


def test_the_packages_are_those_that_the_hooks_are_tested_with():
    ours = json.loads((EXAMPLE / "package.json").read_text())
    theirs = json.loads((ROOT / "js/package.json").read_text())["devDependencies"]
    wanted = {**ours["dependencies"], **ours["devDependencies"]}
    assert {
        name: version for name, version in wanted.items() if name in theirs
    }.items() <= theirs.items()


@pytest.mark.usefixtures("built_page")
def test_the_page_is_written_as_the_package_is():
    """By the same formatter and linter, which js/ has."""
    typescript.install()
    biome = [
        npm.node(),
        JS / "node_modules/@biomejs/biome/bin/biome",
        "check",
        "--error-on-warnings",
    ]
    done = subprocess.run(biome, cwd=EXAMPLE, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_is_refused(server: Server):
    server.start()

    def status(method: str, path: str, **headers: str) -> int:
        return server.send(method, path, b"a" if method == "POST" else None, **headers)[0]

    assert status("POST", "/api/files", content_type="text/plain") == 415, (
        "any site could send that"
    )
    assert status("POST", "/api/files") == 415
    assert status("GET", "/api/thumbnails/..%2F..%2Fjobs.db") == 404
    assert status("GET", f"/api/thumbnails/{'A' * 64}") == 422
    assert status("GET", f"/api/thumbnails/{'a' * 64}") == 404
    elsewhere = {"jobName": "import-csv", "input": {"name": "a", "digest": "../../etc/passwd"}}
    body = json.dumps(elsewhere).encode()
    sent = server.send("POST", "/api/durably/trigger", body, content_type="application/json")
    assert sent[0] == 400
