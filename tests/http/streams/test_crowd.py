"""T16: a crowd listens, in all its parts; and the harness fails when a bug is planted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.http.streams.crowd import Crowd, Options
from tests.http.streams.plants import PLANTS
from tests.tier import by_tier

LARGE = Options(
    subscribers=by_tier(quick=200, ci=1_000, soak=2_000),
    runs=by_tier(quick=20, ci=50, soak=50),
    seconds=by_tier(quick=2, ci=15, soak=3_600),
    slow=by_tier(quick=20, ci=50, soak=50),
    cycles=by_tier(quick=100, ci=500, soak=5_000),
)
SMALL = Options(subscribers=40, runs=10, seconds=1, slow=0, cycles=20, patience=2.0)
SHOWN_BY = {
    "who comes back is told one event less": ("missed", {"restarts": 1}),
    "who comes back is told one event twice": ("twice_or_disordered", {"restarts": 1}),
    "a stream does not release its source": ("left", {}),
    "the throttle drops the last progress": ("missed_progress", {}),
}
BUGS = list(SHOWN_BY)[: by_tier(quick=1, ci=4, soak=4)]


async def test_t16_a_crowd_is_told_everything_and_leaves_nothing(tmp_path: Path) -> None:
    report = await Crowd(tmp_path, LARGE).run()
    print(report)
    assert report.violations == {}
    assert report.delivered > report.events


async def test_t16_a_crowd_comes_back_to_a_server_that_was_killed(tmp_path: Path) -> None:
    options = replace(LARGE, slow=0, cycles=0, restarts=by_tier(quick=1, ci=2, soak=50))
    report = await Crowd(tmp_path, options).run()
    print(report)
    assert report.violations == {}
    assert report.reconnects >= LARGE.subscribers


@pytest.mark.parametrize("bug", BUGS)
async def test_a_planted_bug_is_found(tmp_path: Path, bug: str) -> None:
    what, options = SHOWN_BY[bug]
    report = await Crowd(tmp_path, replace(SMALL, plant=bug, **options)).run()
    print(report)
    assert what in report.violations


def test_every_plant_is_tried() -> None:
    assert set(SHOWN_BY) == set(PLANTS)
