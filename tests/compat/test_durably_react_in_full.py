"""The published client option by option, its refusals, and a server that goes and comes back."""

import json

import pytest

from durably import Durably, Step
from tests.tier import TIER

from .server import Server
from .view import NOTHING, View

if TIER == "quick":
    pytest.skip("every option of the client: the ci tier's", allow_module_level=True)

pytestmark = pytest.mark.asyncio(loop_scope="package")


async def test_trigger_and_wait(view: View, server: Server):
    await view.open(server, "job", job="import")
    await view.trigger("a", by="#wait", rows=1)
    await view.answers('"output":{"count":1}')
    await view.open(server, "job", job="broken")
    await view.trigger("a", by="#wait")
    await view.shows(answer="refused: row 3 is no number")


async def test_a_trigger_that_is_refused(view: View, server: Server):
    await view.open(server, "job", job="import")
    await view.trigger("a", rows="many")
    assert "rows" in await view.answers('refused: {"error":')
    await view.shows(run="null", status="null")
    await view.open(server, "job", job="unknown")
    await view.trigger("a")
    await view.answers("unknown")


async def test_reset_and_the_next_run(view: View, server: Server):
    await view.open(server, "job", job="import")
    await view.trigger("a")
    first = await view.run_id()
    await view.shows(status="completed")
    await view.click("#reset")
    await view.shows(run="null", **NOTHING)
    await view.logs()
    await view.trigger("b", rows=4)
    await view.run_id()
    await view.shows(status="completed", output='{"count":4}')
    assert await view.run_id() != first


async def test_not_to_follow_latest(view: View, server: Server):
    await view.open(server, "job", job="import", autoResume="no", followLatest="no")
    await view.trigger("a", hold=[0])
    await view.shows(status="leased")
    mine = await view.run_id()
    server.run_of("import", "b")
    server.open_gate("a", 0)
    await view.shows(run=mine, status="completed")


async def test_a_pending_run_is_resumed_too(view: View, server: Server):
    server.trigger("import", "a", hold=[0], concurrencyKey="one at a time")
    waiting = server.trigger("broken", "b", hold=[0], concurrencyKey="one at a time")
    await view.open(server, "job", job="broken", followLatest="no")
    await view.shows(run=waiting, status="null")
    server.open_gate("a", 0)
    await view.shows(status="leased")
    server.open_gate("b", 0)
    await view.shows(status="failed")


async def test_not_to_resume(view: View, server: Server):
    server.trigger("import", "a", hold=[0])
    await view.open(server, "job", job="import", autoResume="no", followLatest="no")
    await view.trigger("b")
    await view.shows(status="completed")
    assert await view.run_id() == json.loads(await view.answers("runId"))["runId"]


async def test_an_initial_run_that_is_over(view: View, server: Server):
    done, failed = server.run_of("import", "a"), server.run_of("broken", "b")
    cancelled = server.trigger("import", "c", hold=[0])
    server.ask("POST", "/cancel", runId=cancelled)
    await view.open(server, "job", job="import", initialRunId=done)
    await view.shows(run=done, status="completed", output='{"count":2}', error="null")
    await view.open(server, "job", job="broken", initialRunId=failed)
    await view.shows(run=failed, status="failed", error="row 3 is no number", output="null")
    await view.open(server, "job", job="import", initialRunId=cancelled)
    await view.shows(run=cancelled, status="cancelled", flags="isCancelled isTerminal")


async def test_the_steps_of_a_run(view: View, server: Server):
    await view.open(server, "job", job="import", initialRunId=server.run_of("import", "a"))
    await view.click(".getSteps")
    steps = json.loads(await view.answers("[{"))
    assert [(step["name"], step["index"], step["status"], step["output"]) for step in steps] == [
        ("row-0", 0, "completed", 0),
        ("row-1", 1, "completed", 10),
    ]
    await view.open(server, "job", job="broken", initialRunId=server.run_of("broken", "b"))
    await view.click(".getSteps")
    (step,) = json.loads(await view.answers("[{"))
    assert (step["name"], step["status"], step["error"]) == (
        "parse",
        "failed",
        "row 3 is no number",
    )


async def test_a_run_that_waits_and_fails(view: View, server: Server):
    server.trigger("import", "a", hold=[0], concurrencyKey="one at a time")
    watched = server.trigger("broken", "b", concurrencyKey="one at a time")
    await view.open(server, "run", runId=watched)
    await view.shows(status="pending", flags="isPending isActive", called="start")
    server.open_gate("a", 0)
    await view.shows(status="failed", called="start fail")


