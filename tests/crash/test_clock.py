"""T12: the wall clock of a machine is set forward and back under several workers."""

import time
from pathlib import Path
from typing import Any

import pytest

from . import harm
from .harness import Nursery, Report, folder, until
from .place import POSTGRES, new_database

HOUR = 3_600_000
CLOCK = {"jumps": "clock"}


class Clock:
    """The wall clock of the processes in a folder that follow it."""

    def __init__(self, where: Path) -> None:
        self._file = where / "clock"

    def jump(self, milliseconds: int) -> None:
        new = self._file.with_name("clock.new")
        new.write_text(str(milliseconds))
        new.rename(self._file)


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
def test_t12_a_jump_steals_nothing_from_live_workers(jump: int) -> None:
    """Two workers in the middle of their runs; the clock jumps; each finishes what it holds."""
    report = Report("clock", options={"jump": jump})
    with folder("clock") as where, Nursery() as nursery:
        clock = Clock(where)
        clock.jump(0)
        options: dict[str, Any] = {"heartbeat_interval": 0.3, "stale_threshold": 2.0}
        fleet = harm.Fleet(report, where, nursery, 2, {**options, "max_concurrent_runs": 2}, CLOCK)
        fleet.trigger([{"steps": 6, "ms": 500}] * 4)
        fleet.start()
        until(lambda: fleet.begun() >= 4, "no steps begin")
        time.sleep(0.5)
        clock.jump(jump)
        fleet.run()
        fleet.close()
        now = fleet.world.look()
        fleet.world.check_order(now)
        fleet.world.check_completed(now)
        report.take(fleet.world)
        assert {row["generation"] for row in now.runs.values()} == {1}
    assert report.repeated_effects == 0
    report.check()


def test_t12_nobody_waits_for_the_clock_to_come_back() -> None:
    """Runs that were queued, and runs that died, before the clock was set back an hour."""
    report = Report("clock", options={"jump": -HOUR})
    with folder("clock") as where, Nursery() as nursery:
        clock = Clock(where)
        clock.jump(0)
        fleet = harm.Fleet(report, where, nursery, 1, {"max_concurrent_runs": 2}, CLOCK)
        fleet.trigger([{"steps": 4, "ms": 300}] * 5)
        fleet.start()
        until(lambda: fleet.begun() >= 2, "no steps begin")
        fleet.close()
        report.faults["SIGKILL"] += 1
        clock.jump(-HOUR)
        fleet.run()
        fleet.close()
        now = fleet.world.look()
        fleet.world.check_order(now)
        fleet.world.check_completed(now)
        report.take(fleet.world)
    report.check()


JUMPS = [45_000, -60_000, HOUR, -HOUR]


def test_t12_on_a_server_nobody_asks_the_clock_of_a_host() -> None:
    """Two workers; the clock of one of them is wrong all the time, and always differently."""
    report = Report("clock", options={"jumps": JUMPS, "database": POSTGRES})
    with (
        folder("clock") as where, new_database(POSTGRES) as url, Nursery() as nursery,
    ):  # fmt: skip
        clock = Clock(where)
        clock.jump(0)
        options = {"heartbeat_interval": 0.3, "stale_threshold": 2.0, "max_concurrent_runs": 2}
        fleet = harm.Fleet(
            report, where, nursery, 2, options, url=url, each=lambda i: CLOCK if i else {}
        )
        fleet.trigger([{"steps": 6, "ms": 500}] * 10)
        fleet.start()
        until(lambda: fleet.begun() >= 4, "no steps begin")
        for jump in JUMPS:
            clock.jump(jump)
            time.sleep(1)
        fleet.run()
        fleet.close()
        now = fleet.world.look()
        fleet.world.check_order(now)
        fleet.world.check_completed(now)
        stolen = [id for id, row in now.runs.items() if row["generation"] > 1]
        if stolen:
            report.found("stolen", f"{stolen} were taken from a worker that lives")
        report.take(fleet.world)
        fleet.world.close()
    report.check()
