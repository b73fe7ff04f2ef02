"""The suites that run inside Pyodide, and the tests in them that cannot, each with the reason."""

SUITES = ["tests/store/test_conformance.py", "tests/engine", "tests/reference"]

FILES = {
    "tests/engine/test_values_on_both.py": "no server can be reached, and no Hypothesis loaded"
}
"""Files that are not even read, each with the reason."""

_THREADS = "there are no threads"
_PROCESSES = "there are no processes"
_PLAIN_JOBS = "a plain job waits for its steps, in a thread or where there is JSPI"
_LOOPS = "it makes an event loop of its own, on sockets"
_READER = "there is no thread that reads, whose looks it counts"
_FILES = "it looks for other suites' tests in the checkout"
_SIGNALS = "nobody sends signals"

LEFT_OUT = {
    r"\[postgres\b|/test_postgres_\w+\.py::": "no server can be reached",
    r"test_conformance\.py::.*\[(file|memory)\b": _THREADS,
    r"test_feed_interleaved\.py::": _LOOPS,
    r"engine/test_cancelled_commits\.py::test_a_transaction_": _THREADS,
    r"engine/test_stop\.py::test_a_plain_job_that_is_stopped": _THREADS,
    r"engine/test_worker_errors\.py::test_a_hold_": _THREADS,
    r"engine/test_bell\.py::": "there are no sockets of files",
    r"engine/test_(holds|threads)\.py::": _THREADS,
    r"engine/test_lapsed_leases\.py::": "another writer on the file is a process or a thread",
    r"test_definitions\.py::test_a_job_(is_plain_however|that_returns_what_it_should)": _PLAIN_JOBS,
    r"test_definitions\.py::test_a_step_of_a_plain_job_that_is_used_on_the_loop": _PLAIN_JOBS,
    r"test_misuse\.py::test_(a_blocking|a_plain_job_that_waits)": _THREADS,
    r"test_misuse\.py::test_(keyword_arguments_of|a_step_that_is_given)": _PLAIN_JOBS,
    r"engine/test_forks\.py::": _PROCESSES,
    r"test_a_failure_that_was_handled_.*\bTrue\b": _PLAIN_JOBS,
    r"test_feed_looks\.py::": _READER,
    r"engine/test_logs\.py::test_(records_of_|cancelling_a_stop_)": _THREADS,
    r"engine/test_logs\.py::test_a_run_of_a_dead_worker_": "its heartbeat is no thread",
    r"engine/test_logs\.py::test_where_no_logging_is_set_up_": _PROCESSES,
    r"::test_p6_": _THREADS,
    r"::test_p7_what_no_exception_is.*\bsync job\b": _PLAIN_JOBS,
    r"::test_p7_a_keyboard_interrupt_": _SIGNALS,
    r"engine/test_sync\.py::test_(?!it_is_always)": _THREADS,
    r"engine/test_stop\.py::test_a_step_that_fails_while_the_instance_stops": _THREADS,
    r"::test_a_plain_job_has_it_too": _PLAIN_JOBS,
    r"::test_blocking_callers_have_it_too": _THREADS,
    r"::test_rows_about_http_and_react_name_a_test\[": _FILES,
    r"::test_t003_": _THREADS,
    r"::test_t116_": _THREADS,
    r"::test_t015_": _PLAIN_JOBS,
    r"::test_t038_": _THREADS,
    r"::test_t(097|098|099|100|101|103|109)_": _PROCESSES,
}
"""By a regular expression that is searched for in the test's id."""
