"""The client that is published for the TypeScript original, unmodified, in a real browser, against our server.

Every assertion is about what the page shows: what its users would see.
"""

import json
import urllib.request

import pytest
from playwright.async_api import expect as playwright_expect

from durably import Durably, Step

from .conftest import PATIENCE, Server, View

pytestmark = pytest.mark.asyncio(loop_scope="module")

playwright_expect.set_options(timeout=PATIENCE * 1000)
RESET = {"status": "null", "output": "null", "error": "null", "progress": "null"}


async def shows(view: View, **texts: str) -> None:
    """The elements of these ids show these texts, now or soon."""
    for id, text in texts.items():
        await playwright_expect(view.page.locator(f"#{id}")).to_have_text(text)


async def logs(view: View, *lines: str) -> None:
    await playwright_expect(view.page.locator("#logs > li")).to_have_text(list(lines))


async def names(view: View, *wanted: str) -> None:
    """The runs that the list shows, in order."""
    await playwright_expect(view.page.locator("td.name")).to_have_text(list(wanted))


async def cell(view: View, run_id: str, column: str, text: str) -> None:
    await playwright_expect(view.page.locator(f"#run-{run_id} .{column}")).to_have_text(text)


async def run_id(view: View, other_than: str = "null") -> str:
    """The run that the page follows, once there is one other than this."""
    shown = view.page.locator("#run")
    await playwright_expect(shown).not_to_have_text(other_than)
    return await shown.inner_text()


# -- a job: trigger, watch, end


async def test_a_run_from_its_trigger_to_its_output(view: View, server: Server):
    await view.open(server, "job", job="import")
    await shows(view, run="null", flags="", **RESET)
    await view.trigger("a", rows=3, hold=[0, 2])
    await shows(view, status="leased", flags="isLeased isActive", output="null")
    server.open_gate("a", 0)
    await shows(view, progress='{"current":2,"total":3,"message":"row 2"}', status="leased")
    await logs(view, 'info saved {"row":0}', 'info saved {"row":1}')
    server.open_gate("a", 2)
    await shows(view, status="completed", output='{"count":3}', error="null")
    await shows(view, flags="isCompleted isTerminal")
    await shows(view, progress='{"current":3,"total":3,"message":"row 3"}')
    saved = [f'info saved {{"row":{row}}}' for row in range(3)]
    await logs(view, *saved, "warn no more rows")
    assert json.loads(await view.page.inner_text("#answer")) == {"runId": await run_id(view)}


async def test_a_run_that_fails(view: View, server: Server):
    await view.open(server, "job", job="broken")
    await view.trigger("a", hold=[0])
    await shows(view, status="leased")
    server.open_gate("a", 0)
    await shows(view, status="failed", error="row 3 is no number", output="null")
    await shows(view, flags="isFailed isTerminal")


async def test_trigger_and_wait(view: View, server: Server):
    await view.open(server, "job", job="import")
    await view.trigger("a", by="#wait", rows=1)
    await playwright_expect(view.page.locator("#answer")).to_contain_text('"output":{"count":1}')
    await view.open(server, "job", job="broken")
    await view.trigger("a", by="#wait")
    await shows(view, answer="refused: row 3 is no number")


async def test_a_trigger_that_is_refused(view: View, server: Server):
    await view.open(server, "job", job="import")
    await view.trigger("a", rows="many")
    answer = view.page.locator("#answer")
    await playwright_expect(answer).to_contain_text("rows")
    await playwright_expect(answer).to_contain_text('refused: {"error":')
    await shows(view, run="null", status="null")
    await view.open(server, "job", job="unknown")
    await view.trigger("a")
    await playwright_expect(answer).to_contain_text("unknown")


async def test_reset_and_the_next_run(view: View, server: Server):
    await view.open(server, "job", job="import")
    await view.trigger("a")
    first = await run_id(view)
    await shows(view, status="completed")
    await view.click("#reset")
    await shows(view, run="null", **RESET)
    await logs(view)
    await view.trigger("b", rows=4)
    await run_id(view)
    await shows(view, status="completed", output='{"count":4}')
    assert await run_id(view) != first


# -- which run a job's page follows


async def test_follow_latest(view: View, server: Server):
    await view.open(server, "job", job="import", autoResume="no")
    await view.trigger("a")
    await shows(view, status="completed")
    other = server.trigger("import", "b", hold=[0])
    await shows(view, run=other, status="leased", output="null")
    server.trigger("broken", "c")
    server.open_gate("b", 0)
    await shows(view, run=other, status="completed", output='{"count":2}')


