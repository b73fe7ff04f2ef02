"""Every number that a user gives: checked, and refused with its name, its value and what is allowed."""

import math
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction

import pytest

from durably import Durably, Retry, Step, errors
from durably.http import Limits
from durably.jobs.filter import make_filter
from durably.options import MAX_DURATION, duration, factor, flag, positive, text, whole

NO_DURATION = ["soon", "1", b"1", None, True, math.nan, math.inf, -math.inf, -1, timedelta(-1), 1e300, 10**400, timedelta.max, [], 1j]  # fmt: skip
NO_NUMBER = ["1", 1.0, 1.5, None, True, math.nan, math.inf, -1, 2**53, Decimal(1), [], 1j]


class Index:
    """As numpy.int64 is: a number that is no int."""

    def __index__(self) -> int:
        return 3


@pytest.mark.parametrize("value", NO_DURATION)
def test_what_is_no_duration_is_refused(value):
    for check in (duration, positive):
        with pytest.raises(errors.ConfigurationError, match=r"^grace must be .*, not "):
            check("grace", value)


def test_what_is_a_duration():
    assert duration("grace", 0) == 0
    assert duration("grace", timedelta(seconds=1.5)) == 1.5
    assert duration("grace", MAX_DURATION) == MAX_DURATION
    assert positive("ping", Fraction(1, 2)) == 0.5
    with pytest.raises(errors.ConfigurationError, match="ping must be more than 0 s"):
        positive("ping", 0.0)


@pytest.mark.parametrize("value", NO_NUMBER)
def test_what_is_no_whole_number_is_refused(value):
    with pytest.raises(
        errors.ConfigurationError, match=r"^limit must be (a whole number, )?0 or more, not "
    ):
        whole("limit", value)


def test_what_is_a_whole_number():
    assert whole("limit", 0) == 0
    assert type(whole("limit", Index())) is int
    with pytest.raises(errors.ConfigurationError, match="limit must be 1 to 9, not 10"):
        whole("limit", 10, 1, 9)


def test_the_others():
    assert factor("backoff", 1) == 1
    for value in (0.5, math.nan, math.inf, "2", None, True, 10**400):
        with pytest.raises(
            errors.ConfigurationError, match="backoff must be a number of 1 or more"
        ):
            factor("backoff", value)
    assert flag("worker", False) is False
    with pytest.raises(
        errors.ConfigurationError, match="worker must be True or False, not 'false'"
    ):
        flag("worker", "false")
    with pytest.raises(errors.ConfigurationError, match="run_id must be a str, not 5"):
        text("run_id", 5)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("polling_interval", [0, *NO_DURATION]),
        ("heartbeat_interval", [0, *NO_DURATION]),
        ("stale_threshold", [0, *NO_DURATION]),
        ("retain_runs", [value for value in NO_DURATION if value is not None]),
        ("max_concurrent_runs", [0, *NO_NUMBER]),
        ("max_recoveries", NO_NUMBER),
        ("max_input_bytes", [0, *NO_NUMBER]),
        ("max_output_bytes", [0, *NO_NUMBER]),
        ("worker", ["no", 0, None]),
        ("allow_network_fs", ["no", 0, None]),
        ("pooled", ["no", 0, None]),
        ("schema", [5, None]),
    ],
)
def test_an_option_of_an_instance(name, values):
    for value in values:
        with pytest.raises(errors.ConfigurationError, match=f"^{name} must be "):
            Durably(":memory:", **{name: value})


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("streams", NO_NUMBER),
        ("streams_per_principal", NO_NUMBER),
        ("throttle", NO_DURATION),
        ("ping", [1e-9, *NO_DURATION]),
        ("check_every", [0, *NO_DURATION]),
    ],
)
def test_a_limit_of_a_handler(name, values):
    for value in values:
        with pytest.raises(errors.ConfigurationError, match=f"^Limits.{name} must be "):
            Limits(**{name: value})


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("times", NO_NUMBER),
        ("delay", NO_DURATION),
        ("max_delay", NO_DURATION),
        ("backoff", [0.5, math.nan, math.inf, "2", None]),
        ("on", ["ConnectionError", 5, None, ConnectionError("x"), [ConnectionError, "x"], {int}]),
    ],
)
def test_a_retry(name, values):
    for value in values:
        with pytest.raises(errors.ConfigurationError, match=f"^Retry.{name} must be "):
            Retry(**{"times": 1, name: value})


