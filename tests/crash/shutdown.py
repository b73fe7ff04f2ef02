"""T14: SIGTERM at random moments; the worker hands back, the next one goes on at once.

python -m tests.crash.shutdown --stops 200 --seed 7
"""

from __future__ import annotations

import argparse
import random
import signal
import time
from typing import Any

from .harness import Nursery, Report, folder, main, until
from .oracle import World

LEASE = 3600.0  # seconds: whoever waited for a lease to run out would never be seen again


def run(stops: int = 100, seed: int = 7) -> Report:
    """Start, stop, and so on; in the end, complete."""
    report = Report("shutdown", seed, {"stops": stops})
    chance = random.Random(seed)
    started = time.monotonic()
    with folder("stop") as where, Nursery() as nursery:
        world = World(where)

        def config(**more: Any) -> dict[str, Any]:
            return {
                "role": "work",
                "folder": str(where),
                "next_key": len(world.acked),
                "active": 3,
                "orders": [{"steps": 12, "ms": 40}, {"steps": 6, "ms": 200}, {"steps": 5}],
                "grace": chance.choice([0.0, 0.05, 1.0]),
                "options": {
                    "max_concurrent_runs": 2,
                    "max_recoveries": 0,  # a single hand-back that counted would fail the run
                    "heartbeat_interval": 5.0,
                    "stale_threshold": LEASE,
                },
                **more,
            }

        for _ in range(stops):
            child = nursery.spawn(config())
            begun = world.begun.total() + chance.randint(0, 3)
            since = time.monotonic()

            def has_begun(wanted: int = begun) -> bool:
                world.new_lines()
                return world.begun.total() > wanted

            until(has_begun, "no step begins")
            report.recovery.append(time.monotonic() - since)
            time.sleep(chance.uniform(0, 0.06))
            child.send(signal.SIGTERM)
            if code := child.wait():
                report.found("died", f"exit {code}: {child.output()[-2000:]}")
            nursery.bury(child)
            report.faults["SIGTERM"] += 1
            now = world.look()
            world.check_order(now)
            held = [id for id, row in now.runs.items() if row["status"] == "running"]
            if held:
                report.found("held", f"{held} were not handed back")
            counted = [id for id, row in now.runs.items() if row["recoveries"]]
            if counted:
                report.found("counted", f"hand-backs of {counted} were counted")
        last = nursery.spawn(config(active=0, until_done=True))
        if code := last.wait():
            report.found("died", f"exit {code}: {last.output()[-2000:]}")
        now = world.look()
        world.check_order(now)
        world.check_completed(now)
        report.take(world)
    report.seconds = time.monotonic() - started
    return report


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stops", type=int, default=200)
    parser.add_argument("--seed", type=int, default=7)
    main(run, parser)
