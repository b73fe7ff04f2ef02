"""``python -m tests.simulation --seeds 100000 --start 0``: the long tier, or one seed again."""

import argparse
import sys
import time

from .world import World


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation")
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--start", type=int, default=0)
    options = parser.parse_args()
    began, bodies, faults, seconds, bad = time.monotonic(), 0, 0, 0.0, 0
    for seed in range(options.start, options.start + options.seeds):
        report = World(seed).run()
        bodies, faults, seconds = (
            bodies + report.bodies,
            faults + report.faults,
            seconds + report.seconds,
        )
        if report.violations:
            bad += 1
            print(f"seed {seed}:", *report.violations[:5], sep="\n  ")
    took = time.monotonic() - began
    print(
        f"{options.seeds} seeds from {options.start}: {bad} with violations, {faults} faults, "
        f"{bodies} step bodies, {seconds / 3600:.1f} simulated hours in {took:.0f} s"
    )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
