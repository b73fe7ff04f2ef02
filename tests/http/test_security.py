"""The security rules S1 to S20 of the handler, each by name.

Where the proof of a rule is a table or a harness of its own, the test here holds on to it by its name, so
that it cannot vanish, and adds what that does not cover.
"""

from __future__ import annotations

import ast
import asyncio
import importlib
import io
import json
import logging
import pickle
import re
import stat
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

import durably as package
from durably import Durably, Retry, Run, Step
from durably.errors import ConfigurationError
from durably.http import Auth, Limits, Request
from durably.http.routes import ROUTES
from durably.store.reads import select_runs
from durably.store.records import RunFilter
from durably.store.sqlite.store import DIALECT

from .asking import JSON, Answer, Asker
from .corpus import LINES, SHELL, STRINGS

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src/durably"


def proven_by(*names: str) -> None:
    """There are these tests, and pytest collects them."""
    for name in names:
        module, _, function = name.partition("::")
        found = importlib.import_module("tests." + module.replace("/", "."))
        assert callable(getattr(found, function)), name
        assert function.startswith("test_"), name


def trees() -> dict[str, ast.Module]:
    """All our code."""
    return {
        str(path.relative_to(SOURCE)): ast.parse(path.read_text("utf-8"))
        for path in SOURCE.rglob("*.py")
    }


