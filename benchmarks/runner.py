"""Runs the drivers: each measure in a process of its own, on a fresh database, the columns in turns."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from .cases import Case, Options
from .peers import HERE, ROOT, Peer
from .server import PostgresServer

_TIMEOUT = 150.0
_DATA = HERE / "data"
_TRIES = 3

NOISE = 0.3
"""Cores that other processes may use before a measurement counts as disturbed."""


class Failed(Exception):
    """A driver gave no result."""


class Results:
    """What every repetition of every case gave, by column."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, str], list[dict[str, float]]] = {}
        self.failures: dict[tuple[str, str], str] = {}

    def noise(self, case: str, column: str) -> float:
        """Cores that other processes used while it was measured: the median."""
        return self.median(case, column, "others") or 0.0

    def median(self, case: str, column: str, key: str) -> float | None:
        values = [r[key] for r in self.found.get((case, column), []) if key in r]
        return statistics.median(values) if values else None


def measure(
    cases: Sequence[Case],
    peers: Mapping[str, Peer],
    repeat: int,
    patience: float,
    server: PostgresServer | None,
) -> Results:
    """All cases, ``repeat`` times over; neighbours in time are what is compared.

    After ``patience`` seconds nothing is measured again for the sake of quiet.
    """
    shutil.rmtree(_DATA, ignore_errors=True)
    _DATA.mkdir(parents=True)
    results = Results()
    bench = _Bench(server)
    deadline = time.monotonic() + patience
    slow_fsync = _build_slow_fsync(results) if any(case.slow_fsync for case in cases) else None
    try:
        for repetition in range(repeat):
            for case, column, options in _turns(cases, peers):
                if case.slow_fsync and not slow_fsync:
                    continue
                _say(f"{repetition + 1}/{repeat} {case.id} {column}")
                preload = {"LD_PRELOAD": str(slow_fsync)} if case.slow_fsync else {}
                try:
                    tries = bench.quietly(case, column, options, peers[column], preload, deadline)
                    result = min(tries, key=lambda one: one["others"])
                    results.found.setdefault((case.id, column), []).append(result)
                except Failed as failure:
                    results.failures[case.id, column] = str(failure)
    finally:
        _say("")
        bench.close()
        shutil.rmtree(_DATA, ignore_errors=True)
    return results


def _turns(cases: Sequence[Case], peers: Mapping[str, Peer]) -> Iterable[tuple[Case, str, Options]]:
    for case in cases:
        for column, options in case.options.items():
            if column in peers and peers[column].missing is None:
                yield case, column, options


class _Bench:
    """Where measures run: a new file for each, or a new database on the server."""

    def __init__(self, server: PostgresServer | None) -> None:
        self._server = server
        self._seeds: dict[tuple[str, str], str] = {}

    def quietly(
        self,
        case: Case,
        column: str,
        options: Options,
        peer: Peer,
        preload: Mapping[str, str],
        deadline: float,
    ) -> Iterable[dict[str, float]]:
        """Measure again, whatever came out, while other processes disturb us and there is time."""
        for _ in range(_TRIES):
            result = self._run_case(case, column, options, peer, preload)
            yield result
            if result["others"] <= NOISE or time.monotonic() > deadline:
                return

    def _run_case(
        self, case: Case, column: str, options: Options, peer: Peer, preload: Mapping[str, str]
    ) -> dict[str, float]:
        with self._place(case, column, peer) as place:
            asked = {**place, **options}
            if case.prepare:
                _run(peer, case.prepare, asked, {})
            asking = peer
            if case.over_http:
                asked["server"] = [*peer.command, "serve"]
                asking = replace(peer, command=(sys.executable, "-m", "benchmarks.http_load"))
            if case.in_browser:
                asking = replace(peer, command=(sys.executable, "-m", "benchmarks.browser"))
            began, busy, own = time.monotonic(), _busy_seconds(), self._own_seconds()
            result = _run(asking, case.measure, asked, preload)
            foreign = _busy_seconds() - busy - (self._own_seconds() - own)
        return {**result, "others": max(0.0, foreign / (time.monotonic() - began))}

    @contextlib.contextmanager
    def _place(self, case: Case, column: str, peer: Peer) -> Generator[dict[str, str], None, None]:
        """What a driver is told of the database that it is to use."""
        if case.on_postgres:
            assert self._server is not None
            url = self._server.create(self._seed(case, column, peer) if case.seeded else None)
            try:
                yield {"db": url}
            finally:
                self._server.drop(url)
            return
        folder = _DATA / "run"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        place = {"db": str(folder / "bench.db")}
        yield place | {"base": self._seed(case, column, peer)} if case.seeded else place

    def _seed(self, case: Case, column: str, peer: Peer) -> str:
        """A database with the case's backlog, made once and copied."""
        sizes = "-".join(f"{name}-{size}" for name, size in case.seeded.items())
        if (column, sizes) not in self._seeds:
            path = str(_DATA / f"seed-{column}-{sizes}.db")
            db = self._server.create() if case.on_postgres and self._server else path
            _run(peer, "seed", {"db": db, **case.seeded}, {})
            self._seeds[column, sizes] = db
        return self._seeds[column, sizes]

    def _own_seconds(self) -> float:
        """CPU time of the drivers and of the server."""
        return _seconds_of_children() + (self._server.cpu_seconds() if self._server else 0.0)

    def close(self) -> None:
        """Drop what was made once."""
        for db in self._seeds.values():
            if self._server is not None and "://" in db:
                self._server.drop(db)


def _busy_seconds() -> float:
    """CPU time that the whole machine has spent; 0 where it does not tell."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0
    user, nice, system, _, _, irq, softirq, *_ = map(int, stat.read_text().split()[1:9])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def _seconds_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _run(
    peer: Peer, measure: str, options: Options, preload: Mapping[str, str]
) -> dict[str, float]:
    """A driver, in a process group of its own that is gone afterwards."""
    process = subprocess.Popen(
        [*peer.command, measure, json.dumps(options)],
        cwd=ROOT,
        env={**os.environ, **peer.environment, **preload},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=_TIMEOUT)
    except subprocess.TimeoutExpired:
        raise Failed(f"took longer than {_TIMEOUT:g} s") from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    try:
        return json.loads(out.splitlines()[-1])
    except (IndexError, ValueError):
        said = err.strip().splitlines()
        raise Failed(said[-1] if said else f"exit code {process.returncode}") from None


def _build_slow_fsync(results: Results) -> Path | None:
    source = Path(__file__).parent / "slow_fsync.c"
    target = HERE / "slow_fsync.so"
    command = ["cc", "-shared", "-fPIC", "-O2", "-o", str(target), str(source), "-ldl"]
    try:
        subprocess.run(command, check=True, timeout=60, capture_output=True)
    except (OSError, subprocess.SubprocessError) as error:
        results.failures["slow", ""] = f"slow_fsync.c could not be compiled: {error}"
        return None
    return target


def _say(line: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)
