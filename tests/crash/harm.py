"""Work that harms its worker: poison, blocked loops, held GILs. Supervised workers, as in production."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .harness import HANG, Child, Nursery, Report, folder
from .oracle import World

OPTIONS = {
    "polling_interval": 0.05,
    "heartbeat_interval": 0.2,
    "stale_threshold": 1.0,
    "max_concurrent_runs": 10,
}


class Fleet:
    """Workers that are started again whenever they die, and a caller that triggers."""

    def __init__(
        self,
        report: Report,
        where: Path,
        nursery: Nursery,
        workers: int,
        options: dict[str, Any],
        settings: dict[str, Any] | None = None,
        url: str = "",
        each: Callable[[int], dict[str, Any]] = lambda _: {},
    ) -> None:
        self.settings = settings or {}
        self.each = each
        self.world = World(where, url=url)
        self.report, self.nursery = report, nursery
        self.options = {**OPTIONS, **options}
        self.workers: list[Child | None] = [None] * workers

    def trigger(self, orders: Sequence[dict[str, Any]]) -> None:
        """A process that only calls."""
        caller = self.nursery.spawn(
            {
                "role": "work",
                "folder": str(self.world.folder),
                "url": self.world.url,
                "active": len(orders) + 1,
                "last_key": len(orders),
                "orders": orders,
                "options": {**self.options, "worker": False},
                "triggers_only": True,
                **self.settings,
            }
        )
        assert caller.wait() == 0, caller.output()

    def run(self, patience: float = HANG) -> None:
        """Until nothing is left to do."""
        end = time.monotonic() + patience
        while time.monotonic() < end:
            self.start()
            if not self._left():
                return
            time.sleep(0.05)
        self.report.found("stuck", f"runs are left after {patience} s: {self._left()}")

    def start(self) -> None:
        """Every worker that does not live."""
        for i, worker in enumerate(self.workers):
            if worker is None or not worker.alive():
                self._restart(i, worker)

    def begun(self) -> int:
        """How many steps began so far."""
        self.world.new_lines()
        return self.world.begun.total()

    def _restart(self, i: int, dead: Child | None) -> None:
        if dead is not None:
            self.report.faults[f"died {dead.process.returncode}"] += 1
            self.nursery.bury(dead)
        self.workers[i] = self.nursery.spawn(
            {
                "role": "work",
                "folder": str(self.world.folder),
                "url": self.world.url,
                "options": self.options,
                **self.settings,
                **self.each(i),
            }
        )

    def _left(self) -> list[str]:
        now = self.world.look(dead=False)
        return [id for id, row in now.runs.items() if row["status"] in ("pending", "running")]

    def close(self) -> None:
        for worker in self.workers:
            if worker is not None:
                worker.kill()


def run(
    orders: Sequence[dict[str, Any]], workers: int = 2, **options: Any
) -> tuple[Report, list[dict[str, Any]], World]:
    """Do the orders; the report, and the rows in the order of the orders."""
    report = Report("harm", options={"workers": workers, **options})
    started = time.monotonic()
    with folder("harm") as where, Nursery() as nursery:
        fleet = Fleet(report, where, nursery, workers, options)
        fleet.trigger(orders)
        fleet.run()
        fleet.close()
        now = fleet.world.look()
        fleet.world.check_order(now)
        report.take(fleet.world)
        rows = [now.runs[fleet.world.acked[f"k{i}"]] for i in range(len(orders))]
    report.seconds = time.monotonic() - started
    return report, rows, fleet.world
