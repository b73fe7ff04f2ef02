"""How values look."""

from __future__ import annotations

from durably.cli.show import brief


def test_a_long_value_is_cut() -> None:
    assert brief(["x" * 100]).endswith("x…")
    assert len(brief(["x" * 100])) == 60
