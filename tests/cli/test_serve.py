"""``durably serve``: a real server in a real process; it listens where it may, and leaves when it is told."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest

from durably.cli import main

from .conftest import Place, Process, wait_for

AUTH = '''
class Tokens:
    """Everybody has a token."""
    def authenticate(self, request):
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        return token if token.startswith("token-") else None

    def scope(self, principal):
        return principal

    def on_jobs(self, principal):
        return True

tokens = Tokens()
nothing = object()
'''


class Api:
    """What ``durably serve`` said that it serves at."""

    def __init__(self, process: Process) -> None:
        self.process = process
        wait_for(lambda: "Durably at " in process.printed() or process.process.poll() is not None)
        said = process.printed()
        assert said, process.said()
        self.url = said.split()[2]
        self.host, _, port = self.url.split("/")[2].rpartition(":")
        self.port = int(port)

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        with self.answer(method, path, body, **headers) as response:
            text = response.read().decode()
            is_json = response.headers["content-type"] == "application/json"
            return response.status, json.loads(text) if is_json else text

    @contextmanager
    def answer(
        self, method: str, path: str, body: Any = None, **headers: str
    ) -> Iterator[http.client.HTTPResponse]:
        with closing(http.client.HTTPConnection(self.host.strip("[]"), self.port)) as connection:
            sent = None if body is None else json.dumps(body)
            kind = {"content-type": "application/json"} if sent else {}
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, sent, {**kind, **named})
            with connection.getresponse() as response:
                yield response

    def trigger(self, steps: list[str]) -> str:
        body = {"jobName": "work", "input": {"steps": steps}}
        status, answer = self.ask("POST", "/api/durably/trigger", body)
        assert status == 200, answer
        return str(answer["runId"])

    def status(self, run_id: str) -> str:
        return str(self.ask("GET", f"/api/durably/run?runId={run_id}")[1]["status"])


def serve(place: Place, *words: str) -> Api:
    return Api(place.start("serve", "app:durably", "--port", "0", *words))


def test_it_answers_and_works(place: Place) -> None:
    api = serve(place)
    assert api.url.startswith("http://127.0.0.1:")
    assert api.process.printed().endswith("with a worker for work, nothing; Ctrl-C stops it\n")
    run_id = api.trigger(["a", "b"])
    wait_for(lambda: api.status(run_id) == "completed")
    assert place.effects() == ["a", "b"]
    for path in ("/healthz", "/readyz", "/api/durably/healthz", "/api/durably/readyz"):
        status, health = api.ask("GET", path)
        assert (status, health["status"], health["database"]) == (200, "ok", "ok"), path
    for path in ("/metrics", "/api/durably/metrics"):
        status, metrics = api.ask("GET", path)
        assert status == 200
        assert "durably_" in metrics, path
    status, description = api.ask("GET", "/api/durably/openapi.json")
    assert (status, description["openapi"][:2]) == (200, "3.")
    assert api.ask("GET", "/elsewhere")[0] == 404
    api.process.send(signal.SIGINT)
    assert api.process.end().code == 0


def test_it_may_serve_elsewhere(place: Place) -> None:
    api = serve(place, "--host", "localhost", "--path", "/jobs/")
    assert api.url.endswith("/jobs")
    assert api.ask("GET", "/jobs/runs") == (200, [])


def test_without_a_worker_it_executes_nothing(place: Place) -> None:
    api = serve(place, "--no-worker")
    assert "without a worker" in api.process.printed()
    run_id = api.trigger(["a"])
    assert place.durably("worker", "app:durably", "--until-idle").code == 0
    assert api.status(run_id) == "completed"
    assert place.effects() == ["a"]
    status, health = api.ask("GET", "/healthz")
    assert (status, health["worker"]) == (200, "none")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_leaves_with_streams_open(place: Place, number: int) -> None:
    api = serve(place)
    run_id = api.trigger(["a", "hold"])
    wait_for(lambda: place.effects() == ["a", "hold"])
    with (
        api.answer("GET", f"/api/durably/subscribe?runId={run_id}") as one,
        api.answer("GET", "/api/durably/runs/subscribe") as many,
    ):
        assert one.readline().startswith(b"retry:")
        assert many.readline().startswith(b"id:")
        api.process.send(number)
        assert b"data:" in one.read(), "what was told is told, and the stream is ended"
        many.read()
    left = api.process.end()
    assert (left.code, "Traceback" in left.err) == (0, False), left.err
    shown = json.loads(place.durably("runs", "show", run_id, "--db", "jobs.db", "--json").out)
    assert (shown["status"], shown["attempt"]) == ("pending", 1), "handed back"
    place.go()
    api = serve(place)
    wait_for(lambda: api.status(run_id) == "completed")
    assert place.effects() == ["a", "hold", "hold"]


def test_it_lets_short_runs_end(place: Place) -> None:
    api = serve(place, "--grace", "60")
    run_id = api.trigger(["hold", "b"])
    wait_for(lambda: place.effects() == ["hold"])
    api.process.send(signal.SIGTERM)
    wait_for(lambda: "a second signal" in api.process.said())
    place.go()
    assert api.process.end().code == 0
    shown = place.durably("runs", "show", run_id, "--db", "jobs.db", "--json").json
    assert shown["status"] == "completed"


def test_a_second_signal_is_not_argued_with(place: Place) -> None:
    api = serve(place, "--grace", "600")
    run_id = api.trigger(["hold"])
    wait_for(lambda: place.effects() == ["hold"])
    api.process.send(signal.SIGINT)
    wait_for(lambda: "a second signal" in api.process.said())
    api.process.send(signal.SIGINT)
    left = api.process.end()
    assert (left.code, "Traceback" in left.err) == (130, False), left.err
    shown = place.durably("runs", "show", run_id, "--db", "jobs.db", "--json").json
    assert shown["status"] == "pending"


def test_answers_that_nobody_reads_hold_nothing_up(place: Place) -> None:
    """A client that opened a connection and says nothing, and one in the middle of its body."""
    api = serve(place)
    address = ("127.0.0.1", api.port)
    with (
        closing(socket.create_connection(address)),
        closing(socket.create_connection(address)) as slow,
    ):
        head = "POST /api/durably/trigger HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99\r\n"
        slow.sendall(f"{head}content-type: application/json\r\n\r\n{{".encode())
        assert api.ask("GET", "/healthz")[0] == 200
        api.process.send(signal.SIGTERM)
        assert api.process.end().code == 0


def test_with_auth_it_may_be_reached_from_elsewhere(place: Place) -> None:
    (place.path / "auth.py").write_text(AUTH)
    for name in ("auth:tokens", "auth:Tokens"):
        api = serve(place, "--host", "0.0.0.0", "--auth", name)
        api.host = "127.0.0.1"
        assert api.ask("GET", "/api/durably/runs")[0] == 401
        mine = {"authorization": "Bearer token-a"}
        assert api.ask("GET", "/api/durably/runs", **mine) == (200, [])
    environment = {"DURABLY_URL": f"http://127.0.0.1:{api.port}/api/durably"}
    refused = place.durably("runs", "list", **environment)
    assert (refused.code, refused.err.count("\n")) == (1, 1)
    assert "refused (401): authentication required" in refused.err
    listed = place.durably("jobs", "--json", **environment, DURABLY_TOKEN="token-a")
    assert [job["name"] for job in listed.json] == ["nothing", "work"]
    words = ["--header", "Authorization: Bearer token-b"]
    assert place.durably("runs", "list", "--json", *words, **environment).json == []


def test_public_means_everybody(place: Place) -> None:
    api = serve(place, "--host", "0.0.0.0", "--public")
    api.host = "127.0.0.1"
    assert api.ask("GET", "/api/durably/runs", host="some.where") == (200, [])
    assert "anybody" in api.process.said()


def test_pages_of_listed_origins_may_ask(place: Place) -> None:
    api = serve(place, "--cors", "https://app.example", "--cors", "https://two.example")
    for origin in ("https://app.example", "https://two.example"):
        with api.answer("GET", "/api/durably/runs", origin=origin) as response:
            assert response.headers["access-control-allow-origin"] == origin
    with api.answer("GET", "/api/durably/runs", origin="https://other.example") as response:
        assert response.headers["access-control-allow-origin"] is None


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["serve", "app:durably", "--host", "0.0.0.0"], 2, "pass --auth MODULE:NAME, or --public"),
        (["serve", "app:durably", "--host", ""], 2, "every address can be reached"),
        (["serve", "app:durably", "--host", "::"], 2, "can be reached from other machines"),
        (["serve", "app:durably", "--host", "no.such.host.invalid"], 2, "is not known"),
        (["serve", "app:durably", "--port", "70000"], 2, "'70000' is not a port"),
        (["serve", "app:absent"], 2, "module 'app' has no 'absent'"),
        (["serve", "absent:durably"], 2, "No module named 'absent'"),
        (["serve", "app:text"], 2, "app:text is not a Durably instance but a str"),
        (["serve", "app:jobless"], 2, "app:jobless has no jobs; import the modules that"),
        (["serve", "app:durably", "--auth", "auth:nothing"], 2, "has no method authenticate"),
        (["serve", "app:durably", "--cors", "*"], 2, "origin '*'"),
        (["serve", "app:durably", "--grace", "soon"], 2, "'soon' is not a duration"),
        (["--url", "http://here", "serve", "app:durably"], 2, "this command asks no server"),
    ],
)
def test_what_cannot_be_served_is_one_line(
    place: Place,
    words: list[str],
    code: int,
    says: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (place.path / "auth.py").write_text(AUTH)
    monkeypatch.chdir(place.path)
    monkeypatch.setattr(sys, "path", [str(place.path), *sys.path])
    for module in ("app", "auth"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    assert main(words) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert says in err
    assert err.startswith("durably: error: ")
    assert err.count("\n") == 1
    assert not (place.path / "jobs.db").exists()
    for module in ("app", "auth"):
        sys.modules.pop(module, None)


def test_a_port_in_use_is_one_line(place: Place) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = str(listener.getsockname()[1])
        refused = place.durably("serve", "app:durably", "--port", port)
    assert (refused.code, refused.err.count("\n")) == (1, 1)
    assert f"port {port} of 127.0.0.1 is in use; pass another --port" in refused.err


def test_a_bad_database_is_exit_3(place: Place) -> None:
    (place.path / "jobs.db").write_bytes(b"this is no database at all, but it is long enough" * 99)
    refused = place.durably("serve", "app:durably", "--port", "0")
    assert (refused.code, refused.out) == (3, "")
    assert refused.err.splitlines()[-1].startswith("durably: error: ")


def test_without_uvicorn_it_says_what_to_install(place: Place) -> None:
    code = (
        "import sys; sys.modules['uvicorn'] = None; from durably.cli import main; sys.exit(main())"
    )
    refused = subprocess.run(
        [sys.executable, "-c", code, "serve", "app:durably"],
        cwd=place.path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 2
    assert refused.stderr == (
        "durably: error: serve needs uvicorn: pip install 'durably[server]'\n"
    )
