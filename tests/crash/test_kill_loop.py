"""T2: what was acknowledged survives any number of SIGKILLs at any time."""

import pytest

from tests.tier import by_tier

from . import kill_loop
from .place import POSTGRES


def test_kill_loop_one_run_at_a_time() -> None:
    report = kill_loop.run(kills=by_tier(quick=15, ci=200, soak=2000), seed=7, concurrency=1)
    report.check()
    assert report.repeated_effects <= report.faults["SIGKILL"]


def test_kill_loop_four_runs_at_a_time() -> None:
    kill_loop.run(kills=by_tier(quick=10, ci=100, soak=1000), seed=8, concurrency=4).check()


def test_kill_loop_on_a_server() -> None:
    kills = by_tier(quick=6, ci=25, soak=1000)
    report = kill_loop.run(kills=kills, seed=9, concurrency=2, database=POSTGRES)
    report.check()


@pytest.mark.parametrize("bug", ["forgets_checkpoints", "commits_late", "loses_triggers"])
def test_the_kill_loop_finds_a_planted_bug(bug: str) -> None:
    assert kill_loop.run(kills=40, seed=7, plant=bug).violations


@pytest.mark.soak
def test_kill_loop_a_thousand_times() -> None:
    kill_loop.run(kills=1000, seed=7).check()
