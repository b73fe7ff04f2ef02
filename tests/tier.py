"""How much of a harness to run: ``quick`` by default, ``ci`` in ``make check``, ``soak`` by hand."""

import os

TIER = os.environ.get("DURABLY_TIER", "quick")


LEFT_TO_CI = {
    "examples/test_postgres_workers.py::test_(a_killed|a_page_outlives|nobody_else)": "kills workers for half a minute",
    "demo/test_demo.py::test_(an_interrupted|a_count_that)": "runs the demo again",
    "streams/test_crowd.py::test_t16_": "hundreds of readers",
    "http/test_wsgi_bodies.py::test_strangers_who_send_no_body": "waits for gunicorn",
    "simulation/test_planted_bugs.py::test_waking_without": "many simulated worlds",
    "crash/test_crowd.py::test_d9_": "waits for a long log",
    "store/test_postgres_load.py::test_an_idle_worker": "ten seconds of nothing",
    "fullstack/test_page.py::test_an_import_outlives": "a page and a server that is killed",
    "browser_mode/test_releases.py::test_a_page_that_loads_python": "boots several pages",
}
"""What the quick tier leaves out, by a regular expression for the test's id; each with the reason."""


def by_tier(*, quick: int, ci: int, soak: int) -> int:
    """The count for the tier that is running."""
    return {"quick": quick, "ci": ci, "soak": soak}[TIER]