def test_the_exceptions_of_a_retry_may_be_one_or_several():
    both = {ConnectionError, TimeoutError}
    for on in (list(both), tuple(both), both, frozenset(both)):
        assert set(Retry(1, on=on).on) == both
    assert Retry(1, on=ConnectionError).on == (ConnectionError,)


def test_a_pause_never_overflows():
    retry = Retry(5_000, delay=0.5, max_delay=30)
    assert [retry.pause(n) for n in (1, 2, 7, 1_024, 2_000, 10**6)] == [0.5, 1.0, 30, 30, 30, 30]
    assert Retry(5_000, delay=0).pause(4_000) == 0


@pytest.mark.parametrize(
    "filter",
    [
        {"job": 5}, {"job": None}, {"job": [5]}, {"job": "a\0b"}, {"job": b"a"},
        {"status": "fail"}, {"status": 5}, {"status": None}, {"status": ["completed", "done"]},
        {"labels": 5}, {"labels": [("a", "b")]}, {"labels": {"a": 1}}, {"labels": {1: "a"}},
        {"cursor": "zzz"}, {"cursor": 5}, {"cursor": ""}, {"cursor": "0" * 36},
        {"cursor": "0190-0000-7000-8000-000000000000"}, {"cursor": "a\0"}, {"scope": 5}, {"scope": "\0"},
        *({"limit": value} for value in [0, 1_001, *NO_NUMBER]),
        *({"offset": value} for value in NO_NUMBER),
    ],
    ids=repr,
)  # fmt: skip
async def test_a_filter(tmp_path, filter):
    async with Durably(tmp_path / "a.db", worker=False) as durably:
        with pytest.raises((errors.ConfigurationError, errors.InvalidInputError)) as refused:
            await durably.get_runs(**filter)
        assert next(iter(filter)).rstrip("s") in str(refused.value)


def test_a_filter_takes_one_or_several():
    for jobs in (["a", "b"], ("a", "b"), {"a": 1, "b": 2}.keys()):
        assert sorted(make_filter(jobs, {"failed"}, None, 1, 0, None).jobs) == ["a", "b"]


async def test_what_is_given_to_the_calls(tmp_path):
    durably = Durably(tmp_path / "a.db", worker=False)

    @durably.job("one")
    async def one(step: Step) -> None: ...

    async with durably:
        run = await one.trigger()
        for refused, call in {
            "older_than must be": lambda value: durably.purge_runs(older_than=value),
            "timeout must be": lambda value: durably.wait(run, 5 if value is None else value),
        }.items():
            for value in NO_DURATION:
                if value is None and "timeout" in refused:
                    continue
                with pytest.raises(errors.ConfigurationError, match=refused):
                    await call(value)
        for value in NO_NUMBER:
            with pytest.raises(errors.ConfigurationError, match="after must be"):
                durably.subscribe(run.id, value)
            with pytest.raises(errors.ConfigurationError, match="after must be"):
                await durably.get_logs(run.id, after=value)
            with pytest.raises(errors.ConfigurationError, match="limit must be"):
                await durably.get_logs(run.id, limit=value)
            if value is not None:
                with pytest.raises(errors.ConfigurationError, match="max_concurrent_runs must be"):
                    durably._engine.set_worker(max_concurrent_runs=value)
        assert [found.id for found in await durably.get_runs()] == [run.id]


@pytest.mark.parametrize("grace", ["soon", -1, math.nan, None])
async def test_a_grace_that_is_none_stops_all_the_same(tmp_path, grace):
    durably = Durably(tmp_path / "a.db")
    await durably.init()
    with pytest.raises(errors.ConfigurationError, match="grace must be"):
        await durably.stop(grace)
    assert not durably.is_working
    with pytest.raises(errors.ClosedError):
        await durably.get_runs()
