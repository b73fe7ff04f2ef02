"""T9 on PostgreSQL: connections that are ended and a server that restarts, under many processes."""

import pytest

from tests.tier import TIER, by_tier

from . import outages


def test_sixteen_processes_whose_server_restarts() -> None:
    """Fewer, in the shorter tiers."""
    outages.run(
        processes=by_tier(quick=3, ci=8, soak=16),
        runs=by_tier(quick=60, ci=800, soak=16_000),
        restarts=by_tier(quick=1, ci=3, soak=3),
        seed=7,
    ).check()


@pytest.mark.skipif(TIER == "quick", reason="half a minute: the ci tier's")
def test_outages_find_a_planted_bug() -> None:
    """More runs than can be done before a connection is ended while something is written."""
    report = outages.run(processes=2, runs=3_000, restarts=3, plant="fails_for_trouble")
    assert set(report.wrong) - {"lost", "stuck"}  # which are left in any case


@pytest.mark.soak
def test_sixteen_processes_for_long() -> None:
    outages.run(processes=16, runs=16_000, restarts=10, seed=9).check()
