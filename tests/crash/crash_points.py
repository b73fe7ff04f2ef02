"""T1: a process dies, or its database fails, before and after every single statement.

python -m tests.crash.crash_points --scenario async --scenario keyed
"""

from __future__ import annotations

import argparse
import re
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .harness import Nursery, Report, folder, main
from .oracle import World
from .scenarios import PROGRAMS

OPTIONS = {
    "polling_interval": 0.05,
    "heartbeat_interval": 1.0,
    "stale_threshold": 2.0,
    "max_concurrent_runs": 3,
}
SETTINGS: dict[str, dict[str, Any]] = {
    "chatty": {"keep_logs": True},
    "chatty-sync": {"keep_logs": True},
    "beating": {"options": {**OPTIONS, "heartbeat_interval": 0.004}},
}
DIES_BY_ITSELF = {"before-step", "in-body", "in-sync-body", "behind-step", "behind-last"}
REPEATS = {"flaky", "cancel-retry", "hand-back", "fail-retry"}
DEATHS = (137, -9)


@dataclass
class Case:
    """One folder, one fault."""

    world: World
    fault: dict[str, Any] | None
    reader: bool = False

    def config(self, *, faulty: bool = True) -> dict[str, Any]:
        fault = self.fault if faulty else None
        return {"folder": str(self.world.folder), "fault": fault, "reader": self.reader}


class Enumeration:
    """All faults of one scenario."""

    def __init__(
        self, scenario: str, where: Path, nursery: Nursery, plant: str | None, stride: int
    ) -> None:
        self.stride = stride
        self.scenario, self.where, self.nursery, self.plant = scenario, where, nursery, plant
        self.report = Report("crash_points", options={"scenario": scenario})
        self.points: Counter[str] = Counter()
        self._number = 0

    def case(self, fault: dict[str, Any] | None, *, reader: bool = False) -> Case:
        self._number += 1
        place = self.where / str(self._number)
        place.mkdir()
        return Case(World(place), fault, reader)

    def config(self, cases: Iterable[Case], *, faulty: bool = True) -> dict[str, Any]:
        return {
            "role": "drive",
            "scenario": self.scenario,
            "options": OPTIONS,
            "plant": self.plant,
            **SETTINGS.get(self.scenario, {}),
            "cases": [case.config(faulty=faulty) for case in cases],
        }

    # -- what there is to break

    def trace(self, *, reader: bool) -> list[str]:
        """The statements of an undisturbed run."""
        case = self.case(None, reader=reader)
        self.play([case])
        if self.scenario in DIES_BY_ITSELF:
            self.play([case])
        self.judge(case)
        return next(line.words for line in case.world.lines if line.kind == "labels")

    def play(self, cases: Sequence[Case], *, faulty: bool = True, may_die: bool = False) -> int:
        child = self.nursery.spawn(self.config(cases, faulty=faulty))
        code = child.wait(60.0 + 10.0 * len(cases))
        may_die = may_die or self.scenario in DIES_BY_ITSELF
        if code and not (may_die and code in DEATHS):
            self.report.found("died", f"exit {code}: {child.output()[-2000:]}")
        if "locked" in (output := child.output()) and "injected" not in output:
            self.report.found("locked", output[-2000:])
        self.nursery.bury(child)
        return code

    def deaths(self) -> None:
        """Die before each statement, and after each commit, until one is never reached."""
        labels = self.trace(reader=False)
        faults = [
            {"at": at, "what": ("kill", "exit")[at % 2]} for at in range(1, len(labels) + 3)
        ] + [
            {"at": at, "what": ("exit", "kill")[at % 2], "after": True}
            for at, label in enumerate(labels, 1)
            if label.startswith("commit")
        ]
        cases = [self.case(fault) for fault in faults]

        def strike(case: Case) -> None:
            if self.play([case], may_die=True):
                self.inspect(case)

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(strike, cases[:: self.stride]))
        cases = cases[:: self.stride]
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda half: self.play(half, faulty=False), (cases[::2], cases[1::2])))
        for case in cases:
            self.judge(case)

    def self_inflicted(self) -> None:
        """The scenarios in which the job itself kills the process."""
        case = self.case(None)
        if self.play([case]) not in DEATHS:
            self.report.found("died", "it did not die")
        self.points[f"{self.scenario}"] += 1
        self.report.faults[self.scenario] += 1
        self.inspect(case)
        self.play([case])
        self.judge(case)

    def errors(self) -> None:
        """Fail before each statement, and after each commit, in all the ways that pass."""
        labels = self.trace(reader=False)
        kinds = ("full", "ioerr", "busy")
        cases = [
            self.case({"at": at, "what": kinds[at % 3], "times": 3 if at % 4 == 0 else 1})
            for at in range(1, len(labels) + 2)
        ] + [
            self.case({"at": at, "what": kinds[at % 2], "after": True})
            for at, label in enumerate(labels, 1)
            if label.startswith("commit")
        ]
        reads = self.trace(reader=True)
        cases += [
            self.case({"at": at, "what": kinds[at % 3], "times": 2}, reader=True)
            for at in range(1, len(reads) + 1)
        ]
        cases = cases[:: self.stride]
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(self.play, (cases[::2], cases[1::2])))
        for case in cases:
            self.judge(case)
            if case.world.repeats and self.scenario not in REPEATS:
                self.report.found("duplicated", f"{case.fault}: a body ran twice without a crash")

    # -- what came of it

    def inspect(self, case: Case) -> None:
        """After a death, before the restart."""
        now = case.world.look()
        case.world.check_order(now)

    def judge(self, case: Case) -> None:
        """At the end: all promises were kept."""
        world = case.world
        now = world.look()
        world.check_order(now)
        world.check_completed(now)
        world.check_keys(now)
        if not world.acked:
            world.found("lost", "nothing was acknowledged")
        for line in world.lines:
            if line.kind == "took":
                self.report.recovery.append(float(line.words[0]))
            if line.kind == "fault":
                what, when, label, _ = line.words
                self.report.faults[what] += 1
                self.points[f"{when} {re.sub('[0-9]+', '', label)}"] += 1
        if world.wrong:
            self.report.found("case", f"{self.scenario} {case.fault}")
        self.report.take(world)