def imports(tree: ast.Module) -> set[str]:
    """The modules that code imports from elsewhere."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def executed(tree: ast.Module) -> list[ast.expr]:
    """What code passes to a database's ``execute``."""
    return [
        node.args[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("execute", "executemany", "executescript")
        and node.args
    ]


async def every_answer(asker: Asker, run_id: str) -> list[Answer]:
    """What each route says, to a request that makes sense and to one that does not."""
    answers = []
    for route in ROUTES:
        for value in (run_id, STRINGS[22]):
            query = [(p.name, value) for p in route.parameters if p.required]
            headers = {**JSON, "accept": "text/html", "x-durably": "1"}
            if route.body:
                answers.append(
                    await asker.ask(route.method, route.path, query, value.encode(), headers)
                )
            else:
                answers.append(await asker.peek(route.method, route.path, query, headers))
    answers += [await asker.get(path) for path in ("/", "/nothing.html", "/<b>")]
    return answers


def test_s01_without_auth_only_loopback_peers_are_answered():
    proven_by(
        "http/test_auth::test_without_auth_only_this_machine_is_answered",
        "http/test_auth::test_to_be_public_is_logged",
        "cli/test_serve::test_what_cannot_be_served_is_one_line",
        "cli/test_serve::test_public_means_everybody",
    )


def test_s02_a_principal_is_required_and_a_missing_hook_denies():
    proven_by(
        "http/test_auth::test_a_run_is_its_tenants_alone",
        "http/test_auth::test_what_is_of_no_run",
        "http/test_hooks::test_nobody_is_not_let_in",
        "http/test_hooks::test_a_missing_hook_refuses",
        "http/test_hooks::test_what_is_not_true_does_not_allow",
        "http/test_hooks::test_a_hook_that_fails_refuses_and_tells_nothing",
        "http/test_hooks::test_a_misspelled_hook_is_an_error_at_once",
    )


def test_s03_a_tenant_is_a_value_of_the_server_and_foreign_runs_do_not_exist():
    proven_by(
        "http/test_tenants::test_nothing_of_the_other_tenant_is_told",
        "http/test_tenants::test_what_b_can_do_is_what_b_could_do_alone",
        "http/test_tenants::test_the_fuzz_finds_a_planted_bug",
        "http/test_auth::test_no_client_chooses_its_tenant",
        "http/test_auth::test_a_key_is_its_tenants_own",
        "http/test_hooks::test_a_key_of_somebody_else_tells_nothing_of_his_run",
        "http/test_auth::test_live_lists_are_of_ones_own_tenant",
    )


def test_s04_no_form_and_no_other_sites_page_changes_anything():
    proven_by(
        "http/test_origins::test_no_page_of_another_site_changes_anything",
        "http/test_origins::test_nothing_changes_by_get",
    )


def test_s05_cors_is_off_and_never_a_star():
    proven_by(
        "http/test_origins::test_other_origins_pages_may_not_read_by_default",
        "http/test_origins::test_origins_are_listed_exactly",
        "http/test_origins::test_listed_origins_pages_may_read",
    )


async def test_s06_streams_take_the_same_credentials_and_no_token_of_a_url(durably, jobs):
    """URL tokens are not offered: an EventSource sends the session's cookie."""

    class Cookies(Auth[str]):
        async def authenticate(self, request: Request) -> str | None:
            cookies = request.headers.get("cookie", "").split("; ")
            return "u1" if "session=good" in cookies else None

        def scope(self, principal: str) -> str:
            return "t1"

    handler = durably.handler(auth=Cookies())
    ada = Asker(handler, {"cookie": "theme=dark; session=good"})
    run_id = (await ada.trigger("hold", {"name": "x"})).json["runId"]
    for path, query in (("/subscribe", [("runId", run_id)]), ("/runs/subscribe", [])):
        answer = await ada.peek("GET", path, query)
        assert answer.status == 200
        assert "no-store" in answer.headers["cache-control"]
        assert answer.headers["x-accel-buffering"] == "no"
        nobody = Asker(handler)
        assert (await nobody.peek("GET", path, query)).status == 401
        for name in ("token", "access_token", "session", "authorization", "key"):
            told = await nobody.peek("GET", path, [*query, (name, "good")])
            assert told.status == 401
            assert (await ada.peek("GET", path, [*query, (name, "good")])).status == 400
    proven_by("http/test_auth::test_who_may_no_longer_have_a_stream_loses_it")


def test_s07_everything_has_a_size():
    proven_by(
        "http/test_trigger::test_a_body_that_is_too_large",
        "http/test_trigger::test_a_body_in_pieces_that_is_too_large_is_not_read_to_its_end",
        "http/test_trigger::test_a_body_that_makes_no_sense_is_refused",
        "http/test_runs::test_each_bad_value_is_named",
        "http/test_asgi::test_a_body_without_a_length_that_is_too_large",
        "http/test_asgi::test_a_query_that_is_too_long",
        "http/test_hostile::test_a_shape_that_eats_memory",
        "http/test_hostile::test_what_is_too_large_is_not_kept",
        "http/test_hostile::test_bytes_that_make_no_sense",
    )
    limits = {p.maximum for route in ROUTES for p in route.parameters if p.name == "limit"}
    assert limits == {200, 1_000}  # of runs, and of log lines


# What may be written into a statement: names of our own tables and columns, and marks for values.
OUR_NAMES = {"names", "table.name", "self._statements.qualify(table.name)", "columns", "marks"}


def filled_in(sql: ast.expr) -> set[str]:
    """What an f-string is filled in with, as it is written there."""
    return {
        ast.unparse(part.value) for part in ast.walk(sql) if isinstance(part, ast.FormattedValue)
    }


def is_pragma(sql: ast.expr) -> bool:
    """A pragma takes no parameters."""
    return ast.unparse(sql).startswith("f'pragma ")


def test_s08_no_sql_is_made_of_input():
    for string in STRINGS:
        labels = {string.replace('"', "").replace("\\", "") or "x": string}
        plain = RunFilter(("a",), (), {"b": "c"}, after="d", scope="e")
        hostile = RunFilter((string,), (), labels, after=string, scope=string or "e")
        assert select_runs(DIALECT, plain)[0] == select_runs(DIALECT, hostile)[0]
    for name, tree in trees().items():
        for sql in executed(tree):
            assert not isinstance(sql, ast.BinOp), (name, sql.lineno)
            assert filled_in(sql) <= OUR_NAMES or is_pragma(sql), (name, sql.lineno)
    proven_by(
        "http/test_hostile::test_a_hostile_string_in_any_field",
        "http/test_hostile::test_a_hostile_string_is_only_data",
    )


async def test_s09_errors_tell_nothing_of_the_inside(durably, jobs, asker, monkeypatch):
    async def fails(*_: Any) -> Any:
        raise OSError("/srv/app/jobs.db: sqlite3.OperationalError in select * from durably_runs")

    engine = durably._engine
    for name in ("get_row", "get_rows", "enqueue", "count_steps", "count_runs", "get_state"):
        monkeypatch.setattr(engine.runs, name, fails)
    monkeypatch.setattr(engine, "health", fails)
    seen = set()
    for route in ROUTES:
        query = [(p.name, "x") for p in route.parameters if p.required]
        if route.body:
            answer = await asker.trigger("tick")
        else:
            answer = await asker.peek(route.method, route.path, query, JSON)
        seen.add(answer.status)
        assert not re.search(rb"sqlite|OSError|/srv|select |Traceback \(", answer.body)
        if answer.status == 500:
            assert answer.json.keys() == {"error", "code", "requestId"}
    assert 500 in seen
    proven_by(
        "http/test_handler::test_a_failure_tells_nothing_but_its_number",
        "http/test_handler::test_a_failed_run_says_why_as_far_as_it_may",
        "http/test_trigger::test_the_error_policy_holds_for_what_a_trigger_tells",
    )


class Evil:
    """Unpickling it would be noticed."""

    def __reduce__(self) -> Any:
        return (print, ("unpickled",))


async def test_s10_what_is_kept_is_data(durably, asker, capsys):
    loaders = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "yaml", "jsonpickle"}
    for name, tree in trees().items():
        assert not loaders & imports(tree), name
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("eval", "exec", "compile", "__import__"), (
                    name,
                    node.lineno,
                )
    for text in (*SHELL, pickle.dumps(Evil(), 0).decode("latin-1"), '{"__class__": "os.system"}'):
        answer = await asker.trigger(
            "echo", {"x": text, "__class__": "os.system", "py/object": "os.system"}
        )
        run = await durably.wait(answer.json["runId"], timeout=30)
        assert run.output["x"] == text
    assert "unpickled" not in capsys.readouterr().out


