"""The commands that look at runs and move them, asking a server instead of a file: the same output."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from durably.cli import main
from tests.client.places import Server
from tests.ports import free_port

from .conftest import wait_for


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    server.start()
    server.await_up()
    yield server
    server.kill()


class Command:
    """``durably …`` in this process, asking the server and the file."""

    def __init__(self, server: Server, capsys: pytest.CaptureFixture[str]) -> None:
        self.server, self._capsys = server, capsys
        self.err = ""

    def __call__(self, *words: str, code: int = 0) -> str:
        found = main(list(words))
        out, self.err = self._capsys.readouterr()
        assert found == code, self.err
        return out

    def ask(self, *words: str, code: int = 0) -> str:
        return self(*words, "--url", self.server.url, code=code)

    def look(self, *words: str) -> str:
        return self(*words, "--db", str(self.server.place / "jobs.db"))

    def json(self, *words: str) -> Any:
        return json.loads(self.ask(*words, "--json"))


@pytest.fixture
def command(server: Server, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(server, capsys)


def run_of(server: Server, job: str, input: Any, *, wait: bool = True) -> str:
    from durably.client import SyncDurablyClient

    with SyncDurablyClient(server.url) as client:
        run = client.trigger(job, input, labels={"job": job})
        if wait:
            wait_for(lambda: (found := client.get_run(run.id)) and found.is_final)
        return run.id


def without_keys(shown: Any) -> Any:
    """Keys, scopes and tracebacks stay on the server."""
    for run in shown if isinstance(shown, list) else [shown]:
        del run["idempotency_key"], run["concurrency_key"], run["scope"]
        if run["error"]:
            del run["error"]["traceback"]
    return shown


def test_what_is_shown_is_what_the_file_shows(command: Command) -> None:
    completed = run_of(command.server, "work", {"steps": 3})
    failed = run_of(command.server, "work", {"steps": 1, "fails_without": "never"})
    for words in (
        ["runs", "list"],
        ["runs", "list", "--status", "failed", "--label", "job=work", "--limit", "1"],
        ["runs", "show", completed],
        ["logs", completed],
        ["steps", completed],
        ["steps", failed],
        ["logs", completed, "--json"],
        ["steps", completed, "--json"],
        ["logs", completed, "--follow"],
        ["logs", completed, "--follow", "--json"],
    ):
        assert command.ask(*words) == command.look(*words), words
    for words in (["runs", "list"], ["runs", "show", completed], ["runs", "show", failed]):
        local = json.loads(command.look(*words, "--json"))
        assert without_keys(command.json(*words)) == without_keys(local)
    assert "ValueError: no never" in command.ask("runs", "show", failed)


def test_runs_are_moved(command: Command) -> None:
    failed = run_of(command.server, "work", {"steps": 0, "fails_without": "never"})
    said = command.ask("runs", "retry", failed)
    assert said == f"run {failed} is pending again; a worker resumes it from its checkpoints\n"
    new = command.json("runs", "retrigger", failed)
    assert (new["job"], new["id"] != failed) == ("work", True)
    held = run_of(command.server, "hold", None, wait=False)
    assert command.ask("runs", "cancel", held) == f"run {held} is cancelled\n"
    assert command.ask("runs", "delete", held) == f"run {held} is deleted\n"
    command.ask("runs", "show", held, code=1)
    assert command.err == (
        f"durably: error: run '{held}' does not exist; it may have been deleted or purged\n"
    )
    done = run_of(command.server, "work", {"steps": 0})
    command.ask("runs", "cancel", done, code=1)
    assert command.err == f"durably: error: cannot cancel run {done}: it is completed\n"


def test_jobs(command: Command) -> None:
    lines = [line.split() for line in command.ask("jobs").splitlines()]
    assert lines[:1] + lines[2:] == [
        ["JOB", "KIND", "INPUT", "OUTPUT"],
        ["hold", "-", "-", "integer"],
        ["work", "-", "Wanted", "Done"],
    ]
    by_default, hold, work = command.json("jobs")
    assert (by_default["name"], by_default["input_schema"]["default"]) == ("by-default", 5)
    assert (hold["name"], hold["sync"]) == ("hold", None)
    assert list(work["input_schema"]["properties"]) == ["steps", "pause", "fails_without"]


def test_logs_are_followed_until_the_run_is_over(command: Command) -> None:
    run_id = run_of(command.server, "work", {"steps": 10, "pause": 0.05}, wait=False)
    shown = [json.loads(line) for line in command.ask("logs", run_id, "-f", "--json").splitlines()]
    assert [entry["data"]["i"] for entry in shown] == list(range(10))
    assert command.err == f"run {run_id} completed\n"


def test_where_the_server_is_named(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run_of(command.server, "work", {"steps": 0})
    monkeypatch.chdir(tmp_path)
    expected = command.ask("runs", "list")
    assert command("--url", command.server.url, "runs", "list") == expected
    assert (
        command("--url", "http://nobody", "runs", "list", "--url", command.server.url) == expected
    )
    monkeypatch.setenv("DURABLY_URL", command.server.url)
    assert command("runs", "list") == expected
    command("migrate", "--db", "here.db")
    assert command("runs", "list", "--db", "here.db", "--json") == "[]\n"
    monkeypatch.setenv("DURABLY_DB", "here.db")
    command("runs", "list", code=2)
    assert "both DURABLY_URL and DURABLY_DB are set; pass --url or --db" in command.err
    assert command("runs", "list", "--url", command.server.url) == expected
    monkeypatch.delenv("DURABLY_DB")
    command("runs", "purge", "--older-than", "1d", code=2)
    assert "a server purges no runs; pass --db or --app" in command.err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("runs list --url http://a --db b", "not allowed with argument"),
        ("--url http://a runs list --db b", "--url names a server and --db does not"),
        ("--url http://a steps RUN --app b:c", "--url names a server and --app does not"),
        ("--url http://a jobs app:durably", "--url names a server and MODULE:DURABLY does not"),
        ("--url http://a runs purge --older-than 1d --db a", "this command asks no server"),
        ("--url http://a migrate", "this command asks no server"),
        ("--header a:b doctor", "this command asks no server"),
        ("runs purge --older-than 1d --url http://a", "unrecognized arguments: --url"),
        ("jobs", "pass MODULE:DURABLY, or --url"),
        ("runs list --url a.b", "server URL must be like"),
        ("runs list --url http://a --header odd", "'odd' is not a header: write 'NAME: VALUE'"),
    ],
)
def test_contradictions_are_one_line_and_exit_2(
    words: str, says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DURABLY_URL", raising=False)
    assert main(words.split()) == 2
    err = capsys.readouterr().err
    assert says in err
    assert err.startswith("durably: error: ")
    assert err.count("\n") == 1


def test_a_server_that_is_not_there_is_exit_3(capsys: pytest.CaptureFixture[str]) -> None:
    url = f"http://127.0.0.1:{free_port()}/api/durably"
    assert main(["runs", "list", "--url", url]) == 3
    err = capsys.readouterr().err
    assert f"durably: error: GET {url}/runs: no answer (ConnectError" in err
    assert err.count("\n") == 1


class OnlyAnn(BaseHTTPRequestHandler):
    """Answers whoever has Ann's token, and nobody else."""

    def do_GET(self) -> None:
        known = self.headers["authorization"] == "Bearer ann"
        body = (
            b"[]" if known else b'{"error": "authentication required", "code": "unauthenticated"}'
        )
        self.send_response(200 if known else 401)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def guarded() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), OnlyAnn) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_missing_token_is_named_as_the_command_takes_it(
    guarded: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DURABLY_TOKEN", raising=False)
    assert main(["runs", "list", "--url", guarded]) == 1
    err = capsys.readouterr().err
    assert "DURABLY_TOKEN" in err
    assert "--header" in err
    assert "auth=" not in err
    assert main(["runs", "list", "--url", guarded, "--header", "Authorization: Bearer ann"]) == 0
    monkeypatch.setenv("DURABLY_TOKEN", "ann\r\n")  # as a file holds it
    assert main(["runs", "list", "--url", guarded]) == 0


@pytest.mark.parametrize("token", ["hunter2\nhunter3", "hunter2\r", "\thunter2\x00", "hunter2ä"])
@pytest.mark.parametrize("way", ["variable", "header"])
def test_a_token_that_no_header_can_hold_is_not_shown(
    guarded: str,
    token: str,
    way: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = ["runs", "list", "--url", guarded]
    if way == "variable":
        monkeypatch.setenv("DURABLY_TOKEN", token.replace("\0", "\x01"))
    else:
        monkeypatch.delenv("DURABLY_TOKEN", raising=False)
        words += ["--header", f"Authorization: Bearer {token}"]
    assert main(words) in (1, 2)
    err = capsys.readouterr().err
    assert err.startswith("durably: error: ")
    assert "hunter" not in err


def test_a_wrong_path_is_refused(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    elsewhere = command.server.url.replace("/api/durably", "/elsewhere")
    assert main(["runs", "list", "--url", elsewhere]) == 1
    assert "was refused (404)" in capsys.readouterr().err


def test_without_httpx2_it_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['httpx2'] = None; from durably.cli import main; sys.exit(main())"
    )
    words = ["runs", "list", "--url", "http://127.0.0.1:1"]
    refused = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=False
    )
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == (
        "durably: error: durably.client needs httpx2, which is not installed: "
        "pip install 'durably[client]'\n"
    )
