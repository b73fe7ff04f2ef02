"""What is measured: for each case, what each column's driver is asked to do."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Options = dict[str, Any]
CONCURRENCY = 50


@dataclass(frozen=True)
class Case:
    """One measure. ``options`` has an entry for each column that takes part."""

    letter: str
    id: str
    measure: str
    options: dict[str, Options]
    slow_fsync: bool = False
    seeded: dict[str, int] = field(default_factory=dict[str, int])
    """The backlog that the database starts with, if it does: see the drivers' ``seed``."""
    prepare: str | None = None
    """A measure that must have run on the database before."""
    over_http: bool = False
    """Whether the measure is of ``http_load``, on the server of the column's driver."""
    on_postgres: bool = False
    """Whether ``db`` is a database on the PostgreSQL server that all columns share."""
    in_browser: bool = False
    """Whether the measure is of ``browser``, in a page of the column."""


def cases(quick: bool) -> list[Case]:
    """All of them, in order."""
    return [
        *_steps(slow=False, quick=quick),
        *_steps(slow=True, quick=quick),
        *_others(quick),
        *_http(quick),
        *_postgres(quick),
        *_browser(quick),
    ]


def _steps(*, slow: bool, quick: bool) -> list[Case]:
    suffix = "-slow" if slow else ""
    one = {"steps": 1000}
    few = {"steps": 300 if slow else 1000}
    many = {"runs": 2000, "steps": 5, "concurrency": CONCURRENCY}
    original = {**many, "runs": 200 if slow else 500 if quick else 2000}
    dbos = {**many, "runs": 60 if slow else 100 if quick else 200}
    process = {"durability": "process"}
    sequential = {"ours": one, "process": one | process, "raw": one, "original": few, "dbos": few}
    concurrent = {
        "ours": many,
        "process": many | process,
        "raw": many,
        "original": original,
        "dbos": dbos,
    }
    if slow:
        del sequential["process"], concurrent["process"]
    found = [
        Case("a", f"a{suffix}", "sequential", sequential, slow_fsync=slow),
        Case("b", f"b{suffix}", "concurrent", concurrent, slow_fsync=slow),
    ]
    if not slow:
        everything = {"ours": many | {"everything": True}}
        found.append(Case("b", "b-everything", "concurrent", everything))
    return found


def _others(quick: bool) -> list[Case]:
    singles = {"singles": 500 if quick else 1000, "batches": 3 if quick else 5, "size": 1000}
    count = {"count": 50 if quick else 100}
    far = {"across": True}
    return [
        Case(
            "c",
            "c",
            "trigger",
            {
                "ours": singles,
                "original": singles,
                "dbos": singles | {"singles": 300, "batches": 2},
            },
        ),
        Case("d", "d", "latency", {"ours": count, "original": count, "dbos": count}),
        Case(
            "d",
            "d-across",
            "latency",
            {"ours": count | far, "original": count | far, "dbos": count | far},
        ),
        _drain("e-few", pending=1_000, finished=0, ours=(100, 900, 7), peers=(100, 500, 1)),
        _drain(
            "e-many",
            pending=100_000,
            finished=200_000,
            ours=(100, 4_100, 3),
            peers=(50, 150, 1),
        ),
        Case(
            "e",
            "e-blocked",
            "blocked",
            {"ours": {"behind": 10_000, "others": 2_000, "concurrency": CONCURRENCY}},
        ),
        _claim("e-claim-few", pending=100, finished=0),
        _claim("e-claim-many", pending=100_000, finished=200_000),
        Case(
            "f",
            "f",
            "replay",
            {"ours": {"steps": 1000}, "original": {"steps": 1000}, "dbos": {"steps": 1000}},
            prepare="replay_prepare",
        ),
    ]


def _drain(
    id: str,
    *,
    pending: int,
    finished: int,
    ours: tuple[int, int, int],
    peers: tuple[int, int, int],
) -> Case:
    def options(first: int, last: int, rounds: int) -> Options:
        return {"first": first, "last": last, "rounds": rounds, "concurrency": CONCURRENCY}

    asked = {"ours": options(*ours), "original": options(*peers), "dbos": options(*peers)}
    return Case("e", id, "drain", asked, seeded={"pending": pending, "finished": finished})


