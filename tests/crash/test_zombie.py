"""T3: a worker that sleeps beyond its lease finds every door closed, and goes on with other work."""

import pytest

from tests.tier import by_tier

from . import zombie
from .place import POSTGRES, SQLITE


def test_zombies() -> None:
    report = zombie.run(cycles=by_tier(quick=3, ci=20, soak=300), seed=7)
    report.check()
    assert report.recovery, "no run was taken over"


def test_zombies_on_a_server() -> None:
    report = zombie.run(cycles=by_tier(quick=2, ci=15, soak=300), seed=8, database=POSTGRES)
    report.check()
    assert report.recovery, "no run was taken over"


@pytest.mark.parametrize("database", [SQLITE, POSTGRES])
def test_the_zombie_loop_finds_a_planted_bug(database: str) -> None:
    assert zombie.run(cycles=30, seed=7, plant="no_fence", database=database).violations


@pytest.mark.soak
def test_a_thousand_zombies() -> None:
    zombie.run(cycles=1000, seed=7).check()
