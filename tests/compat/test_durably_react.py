"""The client that is published for the TypeScript original, unmodified, in a real browser, against our server.

Every assertion is about what the page shows: what its users would see. The rest of it, option by
option, is in ``test_durably_react_in_full.py``.
"""

import json
import urllib.request

import pytest
from playwright.async_api import expect

from .server import PATIENCE, Server
from .view import NOTHING, View

pytestmark = pytest.mark.asyncio(loop_scope="package")


async def test_a_run_from_its_trigger_to_its_output(view: View, server: Server):
    await view.open(server, "job", job="import")
    await view.shows(run="null", flags="", **NOTHING)
    await view.trigger("a", rows=3, hold=[0, 2])
    await view.shows(status="leased", flags="isLeased isActive", output="null")
    server.open_gate("a", 0)
    await view.shows(progress='{"current":2,"total":3,"message":"row 2"}', status="leased")
    await view.logs('info saved {"row":0}', 'info saved {"row":1}')
    server.open_gate("a", 2)
    await view.shows(status="completed", output='{"count":3}', error="null")
    await view.shows(flags="isCompleted isTerminal")
    await view.shows(progress='{"current":3,"total":3,"message":"row 3"}')
    saved = [f'info saved {{"row":{row}}}' for row in range(3)]
    await view.logs(*saved, "warn no more rows")
    assert json.loads(await view.answers("runId")) == {"runId": await view.run_id()}


async def test_a_run_that_fails(view: View, server: Server):
    await view.open(server, "job", job="broken")
    await view.trigger("a", hold=[0])
    await view.shows(status="leased")
    server.open_gate("a", 0)
    await view.shows(status="failed", error="row 3 is no number", output="null")
    await view.shows(flags="isFailed isTerminal")


async def test_follow_latest(view: View, server: Server):
    await view.open(server, "job", job="import", autoResume="no")
    await view.trigger("a")
    await view.shows(status="completed")
    other = server.trigger("import", "b", hold=[0])
    await view.shows(run=other, status="leased", output="null")
    server.trigger("broken", "c")
    server.open_gate("b", 0)
    await view.shows(run=other, status="completed", output='{"count":2}')


async def test_a_page_that_is_reloaded_resumes(view: View, server: Server):
    await view.open(server, "job", job="import")
    await view.trigger("a", rows=3, hold=[1])
    await view.shows(progress='{"current":1,"total":3,"message":"row 1"}')
    mine = await view.run_id()
    await view.page.reload()
    await view.shows(run=mine, status="leased")
    await view.shows(progress='{"current":1,"total":3,"message":"row 1"}')
    server.open_gate("a", 1)
    await view.shows(status="completed", output='{"count":3}')
    await view.page.reload()
    await view.shows(run="null", status="null")


async def test_cancel(view: View, server: Server):
    await view.open(server, "job", job="import")
    await view.trigger("a", hold=[0])
    await view.shows(status="leased")
    await view.click(".cancel")
    await view.shows(status="cancelled", answer="done", flags="isCancelled isTerminal")
    await view.click(".cancel")
    await view.answers("refused: ")


async def test_retrigger(view: View, server: Server):
    await view.open(server, "job", job="broken")
    await view.trigger("a")
    await view.shows(status="failed")
    first = await view.run_id()
    await view.click(".retrigger")
    second = await view.run_id(other_than=first)
    await view.shows(answer=second, status="failed", error="row 3 is no number")


async def test_delete_and_look_up(view: View, server: Server):
    deleted = server.run_of("import", "a")
    await view.open(server, "job", job="import", initialRunId=deleted, followLatest="no")
    await view.shows(status="completed")
    await view.click(".getRun")
    run = json.loads(await view.answers(f'"id":"{deleted}"'))
    assert run["isTerminal"] is True
    assert {name: run[name] for name in ("jobName", "status", "output", "error", "labels")} == {
        "jobName": "import", "status": "completed", "output": {"count": 2}, "error": None, "labels": {},
    }  # fmt: skip
    await view.click(".deleteRun")
    await view.shows(answer="done")
    await view.click(".getRun")
    await view.shows(answer="null")
    await view.click(".retrigger")
    await view.answers("refused: ")


async def test_the_fields_of_a_run(server: Server):
    """Exactly those that the client's ``ClientRun`` declares."""
    run = server.ask("GET", "/run", runId=server.run_of("import", "a"))
    assert sorted(run) == [
        "completedAt", "completedStepCount", "createdAt", "currentStepIndex", "error", "id", "input",
        "isActive", "isTerminal", "jobName", "labels", "output", "progress", "startedAt", "status",
    ]  # fmt: skip


async def test_a_run_by_its_id(view: View, server: Server):
    watched = server.trigger("import", "a", rows=3, hold=[0])
    await view.open(server, "run", runId=watched)
    await view.shows(status="leased", called="start")
    server.open_gate("a", 0)
    await view.shows(status="completed", output='{"count":3}', called="start complete")
    last = view.page.locator("#last > li")
    await expect(last).to_have_text(["saved", "no more rows"])
    await view.click("#clear")
    await expect(last).to_have_count(0)


async def test_a_list_is_live(view: View, server: Server):
    await view.open(server, "list", job="import")
    await view.shows(page="0 last fine")
    run = server.trigger("import", "a", rows=3, hold=[0, 2])
    await view.cell(run, "status", "leased")
    server.open_gate("a", 0)
    await view.cell(run, "progress", '{"current":2,"total":3,"message":"row 2"}')
    await view.cell(run, "steps", "2")
    server.open_gate("a", 2)
    await view.cell(run, "status", "completed")
    await view.cell(run, "output", '{"count":3}')
    server.run_of("broken", "of another job")
    second = server.trigger("import", "b", hold=[0])
    await view.cell(second, "status", "leased")
    await view.click(f"#run-{second} .cancel")
    await view.cell(second, "status", "cancelled")
    server.ask("DELETE", "/run", runId=run)
    await view.names("b")
    await view.click(f"#run-{second} .retrigger")
    await view.names("b", "b")
    await view.click(f"#run-{second} .deleteRun")
    await view.names("b")


HOLD_AN_ANSWER = """
const fetch = window.fetch;
window.fetch = async (...request) => {
  const response = await fetch(...request);
  if (!window.holding) return response;
  window.holding = false;
  await new Promise((go) => { window.letGo = go; });
  const json = response.json.bind(response);
  response.json = async () => { const rows = await json(); window.taken = rows; return rows; };
  return response;
};
window.EventSource = class extends EventSource {
  constructor(url) {
    super(url);
    this.addEventListener("message", ({ data }) => {
      if (JSON.parse(data).progress?.current === 2) window.letGo();
    });
  }
};
"""


async def test_an_answer_that_is_older_than_an_event_does_not_stay(view: View, server: Server):
    """The client takes answers in the order in which they come, whatever it was told meanwhile."""
    await view.page.add_init_script(HOLD_AN_ANSWER)
    await view.open(server, "list", job="import")
    await view.shows(page="0 last fine")
    run = server.trigger("import", "a", rows=3, hold=[0, 2])
    await view.cell(run, "status", "leased")
    await view.page.evaluate("window.holding = true")
    await view.click("#refresh")
    await view.page.wait_for_function("!!window.letGo")
    server.open_gate("a", 0)
    rows = await (await view.page.wait_for_function("window.taken")).json_value()
    assert rows[0]["progress"] is None
    await view.cell(run, "progress", '{"current":2,"total":3,"message":"row 2"}')
    await view.cell(run, "steps", "2")


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