async def test_a_run_that_there_is_not(view: View, server: Server):
    await view.open(server, "run", runId="00000000-0000-7000-8000-000000000000")
    await view.shows(error="Connection failed", status="pending")


async def test_pages_of_a_list(view: View, server: Server):
    for name in "abcde":
        server.run_of("import", name)
    await view.open(server, "list", pageSize=2)
    await view.names("e", "d")
    await view.shows(page="0 more fine")
    await view.click("#next")
    await view.names("c", "b")
    await view.shows(page="1 more fine")
    await view.click("#next")
    await view.names("a")
    await view.shows(page="2 last fine")
    await view.click("#prev")
    await view.names("c", "b")
    await view.click("#third")
    await view.names("a")


async def test_what_a_list_is_asked_for(view: View, server: Server):
    server.run_of("import", "a", labels={"org": "one", "team/name": "x y"})
    server.run_of("broken", "b", labels={"org": "one"})
    server.run_of("import", "c", labels={"org": "two", "team/name": "x y"})
    running = server.trigger("import", "d", hold=[0])
    await view.open(server, "list")
    await view.names("d", "c", "b", "a")
    await view.cell(running, "status", "leased")
    await view.open(server, "list", job="broken")
    await view.names("b")
    await view.open(server, "list", job=["import", "broken"], status=["completed", "failed"])
    await view.names("c", "b", "a")
    await view.open(server, "list", status="leased")
    await view.names("d")
    await view.open(server, "list", **{"label.org": "one", "label.team/name": "x y"})
    await view.names("a")


async def test_a_live_list_shows_failures(view: View, server: Server):
    await view.open(server, "list")
    await view.shows(page="0 last fine")
    run = server.trigger("broken", "a")
    await view.cell(run, "status", "failed")
    await view.cell(run, "error", "row 3 is no number")


async def test_a_list_that_is_read_when_asked(view: View, server: Server):
    await view.open(server, "list", realtime="no")
    await view.shows(page="0 last fine")
    server.run_of("import", "a")
    await view.click("#refresh")
    await view.names("a")


async def test_a_page_outlives_the_server(view: View, mortal_server: Server):
    """What was journaled while it was away is told once, and how far the run came meanwhile."""
    server = mortal_server
    await view.open(server, "job", job="import")
    await view.trigger("a", rows=4, hold=[0, 2, 3])
    await view.shows(status="leased")
    server.open_gate("a", 0)
    await view.shows(progress='{"current":2,"total":4,"message":"row 2"}')
    run = await view.run_id()
    await view.page.context.set_offline(True)
    server.process.kill()
    server.open_gate("a", 2)
    server.process.start()
    server.wait_for(run, lambda told: told["progress"]["current"] == 3)
    await view.page.context.set_offline(False)
    await view.shows(progress='{"current":3,"total":4,"message":"row 3"}')
    server.open_gate("a", 3)
    await view.shows(status="completed", output='{"count":4}', error="null")
    saved = [f'info saved {{"row":{row}}}' for row in range(4)]
    await view.logs(*saved, "warn no more rows")


async def test_a_list_outlives_the_server(view: View, mortal_server: Server):
    """What happened in between has no event left to tell it: the client is made to look again."""
    server = mortal_server
    await view.open(server, "list")
    run = server.trigger("import", "before")
    await view.cell(run, "status", "completed")
    server.process.kill()
    elsewhere = Durably(server.database, worker=False)

    @elsewhere.job("unknown to the server")
    async def job(step: Step, input: dict[str, str]) -> None:
        raise AssertionError("nobody works here")

    async with elsewhere:
        await job.trigger({"name": "meanwhile"})
    server.process.start()
    await view.names("meanwhile", "before")


async def test_a_page_of_a_listed_origin(view: View, server: Server):
    """``origins=[...]``: nothing but the browser's own headers tells who asks."""
    api = f"{server.url}/api/durably"
    await view.open(server, "job", at=server.listed_url, api=api, job="import")
    await view.trigger("a", hold=[0])
    await view.shows(status="leased")
    await view.click(".cancel")
    await view.shows(status="cancelled", answer="done")
    first = await view.run_id()
    await view.click(".retrigger")
    second = await view.run_id(other_than=first)
    await view.shows(answer=second, status="leased")
    server.open_gate("a", 0)
    await view.shows(status="completed")
    await view.click(".deleteRun")
    await view.shows(answer="done")
    await view.click(".getRun")
    await view.shows(answer="null")