async def test_not_to_follow_latest(view: View, server: Server):
    await view.open(server, "job", job="import", autoResume="no", followLatest="no")
    await view.trigger("a", hold=[0])
    await shows(view, status="leased")
    mine = await run_id(view)
    server.run_of("import", "b")
    server.open_gate("a", 0)
    await shows(view, run=mine, status="completed")


async def test_a_page_that_is_reloaded_resumes(view: View, server: Server):
    await view.open(server, "job", job="import")
    await view.trigger("a", rows=3, hold=[1])
    await shows(view, progress='{"current":1,"total":3,"message":"row 1"}')
    mine = await run_id(view)
    await view.page.reload()
    await shows(view, run=mine, status="leased")
    await shows(view, progress='{"current":1,"total":3,"message":"row 1"}')
    server.open_gate("a", 1)
    await shows(view, status="completed", output='{"count":3}')
    await view.page.reload()
    await shows(view, run="null", status="null")


async def test_a_pending_run_is_resumed_too(view: View, server: Server):
    server.trigger("import", "a", hold=[0], concurrencyKey="one at a time")
    waiting = server.trigger("broken", "b", hold=[0], concurrencyKey="one at a time")
    await view.open(server, "job", job="broken", followLatest="no")
    await shows(view, run=waiting, status="null")
    server.open_gate("a", 0)
    await shows(view, status="leased")
    server.open_gate("b", 0)
    await shows(view, status="failed")


async def test_not_to_resume(view: View, server: Server):
    server.trigger("import", "a", hold=[0])
    await view.open(server, "job", job="import", autoResume="no", followLatest="no")
    await view.trigger("b")
    await shows(view, status="completed")
    assert await run_id(view) == json.loads(await view.page.inner_text("#answer"))["runId"]


async def test_an_initial_run_that_is_over(view: View, server: Server):
    done, failed = server.run_of("import", "a"), server.run_of("broken", "b")
    cancelled = server.trigger("import", "c", hold=[0])
    server.ask("POST", "/cancel", runId=cancelled)
    await view.open(server, "job", job="import", initialRunId=done)
    await shows(view, run=done, status="completed", output='{"count":2}', error="null")
    await view.open(server, "job", job="broken", initialRunId=failed)
    await shows(view, run=failed, status="failed", error="row 3 is no number", output="null")
    await view.open(server, "job", job="import", initialRunId=cancelled)
    await shows(view, run=cancelled, status="cancelled", flags="isCancelled isTerminal")


# -- what can be done with a run


async def test_cancel(view: View, server: Server):
    await view.open(server, "job", job="import")
    await view.trigger("a", hold=[0])
    await shows(view, status="leased")
    await view.click(".cancel")
    await shows(view, status="cancelled", answer="done", flags="isCancelled isTerminal")
    await view.click(".cancel")
    await playwright_expect(view.page.locator("#answer")).to_contain_text("refused: ")


async def test_retrigger(view: View, server: Server):
    await view.open(server, "job", job="broken")
    await view.trigger("a")
    await shows(view, status="failed")
    first = await run_id(view)
    await view.click(".retrigger")
    second = await run_id(view, other_than=first)
    await shows(view, answer=second, status="failed", error="row 3 is no number")


async def test_delete_and_look_up(view: View, server: Server):
    deleted = server.run_of("import", "a")
    await view.open(server, "job", job="import", initialRunId=deleted, followLatest="no")
    await shows(view, status="completed")
    answer = view.page.locator("#answer")
    await view.click(".getRun")
    await playwright_expect(answer).to_contain_text(f'"id":"{deleted}"')
    run = json.loads(await answer.inner_text())
    assert run["isTerminal"] is True
    assert {name: run[name] for name in ("jobName", "status", "output", "error", "labels")} == {
        "jobName": "import", "status": "completed", "output": {"count": 2}, "error": None, "labels": {},
    }  # fmt: skip
    await view.click(".deleteRun")
    await shows(view, answer="done")
    await view.click(".getRun")
    await shows(view, answer="null")
    await view.click(".retrigger")
    await playwright_expect(answer).to_contain_text("refused: ")


