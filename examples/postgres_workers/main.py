"""Two workers and a web process on one PostgreSQL; README.md says how to run it, and what to break."""

import os
import signal
import subprocess
import sys
import threading
import time
import webbrowser
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from server import postgres

HERE = Path(__file__).parent
# PostgreSQL does not run as root; whom it runs as then must be able to reach its data.
DEFAULT = HERE / "data" if os.geteuid() else Path("/var/tmp/durably-postgres-workers")
DATA = Path(os.environ.get("DATA", DEFAULT))
PORT = os.environ.get("PORT", "8000")
RESTART = float(os.environ.get("RESTART", "8"))  # seconds that a killed worker stays dead
GRACE = 20.0  # seconds for processes to stop

WORKER = [sys.executable, "-m", "durably.cli", "worker", "worker:durably", "--grace", "1"]
WEB = [sys.executable, "web.py"]


class Processes:
    """The workers and the web process. A worker that was killed is started again, a little later."""

    def __init__(self, url: str) -> None:
        self._workers = DATA / "workers"
        self._workers.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._environment = {"DATABASE_URL": url, "WORKERS": str(self._workers)}
        self._due = {"A": 0.0, "B": 0.0}
        self._alive: dict[str, subprocess.Popen[bytes]] = {}
        self._web = self._start(WEB)

    def _start(self, command: list[str], **environment: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command, cwd=HERE, env={**os.environ, **self._environment, **environment}
        )

    def look_after(self) -> bool:
        """Notice who died, start who is due; False when the web process has ended."""
        for name, due in self._due.items():
            worker = self._alive.get(name)
            if worker is not None and worker.poll() is not None:
                (self._workers / name).unlink()
                print(f"worker {name} is dead ({worker.returncode})", flush=True)
                del self._alive[name]
                self._due[name] = time.monotonic() + RESTART
            elif worker is None and time.monotonic() >= due:
                self._alive[name] = self._start(WORKER, WORKER=name)
                (self._workers / name).write_text(str(self._alive[name].pid))
        return self._web.poll() is None

    def stop(self) -> None:
        """The workers hand their runs back; the next start goes on with them."""
        everybody = [self._web, *self._alive.values()]
        for process in everybody:
            process.terminate()
        for process in everybody:
            try:
                process.wait(GRACE)
            except subprocess.TimeoutExpired:
                process.kill()
        for name in self._due:
            (self._workers / name).unlink(missing_ok=True)


@contextmanager
def stop_event() -> Generator[threading.Event]:
    """Set by SIGINT and SIGTERM."""
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    yield stopped


def main() -> None:
    given = os.environ.get("DATABASE_URL")
    database = nullcontext(given) if given else postgres(DATA / "postgres")
    with stop_event() as stopped, database as url:
        migrate = [sys.executable, "-m", "durably.cli", "migrate", "--db", url, "--schema", "films"]
        subprocess.run(migrate, check=True, stdout=subprocess.DEVNULL)
        processes = Processes(url)
        try:
            print(f"open http://127.0.0.1:{PORT}", flush=True)
            if "--open" in sys.argv:
                webbrowser.open(f"http://127.0.0.1:{PORT}")
            while processes.look_after() and not stopped.wait(0.1):
                pass
        finally:
            processes.stop()


if __name__ == "__main__":
    main()
