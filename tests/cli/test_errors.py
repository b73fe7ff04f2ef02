"""One line, the right exit code, never a traceback; help with an example for every command."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from durably.cli import main
from durably.cli.parser import build_parser

from .conftest import Place


def commands(parser: argparse.ArgumentParser, path: str = "") -> Iterator[str]:
    """Every command, from the parser itself."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, child in action.choices.items():
                yield from commands(child, f"{path} {name}".strip())
    if parser.get_default("command"):
        yield path


@pytest.mark.parametrize("command", list(commands(build_parser())))
def test_every_command_has_help_with_an_example(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command.split(), "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"example:\n  durably {command}" in shown


def test_all_commands_are_there() -> None:
    runs = [
        f"runs {name}"
        for name in ["list", "show", "retry", "cancel", "delete", "retrigger", "purge"]
    ]
    rest = ["logs", "steps", "jobs", "migrate", "doctor", "copy", "completion"]
    assert list(commands(build_parser())) == [
        "demo",
        "run",
        "worker",
        "serve",
        "codegen",
        "browser-bundle",
        *runs,
        *rest,
    ]


def test_help_lists_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    for code in ("0 ", "1 ", "2 ", "3 ", "70 ", "130 "):
        assert f"\n  {code}" in shown
    assert main(["runs", "--help"]) == 0
    assert "example:\n  durably runs list" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("durably ")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("", "the following arguments are required: COMMAND (see 'durably --help')"),
        ("bogus", "invalid choice: 'bogus'"),
        ("runs", "the following arguments are required: COMMAND (see 'durably runs --help')"),
        ("runs list --status odd", "invalid choice: 'odd'"),
        ("runs list --limit 0", "'0' is not a number above 0"),
        ("runs list --limit 99999999999999999999", "is not a number above 0"),
        ("runs list --cursor zzz --db here.db", "cursor must be the .cursor of a run, not 'zzz'"),
        ("runs purge --older-than nan", "'nan' is not a duration"),
        ("runs purge --older-than 1e30", "'1e30' is not a duration"),
        ("migrate --sql --after 1.5", "'1.5' is not a whole number of 0 or more"),
        ("runs list --limit 1001 --db here.db", "limit must be 1 to 1000, not 1001"),
        ("runs list --label odd", "'odd' is not a label: write NAME=VALUE"),
        ("runs purge", "the following arguments are required: --older-than"),
        ("runs purge --older-than soon", "'soon' is not a duration"),
        ("runs list --db a --app b", "not allowed with argument"),
        ("runs list --db :memory:", "a :memory: database belongs to its process"),
        ("runs list --db here.db --schema jobs", "--schema is for PostgreSQL"),
        ("runs list --app app:durably --schema jobs", "--schema goes with --db"),
        ("migrate --sql --db here.db", "--sql is for PostgreSQL"),
        (
            "runs list --db postgresql://u:se/cret@here/jobs",
            "URL of the database is not understood",
        ),
        ("runs retrigger some-run", "pass --app MODULE:DURABLY, which knows the job, or --url"),
        ("worker app:durably -c 0", "'0' is not a number above 0"),
        ("worker app", "'app' is not MODULE:NAME, as 'app:durably'"),
        ("migrate --db nowhere/jobs.db", "nowhere does not exist"),
        ("run no_such_module:job {}", "No module named 'no_such_module'"),
    ],
)
def test_bad_arguments_are_one_line_and_exit_2(
    words: str,
    says: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    if "here.db" in words:
        main(["migrate", "--db", "here.db"])
    assert main(words.split()) == 2
    err = capsys.readouterr().err
    assert err.startswith("durably: error: ")
    assert says in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["run", "app:text", "{}"], "app:text is not a job but a str"),
        (["run", "app:absent", "{}"], "module 'app' has no 'absent'"),
        (["worker", "app:work"], "app:work is not a Durably instance but a JobHandle"),
        (["run", "broken:job"], "module 'broken' cannot be imported: ZeroDivisionError"),
        (["run", "leaves:job"], "module 'leaves' cannot be imported: SystemExit: 4"),
        (
            ["run", "app:work"],
            "job 'work' needs an input for its parameter 'wanted'; give it as JSON",
        ),
        (["run", "app:work", "{"], "the input is not JSON"),
        (["run", "app:work", ""], "the input is not JSON"),
        (["run", "app:work", '{"steps": 7}'], "at $.steps"),
        (["run", "app:nothing", "7"], "the input does not fit job 'nothing'"),
        (["run", "app:loose", "--key", ""], "idempotency_key"),
    ],
)
def test_what_is_named_wrongly_is_named(place: Place, words: list[str], says: str) -> None:
    (place.path / "broken.py").write_text("1 / 0")
    (place.path / "leaves.py").write_text("import sys; sys.exit(4)")
    refused = place.durably(*words)
    assert refused.code == 2
    assert says in refused.err
    assert refused.err.startswith("durably: error: ")
    assert refused.err.count("\n") == 1


@pytest.mark.parametrize(
    ("file", "says"),
    [
        (b"", "has schema 0, this Durably needs 3: run 'durably migrate --db jobs.db'"),
        (b"this is no database at all, but longer than its head" * 20, "is not a usable SQLite"),
        (None, "there is no database jobs.db; pass --db PATH, set DURABLY_DB"),
    ],
)
def test_a_bad_database_is_one_line_and_exit_3(
    file: bytes | None,
    says: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    if file is not None:
        (tmp_path / "jobs.db").write_bytes(file)
    assert main(["runs", "list", "--db", "jobs.db"]) == 3
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") == 1
    left = [item.name for item in tmp_path.iterdir()]
    assert left == ([] if file is None else ["jobs.db"]), "nothing is made beside it"
    assert file is None or (tmp_path / "jobs.db").read_bytes() == file


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    absent = str(tmp_path / "absent.db")
    assert main(["runs", "list", "--db", absent, "--debug"]) == 3
    err = capsys.readouterr().err
    assert err.startswith("Traceback")
    assert err.splitlines()[-1].startswith("durably: error: there is no database")


def test_a_reader_that_leaves_is_no_error(place: Place) -> None:
    place.durably("migrate", "--db", "jobs.db")
    listing = subprocess.Popen(
        [sys.executable, "-m", "durably.cli", "jobs", "app:durably", "--json"],
        cwd=place.path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert listing.stdout is not None
    listing.stdout.close()
    assert listing.wait() == 141
    assert listing.stderr is not None
    with listing.stderr as err:
        assert err.read() == b""
