"""T11: a full disk delays runs and fails none."""

import pytest

from tests.tier import by_tier

from . import full_disk
from .harness import Nursery, Report


def test_d11_a_full_disk_delays_runs_and_refuses_calls() -> None:
    try:
        full_disk.run(levels=by_tier(quick=1, ci=4, soak=50), limits=0, seed=7).check()
    except full_disk.CannotMountError as error:
        pytest.skip(f"no small disk can be mounted here: {error}")


def test_d11_a_file_that_may_not_grow() -> None:
    full_disk.run(levels=0, limits=by_tier(quick=1, ci=3, soak=30), seed=8).check()


def test_no_harness_leaves_a_child_behind() -> None:
    report = Report("nursery")
    with Nursery(ahead=3) as nursery:
        children = [nursery.take(), nursery.take()]
        everybody = list(nursery._all)
    assert children[0] in everybody
    assert not any(child.alive() for child in everybody)
    report.check()
