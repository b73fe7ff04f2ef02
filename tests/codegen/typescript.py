"""TypeScript's compiler, from the packages of js/."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from tests.browser import npm
from tests.browser.node import NodeError

JS = Path(__file__).parents[2] / "js"
_COMPILER = JS / "node_modules/typescript/package.json"


def install() -> None:
    """The packages of js/ are installed; whoever works there may have done it."""
    npm.node()
    wanted = json.loads((JS / "package.json").read_text())["devDependencies"]["typescript"]
    with npm.locked("js"):
        if not _COMPILER.exists() or json.loads(_COMPILER.read_text())["version"] != wanted:
            done = subprocess.run(
                ["npm", "ci"], cwd=JS, capture_output=True, text=True, timeout=300, check=False
            )
            if done.returncode != 0:
                raise npm.Unavailable(f"npm ci failed in js/:\n{done.stderr}")


def check(folder: Path) -> None:
    """The ``*.ts`` of a folder are right, by js/'s own rules; they find ``durably-react``."""
    options = {
        "types": [],
        "noUnusedLocals": False,
        "module": "ESNext",
        "moduleResolution": "bundler",
        "paths": {
            "durably-react": [str(JS / "src/index.ts")],
            "durably-react/client": [str(JS / "src/client.ts")],
            "react": [str(JS / "node_modules/@types/react")],
            "react/*": [str(JS / "node_modules/@types/react/*")],
        },
        "typeRoots": [str(JS / "node_modules/@types")],
    }
    config = {
        "extends": str(JS / "tsconfig.json"),
        "compilerOptions": options,
        "include": [str(folder)],
    }
    (folder / "package.json").write_text('{"type": "module"}')
    (folder / "tsconfig.json").write_text(json.dumps(config))
    done = subprocess.run(
        [npm.node(), JS / "node_modules/typescript/bin/tsc", "-p", folder],
        cwd=folder,
        env={**os.environ, "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if done.returncode != 0:
        raise NodeError(f"{done.stdout}{done.stderr}")