def _claim(id: str, *, pending: int, finished: int) -> Case:
    asked = {"ours": {"count": 200, "limit": 10}, "original": {"count": 20}}
    return Case("e", id, "claim", asked, seeded={"pending": pending, "finished": finished})


def _http(quick: bool) -> list[Case]:
    def case(id: str, measure: str, **options: int) -> Case:
        return Case("http", id, measure, {"ours": options, "original": options}, over_http=True)

    few = 2 if quick else 1
    return [
        case("http-trigger-1", "triggers", count=1000 // few, connections=1),
        case("http-trigger-16", "triggers", count=3200 // few, connections=16),
        case("http-events-1", "events", subscribers=1, steps=1000 // few),
        case("http-events-100", "events", subscribers=100, steps=200 // few),
        case("http-events-1000", "events", subscribers=1000, steps=40 // few),
        case("http-first", "first", count=100 // few),
    ]


def _postgres(quick: bool) -> list[Case]:
    """The columns are those of ``peers.py`` that are on PostgreSQL."""

    def case(
        id: str, measure: str, seeded: dict[str, int] | None = None, **columns: Options
    ) -> Case:
        return Case("postgres", f"pg-{id}", measure, columns, seeded=seeded or {}, on_postgres=True)

    few = 2 if quick else 1
    one = {"steps": 1000 // few}
    many = {"runs": 2000, "steps": 5}
    at_once = many | {"concurrency": CONCURRENCY}
    plain = {"runs": 4000 // few, "concurrency": CONCURRENCY}
    count = {"count": 100 // few}
    far = count | {"across": True}
    window = {"first": 500, "last": 4_500 // few, "concurrency": CONCURRENCY}
    claims = {"count": 100, "limit": 10}
    busy = {"count": 2, "pause": 0, "steps": 5, "first": 300, "last": 300 + 2400 // few}
    waiting = busy | {"pause": 0.02, "last": 300 + 1200 // few}
    return [
        case("one", "sequential", pg=one, pg_raw=one, absurd=one, pg_dbos={"steps": 500 // few}),
        case(
            "many",
            "concurrent",
            pg=at_once,
            pg_raw=many,
            absurd=at_once | {"runs": 200 // few},
            pg_dbos=at_once | {"runs": 100 // few},
        ),
        case(
            "jobs",
            "plain_jobs",
            pg=plain,
            pgqueuer=plain,
            procrastinate=plain | {"runs": 500 // few},
        ),
        case(
            "start",
            "latency",
            pg=count,
            pgqueuer=count,
            procrastinate=count,
            absurd=count,
            pg_dbos=count,
        ),
        case("start-across", "latency", pg=far, pgqueuer=far, procrastinate=far, pg_dbos=far),
        case("claim-few", "claim", {"pending": 100}, pg=claims),
        case("claim-many", "claim", {"pending": 100_000}, pg=claims),
        case("claim-behind", "claim", {"pending": 100, "behind": 10_000}, pg=claims),
        case("drain-few", "drain", {"pending": 5_000}, pg=window),
        case("drain-many", "drain", {"pending": 100_000}, pg=window),
        case("two", "workers", {"pending": 10_000}, pg=busy),
        case("two-one", "workers", {"pending": 10_000}, pg=busy | {"count": 1}),
        case("two-waiting", "workers", {"pending": 10_000}, pg=waiting),
        case("two-waiting-one", "workers", {"pending": 10_000}, pg=waiting | {"count": 1}),
    ]


def _browser(quick: bool) -> list[Case]:
    steps = {"steps": 300 if quick else 1000}
    ours, original = {"page": "ours"}, {"page": "original"}
    sequential = {
        "ours": ours | steps,
        "process": ours | steps | {"durability": "process"},
        "original": original | steps,
    }
    boot = {"ours": ours, "original": original}
    return [
        Case("browser", "browser", "sequential", sequential, in_browser=True),
        Case("browser", "browser-boot", "boot", boot, in_browser=True),
    ]