async def test_the_fields_of_a_run(server: Server):
    """Exactly those that the client's ``ClientRun`` declares."""
    (run,) = [server.ask("GET", "/run", runId=server.run_of("import", "a"))]
    assert sorted(run) == [
        "completedAt", "completedStepCount", "createdAt", "currentStepIndex", "error", "id", "input",
        "isActive", "isTerminal", "jobName", "labels", "output", "progress", "startedAt", "status",
    ]  # fmt: skip


async def test_the_steps_of_a_run(view: View, server: Server):
    await view.open(server, "job", job="import", initialRunId=server.run_of("import", "a"))
    await view.click(".getSteps")
    answer = view.page.locator("#answer")
    await playwright_expect(answer).to_contain_text("[{")
    steps = json.loads(await answer.inner_text())
    assert [(step["name"], step["index"], step["status"], step["output"]) for step in steps] == [
        ("row-0", 0, "completed", 0),
        ("row-1", 1, "completed", 10),
    ]
    await view.open(server, "job", job="broken", initialRunId=server.run_of("broken", "b"))
    await view.click(".getSteps")
    await playwright_expect(answer).to_contain_text("[{")
    (step,) = json.loads(await answer.inner_text())
    assert (step["name"], step["status"], step["error"]) == (
        "parse",
        "failed",
        "row 3 is no number",
    )


# -- one run by its id, its logs


async def test_a_run_by_its_id(view: View, server: Server):
    watched = server.trigger("import", "a", rows=3, hold=[0])
    await view.open(server, "run", runId=watched)
    await shows(view, status="leased", called="start")
    server.open_gate("a", 0)
    await shows(view, status="completed", output='{"count":3}', called="start complete")
    last = view.page.locator("#last > li")
    await playwright_expect(last).to_have_text(["saved", "no more rows"])
    await view.click("#clear")
    await playwright_expect(last).to_have_count(0)


async def test_a_run_that_waits_and_fails(view: View, server: Server):
    server.trigger("import", "a", hold=[0], concurrencyKey="one at a time")
    watched = server.trigger("broken", "b", concurrencyKey="one at a time")
    await view.open(server, "run", runId=watched)
    await shows(view, status="pending", flags="isPending isActive", called="start")
    server.open_gate("a", 0)
    await shows(view, status="failed", called="start fail")


async def test_a_run_that_there_is_not(view: View, server: Server):
    await view.open(server, "run", runId="00000000-0000-7000-8000-000000000000")
    await shows(view, error="Connection failed", status="pending")


# -- lists


async def test_pages_of_a_list(view: View, server: Server):
    for name in "abcde":
        server.run_of("import", name)
    await view.open(server, "list", pageSize=2)
    await names(view, "e", "d")
    await shows(view, page="0 more fine")
    await view.click("#next")
    await names(view, "c", "b")
    await shows(view, page="1 more fine")
    await view.click("#next")
    await names(view, "a")
    await shows(view, page="2 last fine")
    await view.click("#prev")
    await names(view, "c", "b")
    await view.click("#third")
    await names(view, "a")


async def test_what_a_list_is_asked_for(view: View, server: Server):
    server.run_of("import", "a", labels={"org": "one", "team/name": "x y"})
    server.run_of("broken", "b", labels={"org": "one"})
    server.run_of("import", "c", labels={"org": "two", "team/name": "x y"})
    running = server.trigger("import", "d", hold=[0])
    await view.open(server, "list")
    await names(view, "d", "c", "b", "a")
    await cell(view, running, "status", "leased")
    await view.open(server, "list", job="broken")
    await names(view, "b")
    await view.open(server, "list", job=["import", "broken"], status=["completed", "failed"])
    await names(view, "c", "b", "a")
    await view.open(server, "list", status="leased")
    await names(view, "d")
    await view.open(server, "list", **{"label.org": "one", "label.team/name": "x y"})
    await names(view, "a")


async def test_a_list_is_live(view: View, server: Server):
    await view.open(server, "list", job="import")
    await shows(view, page="0 last fine")
    run = server.trigger("import", "a", rows=3, hold=[0, 2])
    await cell(view, run, "status", "leased")
    server.open_gate("a", 0)
    await cell(view, run, "progress", '{"current":2,"total":3,"message":"row 2"}')
    await cell(view, run, "steps", "2")
    server.open_gate("a", 2)
    await cell(view, run, "status", "completed")
    await cell(view, run, "output", '{"count":3}')
    server.run_of("broken", "of another job")
    second = server.trigger("import", "b", hold=[0])
    await cell(view, second, "status", "leased")
    await view.click(f"#run-{second} .cancel")
    await cell(view, second, "status", "cancelled")
    server.ask("DELETE", "/run", runId=run)
    await names(view, "b")
    await view.click(f"#run-{second} .retrigger")
    await names(view, "b", "b")
    await view.click(f"#run-{second} .deleteRun")
    await names(view, "b")


