"""T9: many processes on one file, now and then one of them is killed. (On a server: ``outages``.)

python -m tests.crash.crowd --processes 8 --runs 250 --kills 40 --seed 7
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path
from typing import Any

from .harness import HANG, Child, Nursery, Report, folder, main, until
from .oracle import World

MOST_WAL = 64_000_000  # bytes
LEASES = {"heartbeat_interval": 0.5, "stale_threshold": 3.0}
ORDERS = [{"steps": 5}, {"steps": 5, "ms": 5}, {"steps": 5, "ms": 10, "chat": True}]


class Crowd:
    """Workers that all trigger runs of their own, and all execute whatever is due."""

    def __init__(
        self, report: Report, world: World, nursery: Nursery, processes: int, runs: int,
        plant: str | None = None, **leases: Any,
    ) -> None:  # fmt: skip
        self.world = world
        self.report, self.nursery = report, nursery
        self.share = -(-runs // processes)
        self.plant = plant
        self.leases = leases or LEASES
        self.workers: dict[str, Child] = {}
        for i in range(processes):
            self.start(f"p{i}-")

    def start(self, prefix: str) -> None:
        done = sum(key.startswith(prefix) for key in self.world.acked)
        self.workers[prefix] = self.nursery.spawn(self.config(prefix, done))

    def config(self, prefix: str, done: int, **more: Any) -> dict[str, Any]:
        return {
            "role": "work",
            "folder": str(self.world.folder),
            "url": self.world.url,
            "prefix": prefix,
            "next_key": done,
            "last_key": self.share,
            "active": 1000,
            "orders": ORDERS,
            "keep_logs": True,
            "plant": self.plant,
            "options": {
                "max_concurrent_runs": 4,
                "max_recoveries": 1000,
                "polling_interval": 0.2,
                **self.leases,
            },
            **more,
        }

    def kill(self, prefix: str) -> None:
        child = self.workers[prefix]
        child.kill()
        self.report.faults["SIGKILL"] += 1
        self.bury(child)
        self.world.new_lines()
        self.start(prefix)

    def bury(self, child: Child) -> None:
        output = child.output()
        if "locked" in output or "Traceback" in output:
            self.report.found("locked" if "locked" in output else "died", output[-2000:])
        self.nursery.bury(child)

    @property
    def wanted(self) -> int:
        """How many runs there will be."""
        return self.share * len(self.workers)

    def check_alive(self) -> None:
        for child in self.workers.values():
            if not child.alive():
                self.report.found("died", child.output()[-2000:])

    def is_done(self) -> bool:
        now = self.world.look(dead=False)
        self._check_log()
        self.check_alive()
        over = [r for r in now.runs.values() if r["status"] in ("completed", "failed")]
        return len(over) == self.wanted

    def _check_log(self) -> None:
        wal = Path(f"{self.world.database}-wal")
        size = wal.stat().st_size if wal.exists() else 0
        self.report.extra["wal_mb"] = max(self.report.extra.get("wal_mb", 0.0), size / 1e6)
        if size > MOST_WAL:
            self.report.found("wal", f"{size} bytes")

    def close(self) -> None:
        """The end: no process is left, and every run is completed."""
        for child in list(self.workers.values()):
            child.kill()
            self.bury(child)
        now = self.world.look()
        self.world.check_order(now)
        self.world.check_completed(now)
        if len(now.runs) != self.wanted:
            self.report.found("lost", f"{len(now.runs)} runs of {self.wanted}")
        self.report.take(self.world)
        self.world.close()


def run(processes: int = 8, runs: int = 250, kills: int = 40, seed: int = 7) -> Report:
    """All processes together, until every run is over."""
    report = Report("crowd", seed, {"processes": processes, "runs": runs, "kills": kills})
    chance = random.Random(seed)
    started = time.monotonic()
    with folder("crowd") as where, Nursery(ahead=2) as nursery:
        crowd = Crowd(report, World(where), nursery, processes, runs)
        end = time.monotonic() + 3 * HANG
        done = False
        while not (done and report.faults["SIGKILL"] >= kills) and time.monotonic() < end:
            if report.faults["SIGKILL"] < kills:
                time.sleep(chance.uniform(0, 0.3))
                crowd.kill(chance.choice(list(crowd.workers)))
            else:
                time.sleep(0.1)
            done = crowd.is_done()
        if not done:
            report.found("stuck", "runs are left")
        crowd.close()
    report.seconds = time.monotonic() - started
    return report


def idle_checkpointer(runs: int) -> Report:
    """The process whose part it is to write the log back has nothing to do; another has much."""
    report = Report("idle_checkpointer", options={"runs": runs})
    started = time.monotonic()
    with folder("wal") as where, Nursery() as nursery:
        world = World(where)
        config = {"role": "work", "folder": str(where)}
        nursery.spawn({**config, "options": {"worker": False}})
        until(world.new_lines, "the first process does not open the file")
        busy = nursery.spawn(
            {
                **config, "active": 50, "last_key": runs, "until_done": True,
                "orders": [{"steps": 5, "weight": 2000}], "options": {"max_concurrent_runs": 20},
            }
        )  # fmt: skip
        longest = 0
        wal = Path(f"{world.database}-wal")
        while busy.alive():
            longest = max(longest, wal.stat().st_size if wal.exists() else 0)
            time.sleep(0.02)
        if busy.wait():
            report.found("died", busy.output()[-2000:])
        report.extra["wal_mb"] = longest / 1e6
        if longest > MOST_WAL:
            report.found("wal", f"{longest} bytes")
        now = world.look(dead=False)
        world.check_completed(now)
        report.take(world)
    report.seconds = time.monotonic() - started
    return report


def race(processes: int, rounds: int) -> Report:
    """A file that is not there, opened by many at once."""
    report = Report("race", options={"processes": processes, "rounds": rounds})
    started = time.monotonic()
    for _ in range(rounds):
        with folder("race") as where, Nursery(ahead=processes - 1) as nursery:
            world = World(where)
            config = {
                "role": "work", "folder": str(where), "active": 100, "last_key": 2,
                "until_done": True, "options": {"polling_interval": 0.1},
            }  # fmt: skip
            children = [nursery.take() for _ in range(processes)]
            for child in children:
                child.ready()
            for i, child in enumerate(children):
                child.tell({**config, "prefix": f"p{i}-"})
            for child in children:
                if code := child.wait():
                    report.found("died", f"exit {code}: {child.output()[-2000:]}")
                elif "locked" in (output := child.output()):
                    report.found("locked", output[-2000:])
            now = world.look()
            world.check_completed(now)
            if len(now.runs) != 2 * processes:
                report.found("lost", f"{len(now.runs)} runs of {2 * processes}")
            report.take(world)
    report.seconds = time.monotonic() - started
    return report


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=7)
    main(run, parser)
