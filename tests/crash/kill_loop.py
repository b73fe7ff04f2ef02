"""T2: a worker under a killer, with an oracle outside.

python -m tests.crash.kill_loop --kills 1000 --seed 7
python -m tests.crash.kill_loop --kills 100 --database postgresql
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path
from typing import Any

from .harness import Child, Nursery, Report, folder, main, until
from .oracle import World
from .place import SQLITE, Way, name_of, new_database, straight

# By whether the database is on a server. On a file, a dead process's leases are ended by the next one at once.
LEASES = (
    {"heartbeat_interval": 0.5, "stale_threshold": 2.0},
    {"heartbeat_interval": 0.25, "stale_threshold": 1.0},
)


class Killer:
    """Kills a worker again and again, and looks at what is left before each restart."""

    def __init__(
        self, report: Report, where: Path, url: str, way: Way, concurrency: int, plant: str | None
    ) -> None:
        self.world = World(where, url=url)
        self.way = way
        self.report = report
        self.random = random.Random(report.seed)
        self.concurrency = concurrency
        self.plant = plant

    def config(self, **more: Any) -> dict[str, Any]:
        return {
            "role": "work",
            "folder": str(self.world.folder),
            "url": self.way(self.world.url),
            "next_key": len(self.world.acked),
            "active": self.concurrency + 1,
            "orders": [{"steps": 12, "ms": 12}, {"steps": 8, "ms": 25, "chat": True}, {"steps": 5}],
            "keep_logs": True,
            "plant": self.plant,
            "options": {
                "max_concurrent_runs": self.concurrency,
                "max_recoveries": 1000,
                "polling_interval": 0.2,
                **LEASES[bool(self.world.url)],
            },
            **more,
        }

    def strike(self, child: Child) -> None:
        """Let it come to some effects, a little further, and kill it."""
        wanted, delay = self.random.randint(0, 4), self.random.uniform(0, 0.045)
        before = self.world.begun.total()
        child.go(self.config())
        started = time.monotonic()
        if wanted:
            until(lambda: self._begun(child) > before, "no step begins")
            self.report.recovery.append(time.monotonic() - started)
            until(lambda: self._begun(child) >= before + wanted, "no further step begins")
        time.sleep(delay)
        child.kill()
        self.report.faults["SIGKILL"] += 1
        self.look()

    def _begun(self, child: Child) -> int:
        self.world.new_lines()
        if not child.alive():
            raise AssertionError(f"the worker ended by itself:\n{child.output()}")
        return self.world.begun.total()

    def look(self) -> None:
        now = self.world.look()
        self.world.check_order(now)

    def finish(self, child: Child) -> None:
        """No more kills: what was acknowledged must be completed."""
        child.go(self.config(active=0, until_done=True))
        if code := child.wait():
            self.report.found("died", f"exit {code}: {child.output()}")
        now = self.world.look()
        self.world.check_order(now)
        self.world.check_completed(now)
        self.report.take(self.world)
        most = self.report.faults["SIGKILL"] * self.concurrency
        if self.world.repeats > most:
            self.report.found("duplicated", f"{self.world.repeats} repeats, at most {most}")


def run(
    kills: int = 300, seed: int = 7, concurrency: int = 1, plant: str | None = None,
    database: str = SQLITE, way: Way = straight,
) -> Report:  # fmt: skip
    """The whole loop; ``way`` leads the workers to the database, past a pooler for one."""
    options = {"kills": kills, "concurrency": concurrency, "database": name_of(database)}
    report = Report("kill_loop", seed, options)
    started = time.monotonic()
    with folder("kill") as where, new_database(database) as url, Nursery() as nursery:
        killer = Killer(report, where, url, way, concurrency, plant)
        for _ in range(kills):
            child = nursery.take()
            killer.strike(child)
            nursery.bury(child)
            if plant and killer.world.wrong:
                break
        killer.finish(nursery.take())
        killer.world.close()
    report.seconds = time.monotonic() - started
    return report


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--concurrency", type=int, default=1)
    parser.add_argument("--plant")
    parser.add_argument("--database", default=SQLITE)
    main(run, parser)