async def test_a_live_list_shows_failures(view: View, server: Server):
    await view.open(server, "list")
    await shows(view, page="0 last fine")
    run = server.trigger("broken", "a")
    await cell(view, run, "status", "failed")
    await cell(view, run, "error", "row 3 is no number")


async def test_a_list_that_is_read_when_asked(view: View, server: Server):
    await view.open(server, "list", realtime="no")
    await shows(view, page="0 last fine")
    server.run_of("import", "a")
    await view.click("#refresh")
    await names(view, "a")


# -- the server goes and comes back


async def test_a_page_outlives_the_server(view: View, mortal_server: Server):
    """What was journaled while it was away is told once, and how far the run came meanwhile."""
    server = mortal_server
    await view.open(server, "job", job="import")
    await view.trigger("a", rows=4, hold=[0, 2, 3])
    await shows(view, status="leased")
    server.open_gate("a", 0)
    await shows(view, progress='{"current":2,"total":4,"message":"row 2"}')
    run = await run_id(view)
    await view.page.context.set_offline(True)
    server.process.kill()
    server.open_gate("a", 2)
    server.process.start()
    server.wait_for(run, lambda told: told["progress"]["current"] == 3)
    await view.page.context.set_offline(False)
    await shows(view, progress='{"current":3,"total":4,"message":"row 3"}')
    server.open_gate("a", 3)
    await shows(view, status="completed", output='{"count":4}', error="null")
    saved = [f'info saved {{"row":{row}}}' for row in range(4)]
    await logs(view, *saved, "warn no more rows")


async def test_a_list_outlives_the_server(view: View, mortal_server: Server):
    """What happened in between has no event left to tell it: the client is made to look again."""
    server = mortal_server
    await view.open(server, "list")
    run = server.trigger("import", "before")
    await cell(view, run, "status", "completed")
    server.process.kill()
    elsewhere = Durably(server.database, worker=False)

    @elsewhere.job("unknown to the server")
    async def job(step: Step, input: dict[str, str]) -> None:
        raise AssertionError("nobody works here")

    async with elsewhere:
        await job.trigger({"name": "meanwhile"})
    server.process.start()
    await names(view, "meanwhile", "before")


async def test_a_finished_stream_is_told_to_rest(server: Server):
    """The client keeps its stream open for good, so the browser comes back after ``retry`` milliseconds:
    seldom, and never to an answer that would show as an error beside the output."""
    done = server.run_of("import", "a")
    url = f"{server.url}/api/durably/subscribe?runId={done}"
    with urllib.request.urlopen(url, timeout=PATIENCE) as stream:
        lines = stream.read().decode().splitlines()
    waits = [int(line[6:]) for line in lines if line.startswith("retry:")]
    assert waits[-1] >= 60_000
    last_id = [line[3:].strip() for line in lines if line.startswith("id:")][-1]
    again = urllib.request.Request(url, headers={"Last-Event-ID": last_id})
    with urllib.request.urlopen(again, timeout=PATIENCE) as stream:
        assert stream.status == 200
        assert stream.headers.get_content_type() == "text/event-stream"
        assert b"log:write" not in stream.read()


async def test_a_page_of_a_listed_origin(view: View, server: Server):
    """``origins=[...]``: nothing but the browser's own headers tells who asks."""
    api = f"{server.url}/api/durably"
    await view.open(server, "job", at=server.listed_url, api=api, job="import")
    await view.trigger("a", hold=[0])
    await shows(view, status="leased")
    await view.click(".cancel")
    await shows(view, status="cancelled", answer="done")
    first = await run_id(view)
    await view.click(".retrigger")
    second = await run_id(view, other_than=first)
    await shows(view, answer=second, status="leased")
    server.open_gate("a", 0)
    await shows(view, status="completed")
    await view.click(".deleteRun")
    await shows(view, answer="done")
    await view.click(".getRun")
    await shows(view, answer="null")
