"""T9: many processes on one file."""

import pytest

from tests.tier import by_tier

from . import crowd


def test_eight_processes_with_kills() -> None:
    runs, kills = by_tier(quick=120, ci=500, soak=4000), by_tier(quick=8, ci=40, soak=300)
    crowd.run(processes=8, runs=runs, kills=kills, seed=7).check()


@pytest.mark.parametrize("processes", [2, 8])
def test_k14_a_fresh_file_is_opened_by_many_at_once(processes: int) -> None:
    crowd.race(processes, rounds=by_tier(quick=1, ci=4, soak=50)).check()


def test_d9_the_log_stays_short_though_the_checkpointer_is_idle() -> None:
    crowd.idle_checkpointer(runs=1500).check()


@pytest.mark.soak
def test_eight_processes_for_long() -> None:
    crowd.run(processes=8, runs=4000, kills=300, seed=9).check()