async def test_s11_no_page_is_ever_answered(durably, jobs, asker):
    """There is no dashboard, so there is no markup to escape: whatever is asked, and whatever the client
    says that it accepts, the answer is JSON, events or plain text, and no browser may guess otherwise."""
    run_id = (await asker.trigger("echo", "<script>alert(1)</script>")).json["runId"]
    await durably.wait(run_id, timeout=30)
    for answer in await every_answer(asker, run_id):
        kind = answer.headers["content-type"].partition(";")[0]
        assert kind in ("application/json", "text/event-stream", "text/plain")
        assert answer.headers["x-content-type-options"] == "nosniff"
    served = {path.suffix for path in SOURCE.rglob("*") if path.is_file()} - {".pyc"}
    assert served <= {".py", ".sql", ".typed", ".json", ".js"}  # no markup
    scripts = [path.name for path in SOURCE.rglob("*.js")]
    assert scripts == ["service-worker.js"]  # which is copied into applications, not served


async def test_s12_nothing_in_a_value_begins_another_event(durably, asker):
    @durably.job("loud")
    async def loud(step: Step, input: list[str]) -> list[str]:
        for i, text in enumerate(input):
            step.log.info(text, {text: text})
            step.progress(i, None, text)
            await step.run(f"step {i}", lambda text=text: {"out": text})
        return input

    texts = [
        *LINES,
        "data: x\n\nid: 99\nevent: evil\ndata: {}\n\n",
        "\r\r: c",
        "\u2028retry: 1\n\n",
    ]
    labels = {"name": "data: x"}
    run_id = (await asker.trigger("loud", texts, labels=labels)).json["runId"]
    heard = await asker.ask("GET", "/subscribe", [("runId", run_id), ("after", "0")])
    frames = heard.body.split(b"\n\n")
    assert frames.pop() == b""
    events = []
    for line in b"\n".join(frames).split(b"\n"):
        assert re.fullmatch(rb"id: \d+|retry: \d+|data: \{[ -~]*\}", line), line
        if line.startswith(b"data: "):
            events.append(json.loads(line[6:]))
    assert [event["output"] for event in events if event["type"] == "run:complete"] == [texts]
    steps = [event["output"]["out"] for event in events if event["type"] == "step:complete"]
    assert steps == texts
    assert {event["runId"] for event in events} == {run_id}
    for name in ("x\ny", "a\rb", "a\0b"):  # and no name can hold one
        assert (await asker.trigger("tick", labels={name: "x"})).refusal == (400, "invalid_input")


def test_s13_our_own_patterns_are_linear():
    """A client sends none. Ours get 200,000 characters of what backtracking dislikes; in a process of their own,
    since a pattern that hangs cannot be interrupted."""
    patterns = {
        value.pattern if isinstance(value.pattern, str) else value.pattern.decode("latin-1")
        for name in [
            path.relative_to(SOURCE.parent)
            for path in SOURCE.rglob("*.py")
            if path.stem != "__main__" and "__pyinstaller" not in path.parts
        ]
        for value in vars(
            importlib.import_module(
                str(name.with_suffix("")).replace("/", ".").removesuffix(".__init__")
            )
        ).values()
        if isinstance(value, re.Pattern)
    }
    assert "[0-9][0-9]{15}" in patterns
    subjects = [c * 200_000 for c in "1a '\"\\/.-: \n"] + [
        "1" * 15 + "a",
        "a1" * 100_000,
        "'" + "\\'" * 100_000,
    ]
    program = """
import json, re, sys
patterns, subjects = json.load(sys.stdin)
for pattern in patterns:
    for subject in subjects:
        re.compile(pattern).search(subject); re.compile(pattern).fullmatch(subject)
"""
    given = json.dumps([sorted(patterns), [s * (1 if len(s) > 99 else 60_000) for s in subjects]])
    subprocess.run([sys.executable, "-c", program], input=given, text=True, check=True, timeout=300)


