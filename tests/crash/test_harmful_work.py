"""P1-P4: work that kills, blocks or starves its worker."""

import json
from typing import Any

import pytest

from . import harm


def error_type(row: dict[str, Any]) -> str | None:
    return json.loads(row["error"])["type"] if row["error"] else None


@pytest.mark.parametrize("how", ["exit", "segv"])
def test_p1_a_poison_run_fails_alone(how: str) -> None:
    """It is quarantined; the runs that were executed beside it, again and again, are not."""
    orders = [{"die_at": 1, "how": how}, *[{"steps": 3}] * 60]
    report, rows, world = harm.run(orders, workers=2, max_recoveries=3)
    report.check()
    poison, *good = rows
    assert poison["status"] == "failed"
    assert error_type(poison) == "poisoned"
    assert world.begun[poison["id"], "1"] == 5  # step 0 was committed in between
    assert {row["status"] for row in good} == {"completed"}


def test_p1_poison_in_the_first_step_of_one_worker() -> None:
    """All that is claimed with it dies with it, before any step of any of them was committed."""
    orders = [{"die_at": 0}, *[{"steps": 3, "ms": 50}] * 30]
    report, rows, _ = harm.run(orders, workers=1, max_recoveries=2)
    report.check()
    assert error_type(rows[0]) == "poisoned"
    assert {row["status"] for row in rows[1:]} == {"completed"}


def test_p3_a_blocked_loop_keeps_its_lease() -> None:
    """Four leases long, with another worker waiting: one body, no takeover."""
    report, rows, world = harm.run([{"block_at": 2, "block": 4.0}], workers=2)
    report.check()
    assert rows[0]["status"] == "completed"
    assert rows[0]["generation"] == 1
    assert world.begun[rows[0]["id"], "2"] == 1


def test_p4_a_held_gil_may_lose_the_lease_but_never_the_run() -> None:
    """No thread can renew meanwhile. The lease is doubled until the step fits into it."""
    report, rows, _ = harm.run([{"block_at": 2, "gil": 2.5}], workers=2)
    report.check()
    assert rows[0]["status"] == "completed"
