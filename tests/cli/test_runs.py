"""Looking at runs and moving them: each command, for people and as JSON."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from durably import Durably, Step, with_log_persistence
from durably.cli import main
from tests import postgres

from .conftest import Place, wait_for

RUN_KEYS = [
    "id", "job", "status", "input", "output", "error", "progress", "labels", "idempotency_key",
    "concurrency_key", "attempt", "created_at", "started_at", "ended_at", "updated_at", "scope", "stopping", "steps_done", "cursor",
]  # fmt: skip
STEP_KEYS = ["name", "index", "status", "output", "error", "attempt", "started_at", "completed_at"]
LOG_KEYS = ["id", "run_id", "step_name", "level", "message", "data", "timestamp"]


class Shop:
    """A database with a completed, a failed and a pending run, and the command in this process."""

    def __init__(self, database: str, capsys: pytest.CaptureFixture[str]) -> None:
        self.database, self._capsys = database, capsys
        self.completed = self.failed = self.pending = ""

    def durably(self, *words: str, code: int = 0, db: bool = True) -> str:
        found = main([*words, *(["--db", self.database] if db else [])])
        out, self.err = self._capsys.readouterr()
        assert found == code, self.err
        return out

    def json(self, *words: str) -> Any:
        return json.loads(self.durably(*words, "--json"))

    def status(self, run_id: str) -> str:
        return str(self.json("runs", "show", run_id)["status"])


@pytest.fixture(params=["file", "server"])
def shop(
    request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Iterator[Shop]:
    on_server = request.param == "server"
    database = asyncio.run(postgres.create_database()) if on_server else tmp_path / "jobs.db"
    shop = Shop(str(database), capsys)
    asyncio.run(_fill(shop))
    yield shop
    if on_server:
        asyncio.run(postgres.drop_database(shop.database))


async def _fill(shop: Shop) -> None:
    durably = Durably(shop.database)
    durably.use(with_log_persistence())

    @durably.job("add")
    async def add(step: Step, numbers: list[int]) -> int:
        total = await step.run("sum", sum, numbers)
        step.log.warning("rather \x1b[31mred", {"total": total})
        step.progress(1, 2, "half")
        if total < 0:
            raise ValueError("\x1b[2J negative")
        return total

    @durably.job("later")
    async def later(step: Step) -> None: ...

    await durably.migrate()
    done = await add.trigger([1, 2], idempotency_key="k", labels={"org": "one"})
    failed = await add.trigger([-1])
    await durably.run_until_idle()
    pending = await later.trigger()
    await durably.stop(0)
    shop.completed, shop.failed, shop.pending = done.id, failed.id, pending.id


def test_list_shows_the_newest_first(shop: Shop) -> None:
    lines = shop.durably("runs", "list").splitlines()
    assert lines[0].split() == [
        "ID",
        "JOB",
        "STATUS",
        "PROGRESS",
        "ATTEMPT",
        "CREATED",
        "KEY",
        "ERROR",
    ]
    assert [line.split()[0] for line in lines[1:]] == [shop.pending, shop.failed, shop.completed]
    assert lines[3].split()[1:5] == ["add", "completed", "1/2", "1"]


def test_list_as_json(shop: Shop) -> None:
    runs = shop.json("runs", "list")
    assert [list(run) for run in runs] == [RUN_KEYS] * 3
    done = runs[2]
    assert (done["output"], done["labels"]) == (3, {"org": "one"})
    assert done["progress"] == {"current": 1, "total": 2, "message": "half"}
    assert done["created_at"].endswith("Z")
    assert datetime.fromisoformat(done["created_at"]).tzinfo is not None
    assert list(runs[1]["error"]) == ["type", "message", "step", "traceback"]


def test_list_filters_and_pages(shop: Shop) -> None:
    def ids(*words: str) -> list[str]:
        return [run["id"] for run in shop.json("runs", "list", *words)]

    assert ids("--job", "later") == [shop.pending]
    assert ids("--status", "failed", "--status", "completed") == [shop.failed, shop.completed]
    assert ids("--label", "org=one") == [shop.completed]
    assert ids("--label", "org=two") == []
    shop.durably("runs", "list", "--limit", "2")
    cursor = shop.err.split("--cursor ")[1].strip()
    assert ids("--cursor", cursor) == [shop.completed]


def test_show_makes_stored_control_characters_visible(shop: Shop) -> None:
    shown = shop.durably("runs", "show", shop.failed)
    assert "error            ValueError: \\x1b[2J negative" in shown
    assert "\x1b" not in shown
    assert list(shop.json("runs", "show", shop.failed)) == RUN_KEYS


def test_steps(shop: Shop) -> None:
    steps = shop.json("steps", shop.completed)
    assert [list(step) for step in steps] == [STEP_KEYS]
    assert (steps[0]["name"], steps[0]["status"], steps[0]["output"]) == ("sum", "completed", 3)
    table = shop.durably("steps", shop.completed).splitlines()
    assert table[0].split() == ["#", "STEP", "STATUS", "ATTEMPT", "SECONDS", "RESULT"]
    assert table[1].split()[1:4] == ["sum", "completed", "1"]


def test_logs(shop: Shop) -> None:
    logs = shop.json("logs", shop.completed)
    assert [list(line) for line in logs] == [LOG_KEYS]
    assert (logs[0]["level"], logs[0]["data"]) == ("warning", {"total": 3})
    shown = shop.durably("logs", shop.completed)
    assert 'warning rather \\x1b[31mred {"total": 3}' in shown
    assert shop.durably("logs", shop.pending) == ""
    assert "no log lines are kept" in shop.err


def test_following_a_finished_run_ends(shop: Shop) -> None:
    lines = shop.durably("logs", shop.completed, "--follow", "--json").splitlines()
    assert [list(json.loads(line)) for line in lines] == [LOG_KEYS]
    assert shop.err == f"run {shop.completed} completed\n"


def test_retry_cancel_delete(shop: Shop) -> None:
    assert "is pending again" in shop.durably("runs", "retry", shop.failed)
    assert shop.status(shop.failed) == "pending"
    assert shop.json("runs", "cancel", shop.failed)["status"] == "cancelled"
    assert shop.json("runs", "delete", shop.failed) == {"deleted": shop.failed}
    shop.durably("runs", "show", shop.failed, code=1)
    assert "does not exist" in shop.err


def test_purge_deletes_what_ended_long_ago(shop: Shop) -> None:
    assert shop.json("runs", "purge", "--older-than", "1d") == {"purged": 0}
    assert shop.json("runs", "purge", "--older-than", "0", "--limit", "1") == {"purged": 1}
    assert shop.durably("runs", "purge", "--older-than", "0") == "1 runs are deleted\n"
    assert [run["id"] for run in shop.json("runs", "list")] == [shop.pending]


def test_what_the_status_forbids_is_one_line(shop: Shop) -> None:
    shop.durably("runs", "cancel", shop.completed, code=1)
    assert shop.err == (f"durably: error: cannot cancel run {shop.completed}: it is completed\n")


def test_the_database_may_come_from_the_environment(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DURABLY_DB", shop.database)
    assert shop.completed in shop.durably("runs", "list", db=False)


def test_migrate_makes_the_database(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / "new.db")
    assert main(["runs", "list", "--db", path]) == 3
    assert not (tmp_path / "new.db").exists(), "only migrate makes a file"
    assert main(["migrate", "--db", path, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"database": path, "schema": 3}
    assert main(["runs", "list", "--db", path, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_an_application_names_its_database_and_retriggers(place: Place) -> None:
    run = place.durably("run", "app:work", '{"steps": ["a"]}', "--json").json
    new = place.durably("runs", "retrigger", run["id"], "--app", "app:durably", "--json").json
    assert (new["status"], new["input"]) == ("pending", run["input"])
    assert new["id"] != run["id"]
    listed = place.durably("runs", "list", "--app", "app:durably", "--json").json
    assert [each["id"] for each in listed] == [new["id"], run["id"]]


def test_jobs(place: Place) -> None:
    table = place.durably("jobs", "app:durably").out.splitlines()
    assert [line.split() for line in table] == [
        ["JOB", "KIND", "INPUT", "OUTPUT"],
        ["nothing", "def", "-", "null"],
        ["work", "async", "def", "Wanted", "Done"],
    ]
    jobs = place.durably("jobs", "app:durably", "--json").json
    assert [job["name"] for job in jobs] == ["nothing", "work"]
    keys = ["name", "sync", "takes_input", "input_schema", "output_schema"]
    assert [list(job) for job in jobs] == [keys] * 2
    assert jobs[1]["input_schema"]["required"] == ["steps"]


def test_logs_of_another_process_are_followed_live(place: Place) -> None:
    run = place.start("run", "app:work", '{"steps": ["one", "hold", "three"]}')
    wait_for(lambda: "hold" in place.effects())
    run_id = place.durably("runs", "list", "--db", "jobs.db", "--json").json[0]["id"]
    following = place.start("logs", run_id, "-f", "--db", "jobs.db")
    out = place.path / "2.out"
    wait_for(lambda: "one" in out.read_text())
    assert "hold" not in out.read_text()
    place.go()
    assert run.end().code == 0
    followed = following.end()
    assert followed.code == 0
    told = [line.split("\\x1b[31m")[1].split()[0] for line in followed.out.splitlines()]
    assert told == ["one", "hold", "three"]
