"""The columns of the table: how each driver is started, and how the peers are installed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

ROOT = Path(__file__).parent.parent
HERE = ROOT / ".bench"
PINS = Path(__file__).parent / "peers.toml"
_INSTALL_TIMEOUT = 600.0

COLUMNS = ("ours", "original", "dbos", "pg", "absurd", "pgqueuer", "procrastinate", "pg_dbos")
"""What can be asked for; "ours" and "pg" bring the raw limits along."""


@dataclass(frozen=True)
class Peer:
    """A column: its driver's command line, or why there is none."""

    title: str
    settings: str
    command: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    missing: str | None = None
    on_postgres: bool = False


class CannotInstall(Exception):
    """A peer is not to be had here."""


def find_peers(names: Sequence[str]) -> dict[str, Peer]:
    """The columns of the tables; installs what is missing."""
    pins = tomllib.loads(PINS.read_text())
    found: dict[str, Peer] = {}
    if "ours" in names:
        found |= _ours()
    if "original" in names:
        found["original"] = _original(pins["original"])
    if "dbos" in names:
        found["dbos"] = _dbos(pins["dbos"], DBOS_ON_SQLITE)
    if "pg" in names:
        found |= _ours_on_postgres()
    for name, settings in QUEUES.items():
        if name in names:
            found[name] = _python_peer(name, pins[name], settings)
    if "pg_dbos" in names:
        found["pg_dbos"] = replace(_dbos(pins["dbos"], DBOS_ON_POSTGRES), on_postgres=True)
    return found


def _ours() -> dict[str, Peer]:
    ours = (sys.executable, "-m", "benchmarks.ours")
    wal = "WAL, synchronous=FULL"
    return {
        "ours": Peer("durably", f"{wal} (the default); async steps; defaults otherwise", ours),
        "process": Peer("durably 'process'", "the same with durability='process'", ours),
        "raw": Peer(
            "raw SQL",
            f"durably's own statements on sqlite3, no engine, {wal}, the same commits",
            (sys.executable, "-m", "benchmarks.raw_sql"),
        ),
    }


def _ours_on_postgres() -> dict[str, Peer]:
    def driver(title: str, settings: str, module: str) -> Peer:
        command = (sys.executable, "-m", f"benchmarks.{module}")
        return Peer(title, settings, command, on_postgres=True)

    return {
        "pg": driver("durably", "async steps; defaults", "ours_postgres"),
        "pg_raw": driver("raw rows", "asyncpg, a table with a primary key alone", "raw_postgres"),
    }


def _original(pins: dict[str, str]) -> Peer:
    title = f"original {pins['@coji/durably']}"
    settings = (
        f"the TypeScript original on better-sqlite3 {pins['better-sqlite3']}; set by us: WAL, "
        "synchronous=FULL, pollingIntervalMs 10, preserveSteps true"
    )
    folder = HERE / "original"
    try:
        _once(folder, pins, lambda: _npm_install(folder, pins))
    except CannotInstall as error:
        return Peer(title, settings, missing=str(error))
    command = ("node", str(Path(__file__).parent / "original.mjs"))
    return Peer(title, settings, command, {"PEERS": str(folder)})


def _npm_install(folder: Path, pins: dict[str, str]) -> None:
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise CannotInstall("node and npm are not installed")
    package = {"name": "bench", "private": True, "type": "module", "dependencies": pins}
    (folder / "package.json").write_text(json.dumps(package, indent=2))
    environment = dict(os.environ)
    prefix = Path(node).resolve().parent.parent
    if (prefix / "include/node/node.h").exists():  # then the addon is built without a download
        environment |= {"npm_config_nodedir": str(prefix), "npm_config_build_from_source": "true"}
    _install([npm, "install", "--no-audit", "--no-fund"], folder, environment)
    check = "new (require('better-sqlite3'))(':memory:')"
    try:
        _install([node, "-e", check], folder, environment)
    except CannotInstall:  # an npm that does not run install scripts by itself
        _install([npm, "rebuild", "better-sqlite3"], folder, environment)
        _install([node, "-e", check], folder, environment)


DBOS_ON_SQLITE = (
    "on SQLite; set by us: WAL, synchronous=FULL; plain functions (faster than async ones), queue "
    "polled every 10 ms"
)
DBOS_ON_POSTGRES = "plain functions (faster than async ones); set by us: queue polled every 10 ms"
QUEUES = {
    "absurd": "async handlers; set by us: idle workers poll every 10 ms",
    "pgqueuer": "jobs without steps; asyncpg and uvloop; set by us: batches as large as the concurrency",
    "procrastinate": "jobs without steps; psycopg; defaults",
}


def _dbos(pins: dict[str, str], settings: str) -> Peer:
    peer = _python_peer("dbos", pins, settings)
    return replace(peer, title=f"DBOS {pins['dbos']}", on_postgres=False)


def _python_peer(name: str, pins: dict[str, str], settings: str) -> Peer:
    """A peer in a virtual environment of its own, on PostgreSQL."""
    title = f"{name} {next(iter(pins.values()))}"
    folder = HERE / name
    python = folder / "venv" / "bin" / "python"

    def install() -> None:
        _install([sys.executable, "-m", "venv", str(folder / "venv")], folder)
        wanted = [f"{package}=={version}" for package, version in pins.items()]
        quiet = ["--quiet", "--disable-pip-version-check"]
        _install([str(python), "-m", "pip", "install", *quiet, *wanted], folder)

    try:
        _once(folder, pins, install)
    except CannotInstall as error:
        return Peer(title, settings, missing=str(error), on_postgres=True)
    command = (str(python), "-m", f"benchmarks.{name}_driver")
    return Peer(title, settings, command, on_postgres=True)


def _once(folder: Path, pins: dict[str, str], install: object) -> None:
    """Install unless these very pins are installed."""
    assert callable(install)
    stamp = folder / "installed"
    wanted = hashlib.sha256(json.dumps(pins, sort_keys=True).encode()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    print(f"installing {' '.join(pins)} into {folder.relative_to(ROOT)} ...", file=sys.stderr)
    install()
    stamp.write_text(wanted)


def _install(
    command: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None
) -> None:
    with (folder / "install.log").open("ab") as log:
        try:
            done = subprocess.run(
                command,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                timeout=_INSTALL_TIMEOUT,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise CannotInstall(f"could not be installed: {error}") from None
    if done.returncode != 0:
        where = (folder / "install.log").relative_to(ROOT)
        raise CannotInstall(f"could not be installed, see {where}")