FETCHERS = {
    "urllib.request",
    "http.client",
    "httpx",
    "httpx2",
    "requests",
    "aiohttp",
    "ftplib",
    "smtplib",
}


async def test_s14_no_address_is_ever_fetched():
    """There are no webhooks; nothing but the client knows how to ask another server."""
    for name, tree in trees().items():
        if not name.startswith(("client/", "cli/")):
            assert not FETCHERS & imports(tree), name
    events = await audited("""
import asyncio, tempfile
from typing import Any
from durably import Durably
from durably.http import Request

async def main():
    async with Durably(tempfile.mkdtemp() + "/app.db") as durably:
        @durably.job("echo")
        async def echo(step, input: Any) -> Any:
            return await step.run("echo", lambda: input)
        handler = durably.handler()
        headers = {"host": "localhost", "content-type": "application/json", "referer": "http://127.0.0.1:9/"}
        url = b"http://127.0.0.1:9/"
        body = b'{"jobName":"echo","input":{"url":"%b","$ref":"%b"},"labels":{"u":"%b"}}' % (url, url, url)
        for path in ("/trigger", "/runs", "/http://127.0.0.1:9/"):
            method = "POST" if path == "/trigger" else "GET"
            await handler.handle(Request(method, path, (), headers, body, "127.0.0.1"))
        await durably.run_until_idle()

asyncio.run(main())
""")
    assert [
        event for event in events if event.startswith("socket.connect (2") or "urllib" in event
    ] == []


async def audited(program: str) -> list[str]:
    """What a program does on the network."""
    hook = """
import sys
def hook(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "urllib.Request", "http.client.connect"):
        family = getattr(args[0], "family", "") if args else ""
        print("AUDIT", event, (int(family) if family != "" else "", *map(str, args[1:])))
sys.addaudithook(hook)
"""
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", hook + program],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return [line[6:] for line in done.stdout.splitlines() if line.startswith("AUDIT ")]


def test_s15_connections_are_bounded():
    limits = Limits()
    assert (limits.streams, limits.streams_per_principal) == (1_000, 20)
    proven_by(
        "http/test_auth::test_a_principal_has_so_many_streams",
        "http/streams/test_protocol::test_there_are_so_many_streams_and_no_more",
        "http/streams/test_readers::test_slow_readers_are_bounded_delay_nobody_and_miss_nothing",
        "http/test_hostile::test_a_body_that_never_comes_holds_nobody_else",
    )


@pytest.mark.parametrize(
    "url", ["postgresql://u:hunter2/@db/x", "mysql://u:hunter2@db/x", "sqlite+x://hunter2"]
)
async def test_s16_secrets_stay_inside(durably, jobs, asker, url, caplog):
    """What jobs are given is kept as it is: what must not be kept, must not be given. A hook that
    redacts values is not offered."""
    with pytest.raises(ConfigurationError) as error:
        await Durably(url).init()
    assert "hunter2" not in str(error.value)
    for path in ("/healthz", "/readyz", "/metrics", "/openapi.json", "/jobs"):
        body = (await asker.get(path)).body
        assert b"app.db" not in body
        assert b"never told" not in body
    assert "hunter2" not in caplog.text
    proven_by("wire/test_golden::test_leases_keys_and_scopes_stay_inside")


