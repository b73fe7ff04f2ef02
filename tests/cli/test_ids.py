"""Short forms of ids, several ids, filters and bulk: one set of runs in a file, and a server on it."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import shlex
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest

from durably import Durably, Step
from durably.cli import ids, main, show
from durably.cli.ids import parse, shorten
from durably.cli.target import UsageError
from durably.client import DurablyClient

IDS = [f"019ad2f8-3c5e-7abc-8000-0000{n:08x}" for n in (0x11F0A, 0x21F0A, 0x21F0B)]


class Runs:
    """What a test knows of the database, and the command in this process."""

    def __init__(self, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.path, self._capsys = path, capsys
        self.failed: list[str] = []
        self.completed = self.pending = self.err = ""

    def durably(self, *words: str, code: int = 0, db: bool = True) -> str:
        found = main([*words, *(["--db", str(self.path)] if db else [])])
        out, self.err = self._capsys.readouterr()
        assert found == code, self.err
        return out

    def json(self, *words: str, code: int = 0) -> Any:
        return json.loads(self.durably(*words, "--json", code=code))

    def statuses(self, *run_ids: str) -> list[str]:
        shown = self.json("runs", "show", *run_ids)
        return [run["status"] for run in (shown if isinstance(shown, list) else [shown])]


@pytest.fixture
def runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Runs:
    runs = Runs(tmp_path / "my jobs.db", capsys)
    asyncio.run(_fill(runs))
    return runs


async def _fill(runs: Runs) -> None:
    durably = Durably(runs.path)

    @durably.job("divide")
    async def divide(step: Step, number: int) -> int:
        return await step.run("divide", lambda: 12 // number)

    @durably.job("lookup")
    async def lookup(step: Step, key: str) -> str:
        raise KeyError(key)

    await durably.migrate()
    done, zero = await divide.batch_trigger([3, 0])
    missing = await lookup.trigger("Timeout table", labels={"org": "a"})
    await durably.run_until_idle()
    pending = await divide.trigger(1)
    await durably.stop(0)
    runs.failed = [zero.id, missing.id]
    runs.completed, runs.pending = done.id, pending.id


# -- ids


def test_a_prefix_is_a_range_of_ids() -> None:
    wanted = parse("019ad2f8-3c5e")
    assert wanted is not None
    assert wanted.after == "019ad2f8-3c5f-0000-0000-000000000000"
    assert parse("019AD2F83C5E") == wanted
    assert wanted.includes(IDS[0])
    assert parse(IDS[0]) is None
    assert parse("no id") is None
    assert parse("019a-d2f83c5e") is None
    last = parse("ffffffff")
    assert last is not None
    assert last.after == "ffffffff-ffff-ffff-ffff-ffffffffffff"
    with pytest.raises(UsageError, match=r"'019ad2f' is too short .* first 8 characters"):
        parse("019ad2f")


def test_short_forms_tell_runs_of_one_millisecond_apart() -> None:
    assert shorten(IDS) == [f"019ad2f8-3c5e..{end}" for end in ("11f0a", "21f0a", "21f0b")]
    assert shorten(IDS[:1]) == ["019ad2f8-3c5e..1f0a"]
    wanted = parse("019ad2f8-3c5e..21f0a")
    assert wanted is not None
    assert (wanted.digits, wanted.ending) == ("019ad2f83c5e", "21f0a")


def test_a_short_form_means_its_run_in_every_command(runs: Runs) -> None:
    (short, _) = shorten([runs.failed[0], runs.completed])
    assert runs.json("runs", "show", short)["id"] == runs.failed[0]
    assert runs.json("steps", runs.failed[0][:28])[0]["status"] == "failed"
    assert runs.durably("logs", short) == ""
    assert runs.failed[0] in runs.durably("runs", "retry", short)
    assert runs.failed[0] in runs.durably("runs", "cancel", short)
    assert runs.json("runs", "delete", short) == {"deleted": runs.failed[0]}
    runs.durably("runs", "show", short, code=1)
    assert f"run {short!r} does not exist" in runs.err


def test_an_ambiguous_prefix_lists_its_candidates(runs: Runs) -> None:
    runs.durably("runs", "cancel", runs.pending[:8], code=2)
    first, *candidates = runs.err.splitlines()
    assert first.endswith("is the beginning of several runs; give more of the id")
    assert [line.split() for line in candidates] == [
        [runs.pending, "divide", "pending"],
        [runs.failed[1], "lookup", "failed"],
        [runs.failed[0], "divide", "failed"],
        [runs.completed, "divide", "completed"],
    ]
    assert runs.statuses(runs.pending) == ["pending"]
    runs.durably("runs", "show", runs.pending[:7], code=2)
    assert "too short" in runs.err


async def test_a_server_resolves_short_forms_as_a_file_does(runs: Runs) -> None:
    durably = Durably(runs.path, worker=False)
    transport = httpx2.ASGITransport(durably.asgi())
    async with (
        durably,
        DurablyClient("http://127.0.0.1/api/durably", transport=transport) as client,
    ):
        for place in (durably, client):
            short = shorten([runs.failed[1]])[0]
            assert await ids.resolve(place, short) == runs.failed[1]
            with pytest.raises(UsageError, match="several runs"):
                await ids.resolve(place, runs.pending[:8])


def test_several_ids_are_done_one_after_the_other(runs: Runs) -> None:
    out = runs.durably("runs", "retry", *runs.failed, runs.completed, code=1)
    assert [line.split()[1] for line in out.splitlines()] == runs.failed
    first, last = runs.err.splitlines()
    assert first == f"durably: error: cannot retry run {runs.completed}: it is completed"
    assert last == "2 of 3 runs are pending again"
    assert runs.statuses(*runs.failed) == ["pending"] * 2
    assert [run["id"] for run in runs.json("runs", "cancel", *runs.failed)] == runs.failed


# -- filters


def test_filters_of_time_and_error(runs: Runs) -> None:
    def found(*words: str) -> list[str]:
        return [run["id"] for run in runs.json("runs", "list", *words)]

    assert found("--error", "timeout") == [runs.failed[1]]
    assert found("--error", "ERROR", "--limit", "1") == [runs.failed[1]]
    assert found("--error", "zerodivision", "--job", "divide") == [runs.failed[0]]
    assert found("--since", "1h", "--status", "failed", "--label", "org=a") == [runs.failed[1]]
    soon = datetime.now(UTC) + timedelta(hours=1)
    assert found("--since", soon.isoformat()) == []
    assert len(found("--since", (soon - timedelta(hours=2)).replace(tzinfo=None).isoformat())) == 4
    runs.durably("runs", "list", "--since", "yesterday", code=2)
    assert "neither an age nor a time" in runs.err


def test_the_hint_of_a_list_can_be_pasted(runs: Runs) -> None:
    runs.durably("runs", "list", "--error", "e r", "--status", "failed", "--limit", "1")
    assert runs.err == "", "one match is less than the limit"
    runs.durably("runs", "list", "--error", "error", "--status", "failed", "--limit", "1")
    program, *words = shlex.split(runs.err.removeprefix("more: "))
    assert program == "durably"
    assert runs.failed[0] in runs.durably(*words, db=False)


@pytest.mark.parametrize("command", ["retry", "cancel", "delete"])
def test_what_filters_match_is_changed_only_with_consent(runs: Runs, command: str) -> None:
    before = runs.statuses(runs.completed, *runs.failed, runs.pending)
    listed = runs.durably("runs", command, "--since", "1h", "--dry-run")
    count = {"retry": 2, "cancel": 1, "delete": 3}[command]
    assert len(listed.splitlines()) == count + 1
    assert f"{count} runs would be" in runs.err
    runs.durably("runs", command, "--since", "1h", code=2)
    assert "pass --yes" in runs.err
    assert runs.statuses(runs.completed, *runs.failed, runs.pending) == before
    assert len(runs.durably("runs", command, "--since", "1h", "--yes").splitlines()) == count
    assert runs.err.startswith(f"{count} runs are ")


def test_a_bulk_command_needs_ids_or_filters_that_fit(runs: Runs) -> None:
    runs.durably("runs", "cancel", code=2)
    assert "name the runs, or choose them" in runs.err
    runs.durably("runs", "cancel", runs.pending, "--job", "divide", code=2)
    runs.durably("runs", "cancel", "--status", "failed", "--yes", code=2)
    assert "is for runs that are pending, running, waiting; not for failed ones" in runs.err


def test_retrigger_takes_filters_too(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bulkapp.py").write_text(
        f"from durably import Durably, Step\ndurably = Durably({str(runs.path)!r})\n"
        "@durably.job('divide')\nasync def divide(step: Step, number: int) -> int: ...\n"
    )
    monkeypatch.chdir(tmp_path)
    words = ["runs", "retrigger", "--status", "failed", "--app", "bulkapp:durably", "--yes"]
    runs.durably(*words, code=1, db=False)
    assert "1 of 2 runs are triggered again" in runs.err
    assert "'lookup'" in runs.err


# -- how it looks


def lines_of(width: int, words: list[str], answer: str = "") -> list[str]:
    """What the command prints on a terminal of that width, where the answer is typed."""
    ours, theirs = pty.openpty()
    command = subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "durably.cli", *words],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "COLUMNS": str(width), "TERM": "dumb"},
    )
    os.close(theirs)
    os.write(ours, answer.encode())
    drawn = b""
    try:
        while chunk := os.read(ours, 65536):
            drawn += chunk
    except OSError:  # how Linux says that the other end is closed
        pass
    os.close(ours)
    command.wait()
    return drawn.decode().splitlines()


def test_a_narrow_terminal_gets_a_line_for_each_run_whose_id_can_be_pasted(runs: Runs) -> None:
    head, *lines = lines_of(80, ["runs", "list", "--db", str(runs.path)])
    assert head.split() == ["ID", "JOB", "STATUS", "AGE", "ERROR"]
    assert len(lines) == 4
    assert max(map(len, lines)) <= 80
    assert "KeyError: 'Timeout table'" in lines[1]
    pasted = [line.split()[0] for line in lines]
    assert [runs.json("runs", "show", short)["id"] for short in pasted] == [
        runs.pending, *reversed(runs.failed), runs.completed,
    ]  # fmt: skip


def test_a_bulk_command_asks_on_a_terminal(runs: Runs) -> None:
    words = ["runs", "cancel", "--job", "divide", "--db", str(runs.path)]
    lines = lines_of(160, words, "no\n")
    assert any(runs.pending in line for line in lines), "it lists the runs, with whole ids"
    assert any("cancel these 1 runs? [y/N]" in line for line in lines)
    assert runs.statuses(runs.pending) == ["pending"]
    lines_of(80, words, "y\n")
    assert runs.statuses(runs.pending) == ["cancelled"]


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(show, "screen_width", lambda: 40)


@pytest.mark.usefixtures("narrow")
def test_flexible_columns_are_cut_and_empty_ones_left_out(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show.print_table(
        ("ID", "JOB", "KEY", "ERROR"),
        [("1" * 10, "漢字" * 10, None, "x" * 50), ("2", "short", "", "")],
        ("JOB", "ERROR"),
    )
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split() == ["ID", "JOB", "ERROR"]
    assert show.columns(first) <= 40
    assert first.startswith("1111111111  漢字漢字漢字…")
    assert first.endswith("x…")
    assert second.split() == ["2", "short"]