POINTS = {
    "K1": r"before (enqueue|append_first|commit:append_first)",
    "K2": r"after commit:append_first",
    "K3": r"before (due|claim|park|key_holders|evict)",
    "K4": r"after commit:(append|park|due)",
    "K5": r"before-step",
    "K6": r"in-(sync-)?body",
    "K7": r"before begin",
    "K8": r"before (record|commit:record)",
    "K9": r"(after commit:record|behind-step)",
    "K10": r"after commit:record",
    "K11": r"behind-last",
    "K12": r"before (complete|fail)",
    "K13": r"before (renew|commit:renew)",
    "K14": r"before (cancel|retry|purgeable|delete_run|forget_journal|create_table|insert_into)",
}


def run(
    scenario: Sequence[str] | None = None, plant: str | None = None, deaths: bool = True,
    errors: bool = True, stride: int = 1,
) -> Report:  # fmt: skip
    """The enumeration of some scenarios, or of all."""
    names = list(scenario or PROGRAMS)
    total = Report("crash_points", options={"scenarios": names})
    points: Counter[str] = Counter()
    started = time.monotonic()

    for name in names:
        with folder("crash") as where, Nursery() as nursery:
            one = Enumeration(name, where, nursery, plant, stride)
            if name in DIES_BY_ITSELF:
                one.self_inflicted()
            elif deaths:
                one.deaths()
            if errors and name not in DIES_BY_ITSELF:
                one.errors()
        total.recovery += one.report.recovery
        total.runs += one.report.runs
        total.steps += one.report.steps
        total.repeated_effects += one.report.repeated_effects
        total.faults.update(one.report.faults)
        total.wrong.update(one.report.wrong)
        total.samples += one.report.samples
        points.update(one.points)
    total.seconds = time.monotonic() - started
    total.extra = {
        "cases": sum(total.faults.values()),
        "points": {
            name: sum(count for point, count in points.items() if re.fullmatch(pattern, point))
            for name, pattern in POINTS.items()
        },
    }
    return total


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenario", action="append", choices=list(PROGRAMS))
    parser.add_argument("--plant")
    main(run, parser)
