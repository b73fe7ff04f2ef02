"""How much of a harness to run: ``quick`` by default, ``ci`` in ``make check``, ``soak`` by hand."""

import os

TIER = os.environ.get("DURABLY_TIER", "quick")


def by_tier(*, quick: int, ci: int, soak: int) -> int:
    """The count for the tier that is running."""
    return {"quick": quick, "ci": ci, "soak": soak}[TIER]
