"""T1: every statement that a process can die at, or that can fail, and what the next one finds."""

import pytest

from tests.tier import by_tier

from . import crash_points
from .scenarios import PROGRAMS

WITHOUT_A_WORKER = [name for name in PROGRAMS if name in crash_points.DIES_BY_ITSELF]
STRIDES = {
    "beating": 6,
    "chatty": 2,
    "chatty-sync": 4,
    "fail-retry": 2,
    "flaky": 4,
}  # much like others
QUICK = by_tier(quick=12, ci=1, soak=1)
FAILURES = by_tier(quick=8, ci=1, soak=1)


@pytest.mark.parametrize("scenario", [name for name in PROGRAMS if name not in WITHOUT_A_WORKER])
def test_death_at_each_statement(scenario: str) -> None:
    crash_points.run([scenario], errors=False, stride=QUICK * STRIDES.get(scenario, 1)).check()


@pytest.mark.parametrize("scenario", [name for name in PROGRAMS if name not in WITHOUT_A_WORKER])
def test_failure_of_each_statement(scenario: str) -> None:
    crash_points.run([scenario], deaths=False, stride=FAILURES).check()


def test_death_inside_the_job() -> None:
    """K5, K6, K9, K11: before a body, in it after its effect, behind its commit, behind the last."""
    crash_points.run(WITHOUT_A_WORKER).check()


@pytest.mark.parametrize(
    ("bug", "deaths"),
    [("replays_blindly", False), ("forgets_checkpoints", True), ("commits_late", True)],
)
def test_the_enumeration_finds_a_planted_bug(bug: str, deaths: bool) -> None:
    stride = 5 if deaths else 1
    report = crash_points.run(["async"], plant=bug, deaths=deaths, errors=not deaths, stride=stride)
    assert report.violations


@pytest.mark.soak
def test_every_death_and_every_failure() -> None:
    report = crash_points.run()
    report.check()
    assert all(report.extra["points"].values()), report.extra["points"]
