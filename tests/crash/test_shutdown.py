"""T14, P8: SIGTERM hands back, counts nothing, and the next worker goes on at once."""

import pytest

from tests.tier import by_tier

from . import shutdown


def test_p8_sigterm_at_random_moments() -> None:
    shutdown.run(stops=by_tier(quick=6, ci=60, soak=1000), seed=7).check()


@pytest.mark.soak
def test_a_thousand_shutdowns() -> None:
    shutdown.run(stops=1000, seed=9).check()
