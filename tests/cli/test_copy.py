"""``durably copy``: from a file to a server, between two runs of an application."""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from durably.cli import main
from tests import postgres

from .conftest import Place, wait_for
from .test_worker import trigger


@pytest.fixture
def url() -> Iterator[str]:
    made = asyncio.run(postgres.create_database())
    yield made.replace("://postgres@", "://postgres:s3cret@")
    asyncio.run(postgres.drop_database(made))


def move_app(place: Place, database: str) -> None:
    app = place.path / "app.py"
    app.write_text(app.read_text().replace('"jobs.db"', repr(database)))


async def test_a_run_begun_in_a_file_is_finished_on_a_server(place: Place, url: str) -> None:
    """Its worker is killed in the second of three steps; the first is not executed again."""
    await trigger(place, {"steps": ["one", "hold", "three"]})
    worker = place.start("worker", "app:durably")
    wait_for(lambda: "hold" in place.effects())
    refused = place.durably("copy", "jobs.db", url)
    assert refused.code == 1
    assert f"worker {worker.process.pid}-" in refused.err
    assert "stop it with SIGTERM" in refused.err
    worker.send(signal.SIGKILL)
    worker.end()
    copied = place.durably("copy", "jobs.db", url, "--retire")
    assert copied.code == 0, copied.err
    assert "s3cret" not in copied.out + copied.err
    lines = [line.split()[:4] for line in copied.out.splitlines()]
    assert lines[0] == ["TABLE", "ROWS", "CHECKSUM", "DATABASE"]
    assert [line[1:] for line in lines[1:3]] == [line[1:] for line in lines[3:5]]
    assert "all of it arrived" in copied.out
    stopped = place.durably("worker", "app:durably", "--until-idle")
    assert stopped.code == 3
    assert "jobs.db is retired: its runs were copied to another database" in stopped.err

    assert place.effects() == ["one", "hold"]
    move_app(place, url)
    place.go()
    other = place.start("worker", "app:durably")
    done = ("runs", "list", "--db", url, "--status", "completed", "--json")
    wait_for(lambda: place.durably(*done).json, 60)
    other.send(signal.SIGTERM)
    assert other.end().code == 0
    [run] = place.durably(*done).json
    assert run["attempt"] == 2
    assert place.effects() == ["one", "hold", "hold", "three"]


def test_json_and_the_way_back(
    tmp_path: Path, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    first, last = str(tmp_path / "first.db"), str(tmp_path / "last.db")
    assert main(["migrate", "--db", first]) == 0
    with closing(sqlite3.connect(first)) as connection, connection:
        connection.execute(
            "insert into durably_journal (run_id, seq, at, type, attempt) values ('r', 7, 1, 'run:delete', 0)"
        )
    capsys.readouterr()
    assert main(["copy", first, url, "--target-schema", "jobs", "--json"]) == 0
    there = json.loads(capsys.readouterr().out)
    assert there["copied"]
    assert there["source"]["journal"] == there["target"]["journal"]
    assert (there["source"]["journal"]["rows"], len(there["source"]["journal"]["checksum"])) == (
        1,
        64,
    )
    assert there["target"]["database"] == url.replace("s3cret", "***")
    assert main(["copy", url, last, "--source-schema", "jobs", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["target"]["journal"] == there["source"]["journal"]
    assert main(["copy", first, last]) == 0
    assert "all of it was there already" in capsys.readouterr().out


@pytest.mark.parametrize(("words", "code", "says"), [
    ("nowhere.db new.db", 1, "there is no database nowhere.db"),
    ("here.db here.db", 2, "are the same file"),
    (":memory: new.db", 2, "a :memory: database belongs to its process"),
    ("here.db new.db --target-schema jobs", 2, "--schema is for PostgreSQL"),
    ("empty.db new.db", 1, "empty.db has schema 0, this Durably needs 3: run 'durably migrate'"),
    ("text.db new.db", 3, "text.db is not a usable SQLite database"),
    ("here.db nowhere/new.db", 2, "nowhere does not exist"),
    ("postgresql://u:s3cret@127.0.0.1:1/x new.db", 1, "postgresql://u:***@127.0.0.1:1/x cannot be reached"),
])  # fmt: skip
def test_what_cannot_be_copied_is_one_line(
    words: str, code: int, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    main(["migrate", "--db", "here.db"])
    with closing(sqlite3.connect("empty.db")) as connection:
        connection.execute("pragma user_version = 1")
    Path("text.db").write_text("no database" * 100)
    capsys.readouterr()
    assert main(["copy", *words.split()]) == code
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") == 1
    assert "s3cret" not in err
    assert not Path("new.db").exists()