async def test_s17_what_moves_runs_is_a_permission_of_its_own(durably, jobs):
    """There is no dashboard; the rule holds for whoever builds one: each hook is told the operation.
    Who asked for what, ``on_run_access`` and ``on_trigger`` see and may write down."""
    audit: list[tuple[str, str]] = []

    class Readers(Auth[str]):
        async def authenticate(self, request: Request) -> str | None:
            return request.headers.get("authorization")

        def scope(self, principal: str) -> str:
            return "t1"

        def on_run_access(self, principal: str, run: Run, operation: str) -> bool:
            audit.append((principal, operation))
            return principal == "admin" or operation in ("run", "steps", "logs", "subscribe")

    handler = durably.handler(auth=Readers())
    reader, admin = (Asker(handler, {"authorization": name}) for name in ("reader", "admin"))
    run_id = (await admin.trigger("hold", {"name": "x"})).json["runId"]
    for route in ROUTES:
        if any(p.required for p in route.parameters):
            answer = await reader.peek(route.method, route.path, [("runId", run_id)], JSON)
            assert answer.status == (404 if route.is_unsafe else 200)
            assert audit.pop() == ("reader", route.operation)
    assert (await admin.post("/cancel", runId=run_id)).status == 200


async def test_s18_few_dependencies_pinned_and_no_network_at_import():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert [re.match(r"[\w-]+", line)[0] for line in project["dependencies"]] == ["pydantic"]
    pinned = (ROOT / "requirements-dev.txt").read_text().replace("\\\n", " ")
    for line in pinned.splitlines():
        if line.strip() and not line.lstrip().startswith(("#", "-")):
            assert re.match(r"[\w.\[\]-]+==\S+ ", line), line
            assert "--hash=sha256:" in line, line
    assert await audited("import durably, durably.http, durably.cli.parser") == []
    assert package.__name__ == "durably"


async def test_s19_the_database_is_its_owners(tmp_path):
    """SQLite has no roles; who may read the file may read the runs."""
    import os

    before = os.umask(0)
    try:
        async with Durably(tmp_path / "app.db") as durably:

            @durably.job("tick")
            async def tick(step: Step) -> None: ...

            await durably.wait(await tick.trigger(), timeout=30)
            modes = {
                path.name: stat.S_IMODE(path.stat().st_mode)
                for path in tmp_path.rglob("*")
                if not stat.S_ISSOCK(path.stat().st_mode)
            }
    finally:
        os.umask(before)
    assert {name for name, mode in modes.items() if mode & 0o077} == set()
    assert "app.db" in modes


HOSTILE = "x\nERROR durably everything is lost\r\x1b[31m\x9b31m\u2028"


async def worst_job(durably: Durably, asker: Asker, **options: Any) -> Run:
    @durably.job("worst")
    async def worst(step: Step, input: str) -> None:
        def fails() -> None:
            raise ValueError(input)

        step.log.error(input, {input: input})
        await step.run("fails", fails, **options)

    run_id = (await asker.trigger("worst", HOSTILE, labels={"a": "b"})).json["runId"]
    async for event in durably.subscribe(run_id):
        if event.is_final:
            break
    run = await durably.get_run(run_id)
    assert run is not None
    return run


def lines_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    assert caplog.records
    return [record.getMessage() for record in caplog.records]


async def test_s20_a_retried_steps_error_forges_no_line_of_the_log(durably, jobs, asker, caplog):
    caplog.set_level(logging.DEBUG, "durably")
    run = await worst_job(durably, asker, retries=Retry(times=1, delay=0.01))
    assert run.error is not None
    assert all(line.isprintable() for line in lines_of(caplog))


async def test_s20_nothing_that_a_client_says_forges_a_line_of_the_log(durably, jobs, caplog):
    caplog.set_level(logging.DEBUG, "durably")

    class Failing(Auth[str]):
        async def authenticate(self, request: Request) -> str | None:
            raise KeyError(request.headers["authorization"])

    asker = Asker(durably.handler())
    await worst_job(durably, asker)
    nobody = Asker(durably.handler(auth=Failing()), {"authorization": HOSTILE})
    for route in ROUTES:
        await nobody.ask(route.method, route.path, [("runId", HOSTILE)], HOSTILE.encode(), JSON)
    await durably.stop(0)
    await asker.get("/run", runId=HOSTILE[:1])
    told = lines_of(caplog)
    assert all(line.isprintable() for line in told)
    # What a traceback says is the exception's own; the line above it is ours.
    out = io.StringIO()
    for record in caplog.records:
        print(logging.Formatter("%(levelname)s %(message)s").format(record), file=out)
    assert "GET /runs failed (request " in out.getvalue()
    proven_by("http/test_hostile::test_a_hostile_string_in_any_field")


def test_each_rule_has_a_test():
    rules = {int(name[6:8]) for name in globals() if re.match(r"test_s\d\d_", name)}
    assert rules == {*range(1, 21)}
