"""T10: cut connections, of which nobody knows whether their last words were heard."""

from tests.tier import by_tier

from . import cuts


def test_cuts_before_and_after_any_message() -> None:
    report = cuts.run(cuts=by_tier(quick=12, ci=60, soak=10_000), seed=7)
    report.check()
    assert report.faults["after COMMIT"]


def test_cuts_find_a_planted_bug() -> None:
    assert cuts.run(cuts=200, seed=7, plant="replays_blindly").violations
