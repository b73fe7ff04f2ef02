"""Reporting harms no run, whatever is reported."""

from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest

from durably import Progress, Step


class Number:
    """As numpy's are: a number that is neither int nor float."""

    def __init__(self, value: float) -> None:
        self.value = value

    def __float__(self) -> float:
        return self.value


class Mute:
    def __str__(self) -> str:
        raise RuntimeError

    def __float__(self) -> float:
        raise RuntimeError


@pytest.mark.parametrize(
    ("reported", "kept"),
    [
        ((Decimal(1), Decimal(2)), Progress(1.0, 2.0)),
        ((Fraction(1, 2),), Progress(0.5)),
        ((Number(0.25), Number(1.0)), Progress(0.25, 1.0)),
        ((True, 2), Progress(1, 2)),
        ((2**53 + 1, 10**400), Progress(2.0**53, None)),
        ((1, float("inf")), Progress(1, None)),
        ((1, "2"), Progress(1, None)),
        ((1, 2, Path("/tmp/x")), Progress(1, 2, "/tmp/x")),
        ((1, 2, ValueError("why")), Progress(1, 2, "why")),
        ((1, 2, Mute()), Progress(1, 2, "<Mute whose str() raises>")),
        ((1, 2, "\0\ud800"), Progress(1, 2, "\\x00\\ud800")),
        (("ten", 20), Progress(0)),
        ((float("nan"), 20), Progress(0)),
        ((10**400, 1), Progress(0)),
        ((None,), Progress(0)),
        ((Mute(),), Progress(0)),
        (([1],), Progress(0)),
    ],
)
async def test_progress_is_what_can_be_told_of_it(make, reported, kept):
    durably = await make()

    @durably.job("report")
    async def report(step: Step) -> None:
        step.progress(0)
        step.progress(*reported)
        step.log.info(Mute())  # type: ignore[arg-type]

    done = await report.trigger_and_wait(timeout=20)
    assert done.progress == kept
    assert type(done.progress.current) is type(kept.current)
