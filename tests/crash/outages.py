"""T9 on PostgreSQL: many processes, and a server that drops their connections and restarts under them.

python -m tests.crash.outages --processes 16 --runs 3200 --restarts 3 --seed 7
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import asyncpg

from tests import postgres

from .crowd import Crowd
from .harness import HANG, Nursery, Report, folder, main
from .oracle import World

PAUSE = 0.2  # seconds from one terminated backend to the next
LEASES = {
    "heartbeat_interval": 5.0,
    "stale_threshold": 60.0,
}  # longer than any outage: nobody takes over
_TERMINATE = """
select pg_terminate_backend(pid) from pg_stat_activity
 where application_name = 'durably' and pid <> pg_backend_pid() order by random() limit $1
"""


class Server:
    """A PostgreSQL server, and what an operator does to it."""

    def __init__(self, report: Report) -> None:
        self._server = postgres.Server()
        self._report = report
        self.url = self._server.url
        self._runner = asyncio.Runner()

    def terminate(self, count: int) -> None:
        """End some connections."""
        self._report.faults["terminated"] += self._runner.run(self._terminate(count))

    async def _terminate(self, count: int) -> int:
        connection: Any = await asyncpg.connect(self.url)
        try:
            return len(await connection.fetch(_TERMINATE, count))
        finally:
            await connection.close()

    def restart(self) -> None:
        """At once, as after a crash."""
        self._server.restart()
        self._report.faults["restarted"] += 1

    def close(self) -> None:
        self._runner.close()
        self._server.close()


@contextmanager
def server_of(report: Report) -> Iterator[Server]:
    """A server for the length of a block."""
    server = Server(report)
    try:
        yield server
    finally:
        server.close()


def run(
    processes: int = 16, runs: int = 3200, restarts: int = 3, seed: int = 7, plant: str | None = None
) -> Report:  # fmt: skip
    """All processes together, until every run is over. None of them may end, and no body run twice."""
    options = {"processes": processes, "runs": runs, "restarts": restarts}
    report = Report("outages", seed, options)
    chance = random.Random(seed)
    started = time.monotonic()
    with folder("outages") as where, server_of(report) as server, Nursery(ahead=3) as nursery:
        world = World(where, url=server.url)
        crowd = Crowd(report, world, nursery, processes, runs, plant, **LEASES)
        moments = [crowd.wanted * (n + 1) // (restarts + 1) for n in range(restarts)]
        end = time.monotonic() + (
            HANG / 2 if plant else 5 * HANG
        )  # a bug may also let all stand still
        while len(crowd.world.endings) < crowd.wanted and time.monotonic() < end:
            time.sleep(chance.uniform(0, 2 * PAUSE))
            server.terminate(chance.choice([1, 1, 1, 5]))
            crowd.world.new_lines()
            crowd.check_alive()
            if plant and _has_failed(crowd):
                report.found("failed", "a run, for trouble of the storage")
            if plant and report.violations:
                break
            if moments and len(crowd.world.endings) >= moments[0]:
                moments.pop(0)
                server.restart()
                crowd.world.look(dead=False)
        while not crowd.is_done() and not plant:
            if time.monotonic() > end:
                report.found("stuck", "runs are left")
                break
            time.sleep(0.1)
        crowd.close()
        if (
            restarts and not report.faults["restarted"]
        ):  # the last ones come too late where runs are quick
            report.found("stuck", "no restart happened before the runs were over")
        if report.repeated_effects:
            report.found("duplicated", f"{report.repeated_effects} bodies, though nobody died")
    report.seconds = time.monotonic() - started
    return report


def _has_failed(crowd: Crowd) -> bool:
    now = crowd.world.look(dead=False)
    return any(row["status"] == "failed" for row in now.runs.values())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=16)
    parser.add_argument("--runs", type=int, default=3200)
    parser.add_argument("--restarts", type=int, default=3)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--plant")
    main(run, parser)
