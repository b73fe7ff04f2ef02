"""``durably doctor``: what is wrong is found in real files, said, and left as it is."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from durably import Durably, Step
from durably.cli import main

from .conftest import Place, wait_for
from .test_worker import trigger


@pytest.fixture
def database(tmp_path: Path) -> Path:
    assert main(["migrate", "--db", str(tmp_path / "jobs.db")]) == 0
    return tmp_path / "jobs.db"


def examine(path: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """The findings by check; the exit code must fit them."""
    capsys.readouterr()
    code = main(["doctor", "--db", str(path), "--json"])
    findings = json.loads(capsys.readouterr().out)
    assert [list(finding) for finding in findings] == [
        ["check", "status", "detail", "remedy"]
    ] * len(findings)
    wrong = [finding for finding in findings if finding["status"] == "wrong"]
    assert code == (1 if wrong else 0)
    assert all(finding["remedy"] for finding in wrong)
    return {finding["check"]: finding for finding in findings}


def wrong(found: dict[str, Any]) -> list[str]:
    return [check for check, finding in found.items() if finding["status"] == "wrong"]


def execute(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement)


async def fill(path: Path, outcome: str = "pending") -> str:
    durably = Durably(path)

    @durably.job("job")
    async def job(step: Step) -> None:
        raise ValueError

    await durably.migrate()
    run = await job.trigger(concurrency_key="key")
    if outcome == "failed":
        await durably.run_until_idle()
    await durably.stop(0)
    return run.id


def test_a_healthy_database(database: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = examine(database, capsys)
    assert wrong(found) == []
    assert list(found) == [
        "sqlite", "permissions", "file system", "companion", "journal", "integrity", "schema",
        "leases", "overdue", "abandoned", "poisoned", "clock",
    ]  # fmt: skip
    assert main(["doctor", "--db", str(database)]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert "ok    schema: schema 3" in lines
    assert {line[:5] for line in lines} == {"ok   "}
    assert last == "nothing is wrong"


def test_a_missing_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert wrong(examine(tmp_path / "absent.db", capsys)) == ["file"]
    assert list(tmp_path.iterdir()) == []


def test_no_database(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "jobs.db").write_bytes(b"no database" * 100)
    assert wrong(examine(tmp_path / "jobs.db", capsys)) == ["file"]


def test_a_damaged_database(database: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = bytearray(database.read_bytes())
    content[4096:8192] = b"\xff" * 4096
    database.write_bytes(content)
    assert wrong(examine(database, capsys)) in (["integrity"], ["file"])


@pytest.mark.parametrize(("change", "remedy"), [
    ("delete from durably_version", "durably migrate"),
    ("delete from durably_version where version > 1", "durably migrate"),
    ("insert into durably_version values (99)", "upgrade this Durably"),
])  # fmt: skip
def test_another_schema(
    database: Path, change: str, remedy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    execute(database, change)
    found = examine(database, capsys)
    assert wrong(found) == ["schema"]
    assert remedy in found["schema"]["remedy"]
    assert "leases" not in found, "tables that we do not know are not asked"


def test_a_file_that_everybody_may_read(database: Path, capsys: pytest.CaptureFixture[str]) -> None:
    database.chmod(0o644)
    found = examine(database, capsys)["permissions"]
    assert (found["status"], found["remedy"]) == ("note", f"chmod 600 {database}")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything")
def test_a_directory_that_cannot_be_written(
    database: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    database.parent.chmod(0o500)
    try:
        assert "permissions" in wrong(examine(database, capsys))
    finally:
        database.parent.chmod(0o700)


def test_another_journal_mode_is_noted(database: Path, capsys: pytest.CaptureFixture[str]) -> None:
    execute(database, "pragma journal_mode = delete")
    assert examine(database, capsys)["journal"]["status"] == "note"


def test_a_log_that_grew_too_big(database: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("pragma wal_autocheckpoint = 0")
        connection.execute("create table ballast (data blob)")
        connection.execute("insert into ballast values (zeroblob(70000000))")
        connection.commit()
        assert wrong(examine(database, capsys)) == ["journal"]


async def test_the_lease_of_a_killed_worker(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    await trigger(place)
    (place.path / "app.py").write_text(
        (place.path / "app.py").read_text().replace("stale_threshold=2", "stale_threshold=600")
    )
    worker = place.start("worker", "app:durably")
    wait_for(lambda: "hold" in place.effects())
    alive = place.durably("doctor", "--db", "jobs.db", "--json")
    assert alive.code == 0
    worker.send(signal.SIGKILL)
    worker.end()
    dead = place.durably("doctor", "--db", "jobs.db", "--json")
    leases = next(finding for finding in dead.json if finding["check"] == "leases")
    assert (dead.code, leases["status"]) == (1, "wrong")
    assert f"{worker.process.pid}-" in leases["detail"]
    assert "which is dead, holds 1 runs" in leases["detail"]
    place.go()
    assert place.durably("worker", "app:durably", "--until-idle").code == 0
    assert place.durably("doctor", "--db", "jobs.db").code == 0, (
        "doctor left the bell to the worker"
    )


async def _age(path: Path, change: str) -> None:
    execute(path, f"update durably_runs set {change}")


async def test_runs_in_trouble(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    run_id = await fill(path)
    now = time.time_ns() // 1_000_000
    lapsed = f"status = 'running', lease_owner = 'gone', due_at = {now - 5000}"
    old = now - 3_600_000
    for change, check, detail in (
        (f"due_at = {old}, updated_at = {old}", "overdue", "1 runs of job 'job' have been waiting"),
        (f"due_at = {old}, updated_at = {old}", "overdue", "no worker is alive"),
        ("due_at = 9007199254740991", "abandoned", f"run {run_id} waits behind"),
        (lapsed, "leases", "worker gone, which has not renewed its leases"),
        (f"status = 'pending', updated_at = {now + 3_600_000}", "clock", "in the future"),
    ):
        await _age(path, change)
        found = {finding.check: finding for finding in _findings(path)}
        assert found[check].status == "wrong"
        assert detail in found[check].detail


async def test_a_run_parked_behind_another_scopes_key(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    run_id = await fill(path)
    await fill(path)  # holds the key
    parked = f"update durably_runs set due_at = 9007199254740991 where id = '{run_id}'"
    execute(path, parked)
    assert {f.check: f for f in _findings(path)}["abandoned"].status == "ok"
    execute(path, f"update durably_runs set scope = 'other' where id = '{run_id}'")
    assert run_id in {f.check: f for f in _findings(path)}["abandoned"].detail


def _findings(path: Path) -> list[Any]:
    from durably.cli.doctor import examine

    return list(examine(path))


async def test_a_poisoned_run(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    run_id = await fill(path, "failed")
    await _age(path, "error = json_set(error, '$.type', 'poisoned')")
    found = {finding.check: finding for finding in _findings(path)}
    assert run_id in found["poisoned"].detail
