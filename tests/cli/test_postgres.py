"""The command on a PostgreSQL server: every command that takes ``--db``, and what is said of a server."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from durably import Durably, Step
from durably.cli import main
from tests import debian, postgres
from tests.pooler import pooler
from tests.tier import TIER

from .conftest import Place, wait_for

HEALTHY = [
    "server", "pooler", "listen", "rights", "schema", "machine clock", "timeouts", "commits",
    "connections", "sequence", "tables", "leases", "overdue", "abandoned", "poisoned", "clock",
]  # fmt: skip


@pytest.fixture
def url() -> Iterator[str]:
    """An empty database; a URL with a password that must never be shown."""
    made = asyncio.run(postgres.create_database())
    yield made.replace("://postgres@", "://postgres:s3cret@")
    asyncio.run(postgres.drop_database(made))


@pytest.fixture
def place(place: Place, url: str) -> Place:
    """The application on the server."""
    app = place.path / "app.py"
    app.write_text(
        app.read_text()
        .replace('"jobs.db"', repr(url))
        .replace("stale_threshold=2", "stale_threshold=4")
    )
    return place


def execute(url: str, statement: str) -> None:
    asyncio.run(postgres.execute(url, statement))


def examine(url: str, capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    """The findings by check; the exit code must fit them, and no password is in them."""
    capsys.readouterr()
    code = main(["doctor", "--db", url, "--json", *words])
    out, err = capsys.readouterr()
    assert "s3cret" not in out + err
    findings = json.loads(out)
    assert code == (1 if any(f["status"] == "wrong" for f in findings) else 0)
    assert all(f["remedy"] for f in findings if f["status"] != "ok")
    return {finding["check"]: finding for finding in findings}


# -- the commands


def test_a_worker_is_watched_killed_and_followed(place: Place, url: str) -> None:
    assert place.durably("migrate", "--app", "app:durably").code == 0
    worker = place.start("worker", "app:durably")
    run = place.start(
        "run", "app:work", '{"steps": ["one", "hold", "three"]}', "--key", "k", "--json"
    )
    wait_for(lambda: "hold" in place.effects())
    [listed] = place.durably("runs", "list", "--db", url, "--json").json
    following = place.start("logs", listed["id"], "-f", "--db", url)
    wait_for(lambda: "one" in following.printed())
    place.go()
    assert run.end().json["output"] == {"count": 3}
    followed = following.end()
    told = [line.split("\\x1b[31m")[1].split()[0] for line in followed.out.splitlines()]
    assert told == ["one", "hold", "three"]
    worker.send(signal.SIGTERM)
    ended = worker.end()
    assert ended.code == 0, ended.err
    assert "postgres:***@" in ended.err
    assert "s3cret" not in ended.err + followed.err


def test_a_run_whose_worker_was_killed_is_resumed_from_its_checkpoints(
    place: Place, url: str
) -> None:
    asyncio.run(_trigger(url, "work", {"steps": ["one", "hold", "three"]}))
    worker = place.start("worker", "app:durably")
    wait_for(lambda: "hold" in place.effects())
    worker.send(signal.SIGKILL)
    worker.end()
    place.go()
    other = place.start("worker", "app:durably")
    done = ("runs", "list", "--db", url, "--status", "completed", "--json")
    wait_for(lambda: place.durably(*done).json, 60)
    other.send(signal.SIGTERM)
    assert other.end().code == 0
    assert place.effects() == ["one", "hold", "hold", "three"]


def test_an_application_says_where_its_tables_are(place: Place, url: str) -> None:
    app = place.path / "app.py"
    app.write_text(app.read_text().replace("polling_interval", 'schema="jobs", polling_interval'))
    assert place.durably("run", "app:work", '{"steps": ["a"]}').code == 0
    [run] = place.durably("runs", "list", "--app", "app:durably", "--json").json
    assert place.durably("runs", "show", run["id"], "--db", url, "--schema", "jobs").code == 0
    missing = place.durably("runs", "list", "--db", url)
    assert missing.code == 3
    without = f"postgresql://postgres@{url.rpartition('@')[2]}"
    assert f"run 'durably migrate --db {without}'" in missing.err


def test_migrate_and_its_script_make_the_same_tables(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["migrate", "--db", url, "--schema", "one"]) == 0
    assert capsys.readouterr().out == f"{url.replace('s3cret', '***')} has schema 3\n"
    for words in (["--schema", "two"], ["--db", url, "--schema", "three"]):
        assert main(["migrate", "--sql", *words]) == 0
        execute(url, capsys.readouterr().out)
    assert main(["migrate", "--sql", "--after", "1", "--schema", "two"]) == 0
    script = capsys.readouterr().out
    assert "alter table two.durably_runs add column scope" in script
    assert "create table" not in script
    for schema in ("one", "two", "three"):
        assert main(["runs", "list", "--db", url, "--schema", schema, "--json"]) == 0
        assert capsys.readouterr().out == "[]\n"


@pytest.mark.parametrize(
    "words", [["runs", "list"], ["migrate"], ["runs", "purge", "--older-than", "1d"]]
)
def test_a_role_that_is_refused_is_one_line_without_its_password(
    words: list[str], url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = url.replace("://postgres:", "://nobody:")
    assert main([*words, "--db", wrong]) == 3
    err = capsys.readouterr().err
    assert err.startswith("durably: error: the database cannot be reached: ")
    assert 'role "nobody" does not exist' in err
    assert "s3cret" not in err


# -- doctor


def test_a_healthy_server(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["migrate", "--db", url])
    found = examine(url, capsys)
    assert list(found) == HEALTHY
    assert {f["check"] for f in found.values() if f["status"] != "ok"} <= {"commits", "connections"}


def test_a_sequence_that_stayed_behind_is_found(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["migrate", "--db", url])
    line = "insert into durably_journal (position, run_id, seq, at, type, attempt) values (9, 'r', 1, 1, 'x', 1)"
    asyncio.run(postgres.execute(url, line))
    found = examine(url, capsys)["sequence"]
    assert found["status"] == "wrong"
    asyncio.run(postgres.execute(url, found["remedy"]))
    assert examine(url, capsys)["sequence"]["status"] == "ok"


def test_no_server_no_database_no_tables(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    parts = urlsplit(url)
    for wrong in (
        url.replace(f":{parts.port}/", ":1/"),
        url.replace(parts.path, "/nowhere"),
        url.replace("s3cret", "s3cret/more"),
    ):
        found = examine(wrong, capsys)
        assert list(found) == ["server"]
        assert found["server"]["status"] == "wrong"
    assert "durably migrate" in examine(url, capsys)["schema"]["remedy"]
    assert "schema jobs" in examine(url, capsys, "--schema", "jobs")["schema"]["detail"]


@pytest.mark.parametrize(("change", "check", "says"), [
    ("delete from durably_version where version > 1", "schema", "schema 1, this Durably needs 3"),
    ("insert into durably_version values (99)", "schema", "schema 99"),
    ("alter table durably_journal set (autovacuum_enabled = false)", "tables", "durably_journal"),
    ("alter role postgres in database {name} set default_transaction_read_only = on", "server", "can only be read"),
    ("alter role postgres in database {name} set synchronous_commit = off", "commits", "synchronous_commit = off"),
    ("alter role postgres in database {name} set idle_session_timeout = '1h'", "timeouts", "idle for 1h"),
])  # fmt: skip
def test_what_is_not_as_it_should_be(
    change: str, check: str, says: str, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["migrate", "--db", url])
    execute(url, change.format(name=urlsplit(url).path[1:]))
    found = examine(url, capsys)[check]
    assert found["status"] != "ok"
    assert says in found["detail"]


def test_a_role_without_rights_is_told_what_to_grant(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["migrate", "--db", url])
    role = f"reader_{time.time_ns()}"
    other = url.replace("://postgres:", f"://{role}:")
    execute(url, f"create role {role} login")
    try:
        rights = examine(other, capsys)["rights"]
        assert rights["status"] == "wrong"
        execute(url, rights["remedy"])
        assert examine(other, capsys)["rights"]["status"] == "ok"
        assert main(["runs", "list", "--db", other]) == 0
    finally:
        execute(url, f"drop owned by {role}; drop role {role}")


def test_runs_in_trouble_on_a_server(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    run_id = asyncio.run(_trigger(url, "job", key="key"))
    old, ahead = "1700000000000", "9000000000000"
    for change, check, detail in (
        (f"due_at = {old}, updated_at = {old}", "overdue", "1 runs of job 'job' have been waiting"),
        ("due_at = 9007199254740991", "abandoned", f"run {run_id} waits behind"),
        (f"status = 'running', lease_owner = 'gone', due_at = {old}", "leases", "worker gone, which has not"),
        (f"status = 'pending', updated_at = {ahead}", "clock", "in the future"),
        ("status = 'failed', due_at = null, error = '{\"type\": \"poisoned\"}'", "poisoned", run_id),
    ):  # fmt: skip
        execute(url, f"update durably_runs set {change}")
        found = examine(url, capsys)[check]
        assert found["status"] == "wrong"
        assert detail in found["detail"]


async def _trigger(url: str, name: str, input: Any = None, key: str | None = None) -> str:
    durably = Durably(url, worker=False)

    @durably.job(name)
    async def job(step: Step, input: dict[str, list[str]] | None) -> None: ...

    await durably.migrate()
    run = await job.trigger(input, concurrency_key=key)
    await durably.stop(0)
    return run.id


# -- behind PgBouncer in transaction mode


@pytest.fixture
def pooled(url: str) -> Iterator[str]:
    try:
        debian.program("pgbouncer", "usr/sbin/pgbouncer")
    except debian.Unavailable as why:
        if TIER != "quick":
            pytest.fail(str(why))
        pytest.skip(str(why))
    with pooler(url) as through:
        yield through


def test_a_pooler_is_noticed(
    pooled: str, url: str, place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["migrate", "--db", pooled])
    found = examine(pooled, capsys)
    assert list(found) == HEALTHY
    assert "listen_url" in found["pooler"]["remedy"]
    assert found["listen"]["status"] == "note"
    assert "must be the role's" in found["timeouts"]["detail"]
    app = place.path / "app.py"
    app.write_text(app.read_text().replace(repr(url), f"{pooled!r}, listen_url={url!r}"))
    found = place.durably("doctor", "--app", "app:durably", "--json").json
    listen = [finding["status"] for finding in found if finding["check"] in ("pooler", "listen")]
    assert listen == ["ok", "ok"]


def test_a_database_behind_a_pooler_is_copied(
    pooled: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_id = asyncio.run(_trigger(str(tmp_path / "here.db"), "job"))
    assert main(["copy", str(tmp_path / "here.db"), pooled]) == 0
    assert main(["copy", pooled, str(tmp_path / "back.db"), "--force"]) == 0
    assert capsys.readouterr().out.count("all of it arrived") == 2
    assert main(["runs", "show", run_id, "--db", str(tmp_path / "back.db")]) == 0
