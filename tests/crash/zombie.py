"""T3: a worker is stopped beyond its lease, another takes its runs over, the first wakes up.

python -m tests.crash.zombie --cycles 100 --seed 7
python -m tests.crash.zombie --cycles 30 --database postgresql
"""

from __future__ import annotations

import argparse
import random
import signal
import time
from pathlib import Path
from typing import Any

from .harness import Child, Nursery, Report, folder, main, until
from .oracle import World
from .place import SQLITE, name_of, new_database

LEASES = {
    "max_concurrent_runs": 2,
    "max_recoveries": 1000,
    "polling_interval": 0.05,
    "heartbeat_interval": 0.5,
    "stale_threshold": 2.5,  # a claim that waits for a sixth of it takes nothing over
}


class Graveyard:
    """Two workers on one database, of which now and then one is stopped."""

    def __init__(
        self, report: Report, where: Path, url: str, nursery: Nursery, plant: str | None
    ) -> None:
        self.world = World(where, url=url)
        self.report = report
        self.random = random.Random(report.seed)
        self.nursery = nursery
        self.plant = plant
        self.workers = [nursery.spawn(self.config(name)) for name in "ab"]

    def config(self, prefix: str, **more: Any) -> dict[str, Any]:
        return {
            "role": "work",
            "folder": str(self.world.folder),
            "url": self.world.url,
            "prefix": prefix,
            "active": 3,
            "orders": [{"steps": 6, "ms": 60, "chat": True}, {"steps": 4, "ms": 150}],
            "keep_logs": True,
            "plant": self.plant,
            "options": LEASES,
            **more,
        }

    def cycle(self) -> None:
        """Stop one, wait until the other has its runs, let it go on, see it work again."""
        victim, other = self.random.sample(self.workers, 2)
        moment = self.random.choice(["begin", "got"])
        delay = self.random.uniform(0, 0.05) if moment == "begin" else 0.0
        self._await_line(victim, moment)
        time.sleep(delay)
        victim.send(signal.SIGSTOP)
        try:
            held = self._held(victim)
            if held is None:
                self.report.faults["stopped_in_transaction"] += 1
                time.sleep(LEASES["stale_threshold"] * 1.5)  # nobody can write; nobody may break
            elif not held:
                self.report.faults["stopped_idle"] += 1
            else:
                self.report.faults[f"stopped_after_{moment}"] += 1
                since = time.monotonic()
                until(lambda: self._taken(victim, held), f"{held} are not taken over")
                self.report.recovery.append(time.monotonic() - since)
                time.sleep(self.random.uniform(0, 0.15))
        finally:
            victim.send(signal.SIGCONT)
        self._await_line(victim, "begin")
        self.world.look(dead=False)
        if not (victim.alive() and other.alive()):
            self.report.found("died", victim.output() + other.output())

    def _await_line(self, worker: Child, kind: str) -> None:
        self.world.new_lines()
        seen = len(self.world.lines)

        def found() -> bool:
            self.world.new_lines()
            lines = self.world.lines[seen:]
            return any(line.kind == kind and line.pid == worker.pid for line in lines)

        until(found, f"worker {worker.pid} does not come to {kind}\n{worker.output()}")

    def _held(self, worker: Child) -> set[str] | None:
        """The runs that a stopped worker holds; None when it holds the file's write lock as well."""
        return self.world.place.held(worker.pid)

    def _taken(self, worker: Child, held: set[str]) -> bool:
        now = self._held(worker)
        return now is not None and not now & held

    def finish(self) -> None:
        """Both stop as they should; then a third completes what is left."""
        for worker in self.workers:
            worker.send(signal.SIGTERM)
        for worker in self.workers:
            if code := worker.wait():
                self.report.found("died", f"exit {code}: {worker.output()[-2000:]}")
        last = self.nursery.spawn(self.config("a", active=0, until_done=True))
        if code := last.wait():
            self.report.found("died", f"exit {code}: {last.output()[-2000:]}")
        now = self.world.look()
        self.world.check_order(now)
        self.world.check_completed(now)
        self.report.take(self.world)
        self.world.close()


def run(
    cycles: int = 30, seed: int = 7, plant: str | None = None, database: str = SQLITE
) -> Report:
    """The whole loop."""
    report = Report("zombie", seed, {"cycles": cycles, "database": name_of(database), **LEASES})
    started = time.monotonic()
    with folder("zombie") as where, new_database(database) as url, Nursery() as nursery:
        graveyard = Graveyard(report, where, url, nursery, plant)
        for _ in range(cycles):
            graveyard.cycle()
            if plant and graveyard.world.wrong:
                break
        graveyard.finish()
    report.seconds = time.monotonic() - started
    return report


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cycles", type=int, default=100)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--plant")
    parser.add_argument("--database", default=SQLITE)
    main(run, parser)
