"""T11: the disk fills up under a worker, and after a while there is space again.

python -m tests.crash.full_disk --levels 20 --seed 7
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .harness import Child, Nursery, Report, folder, main, until
from .oracle import World

SIZE = 12_000_000  # bytes
ORDERS = [{"steps": 40, "ms": 8, "weight": 6000}, {"steps": 20, "chat": True, "weight": 500}]


class CannotMountError(Exception):
    """This machine does not let us mount a small disk."""


@contextmanager
def small_disk(where: Path) -> Iterator[Path]:
    """A file system of ``SIZE`` bytes."""
    point = where / "disk"
    point.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(point)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise CannotMountError("there is no mount") from None
    if done.returncode:
        raise CannotMountError(done.stderr)
    try:
        yield point
    finally:
        subprocess.run(["umount", "-l", str(point)], check=True)


def fill(path: Path) -> None:
    """Take all the space that is left."""
    with path.open("ab", buffering=0) as file:
        for size in (65536, 4096, 512, 1):
            try:
                while True:
                    os.write(file.fileno(), b"\0" * size)
            except OSError:
                continue


def config(world: World, **more: Any) -> dict[str, Any]:
    """A worker's orders."""
    return {
        "role": "work",
        "folder": str(world.folder),
        "effects": str(world.apart) if world.apart else None,
        "active": 6,
        "last_key": 6,
        "until_done": True,
        "orders": ORDERS,
        "keep_logs": True,
        "options": {
            "max_concurrent_runs": 3,
            "max_recoveries": 0,
            "polling_interval": 0.1,
            "heartbeat_interval": 0.2,
            "stale_threshold": 2.0,
        },
        **more,
    }


def level(report: Report, nursery: Nursery, steps: int) -> None:
    """Fill the disk once so many steps began; give the space back later."""
    with folder("full") as where, small_disk(where) as disk:
        world = World(disk, apart=where / "effects")
        worker = nursery.spawn(config(world))

        def has_begun() -> bool:
            world.new_lines()
            return world.begun.total() >= steps or not worker.alive()

        until(has_begun, "no step begins")
        filler = disk / "filler"
        fill(filler)
        report.faults["disk_full"] += 1
        _call(report, nursery, world)
        fill(filler)
        time.sleep(2.5)  # longer than a lease
        filler.unlink()
        since = time.monotonic()
        _end(report, nursery, world, worker)
        report.recovery.append(time.monotonic() - since)


def _call(report: Report, nursery: Nursery, world: World) -> None:
    """A caller outside is told, rather than left to wait."""
    case = {"folder": str(world.folder), "effects": str(world.apart)}
    settings = {"role": "drive", "scenario": "call-until-refused", "patience": 0.5, "cases": [case]}
    caller = nursery.spawn({**settings, "options": {"worker": False}})
    if code := caller.wait():
        report.found("died", f"exit {code}: {caller.output()[-2000:]}")
    nursery.bury(caller)
    refused = [line for line in world.new_lines() if line.kind == "unavailable"]
    report.faults["calls_refused"] += len(refused)
    if not refused:
        report.found("hung", "no call was refused")


def _end(report: Report, nursery: Nursery, world: World, worker: Child) -> None:
    if code := worker.wait():
        report.found("died", f"exit {code}: {worker.output()[-3000:]}")
    nursery.bury(worker)
    now = world.look()
    world.check_order(now)
    world.check_completed(now)
    if world.repeats:
        report.found("duplicated", f"{world.repeats} bodies ran twice without a crash")
    report.take(world)


def limited(report: Report, nursery: Nursery, limit: int) -> None:
    """No file of the worker's may grow beyond ``limit``: writes fail as I/O errors, not as full."""
    with folder("limit") as where:
        world = World(where)
        worker = nursery.spawn(config(world, file_limit=limit, limit_for=3.0))
        report.faults["file_too_large"] += 1
        _end(report, nursery, world, worker)


def run(levels: int = 5, limits: int = 2, seed: int = 7) -> Report:
    """The disk is full at different moments."""
    report = Report("full_disk", seed, {"levels": levels, "limits": limits, "size": SIZE})
    chance = random.Random(seed)
    started = time.monotonic()
    with Nursery() as nursery:
        for _ in range(levels):
            level(report, nursery, chance.randint(0, 60))
        for _ in range(limits):
            limited(report, nursery, chance.randint(60_000, 400_000))
    report.seconds = time.monotonic() - started
    return report


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--levels", type=int, default=20)
    parser.add_argument("--limits", type=int, default=10)
    parser.add_argument("--seed", type=int, default=7)
    main(run, parser)
