"""``follow`` draws while it waits: on a terminal, under a notebook's cell, or by a function."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from durably import Progress
from durably.client import DurablyClient, SyncDurablyClient
from durably.errors import RunFailedError, WaitTimeoutError

from .places import Server


async def test_a_function_is_told_the_progress(client: DurablyClient, app: Any) -> None:
    shown: list[Progress] = []
    run = await client.trigger(app.work, app.Wanted(steps=20, pause=0.02))
    done = await client.follow(run, show=shown.append)
    assert done.output == app.Done(count=20)
    assert shown[-1] == Progress(20, 20, "working")
    assert [progress.current for progress in shown] == sorted(p.current for p in shown)
    assert await client.follow(run.id, show=shown.append) == await client.get_run(run.id)
    failing = await client.trigger(app.work, app.Wanted(steps=0, fails_without="never"))
    with pytest.raises(RunFailedError):
        await client.follow(failing)
    held = await client.trigger(app.hold)
    with pytest.raises(WaitTimeoutError):
        await client.follow(held, timeout=0.05)
    await client.cancel(held.id)


def test_without_a_terminal_nothing_is_drawn(
    shared: Server, app: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    with SyncDurablyClient(shared.url) as client:
        run = client.trigger(app.work, app.Wanted(steps=3))
        assert client.follow(run).output == app.Done(count=3)
    assert capfd.readouterr() == ("", "")


SCRIPT = """
import sys
from durably.client import SyncDurablyClient
with SyncDurablyClient({url!r}) as client:
    run = client.trigger("work", {{"steps": 20, "pause": 0.05}})
    print(client.follow(run).output)
"""


@pytest.mark.parametrize("rich", [True, False])
def test_on_a_terminal_there_is_a_bar(shared: Server, rich: bool, tmp_path: Path) -> None:
    script = SCRIPT.format(url=shared.url)
    if not rich:
        hidden = "import importlib.util as u; f = u.find_spec; "
        script = (
            hidden + "u.find_spec = lambda n, p=None: None if n == 'rich' else f(n, p)\n" + script
        )
    ours, theirs = pty.openpty()
    drawing = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", script],
        stdout=subprocess.PIPE,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
    )
    os.close(theirs)
    drawn = b""
    try:
        while chunk := os.read(ours, 65536):
            drawn += chunk
    except OSError:  # how Linux says that the other end is closed
        pass
    os.close(ours)
    assert drawing.stdout is not None
    with drawing.stdout as out:
        assert out.read() == b"{'count': 20}\n"
    assert drawing.wait() == 0
    text = drawn.decode()
    assert "work" in text
    assert "working" in text
    assert "%" in text


Cell = Callable[[str], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def cell() -> Iterator[Cell]:
    """Runs a cell in a real kernel, as a notebook does; the messages that it publishes."""
    manager_of = pytest.importorskip("jupyter_client.manager")
    pytest.importorskip("ipykernel")
    manager, kernel = manager_of.start_new_kernel()

    def execute(code: str) -> list[dict[str, Any]]:
        said: list[dict[str, Any]] = []
        kernel.execute_interactive(code, timeout=60, output_hook=said.append)
        return said

    try:
        yield execute
    finally:
        kernel.stop_channels()
        manager.shutdown_kernel(now=True)


def contents(said: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [message["content"] for message in said if message["msg_type"] == kind]


def test_in_a_notebook_it_is_under_the_cell(shared: Server, cell: Cell) -> None:
    cell("first_cell = 1")
    said = cell(SCRIPT.format(url=shared.url))
    shown, updates = contents(said, "display_data"), contents(said, "update_display_data")
    printed = "".join(content["text"] for content in contents(said, "stream"))
    assert printed.splitlines()[-1] == "{'count': 20}", json.dumps(printed)
    check_bar(shown, updates, "work ")


def check_bar(shown: list[Any], updates: list[Any], title: str) -> None:
    assert len(shown) == 1
    assert updates, "nothing moved"
    assert {u["transient"]["display_id"] for u in updates} == {shown[0]["transient"]["display_id"]}
    assert updates[-1]["data"]["text/plain"].startswith(title)
    assert "<progress max=" in updates[-1]["data"]["text/html"]


DEFINES = """
@durably.job("halves")
async def halves(step: Step, number: int) -> int:
    for i in range(5):
        await step.run(f"step-{{i}}", asyncio.sleep, 0.06)
        step.progress(i + 1, 5)
    return number // {by}
"""


def test_a_notebook_runs_jobs_of_its_own(cell: Cell, tmp_path: Path) -> None:
    said = cell(
        f"import asyncio\nfrom durably import Durably, Step\n"
        f"durably = Durably({str(tmp_path / 'cell.db')!r})\nawait durably.init()\n"
        + DEFINES.format(by=2)
    )
    assert contents(said, "error") == []
    said = cell(DEFINES.format(by=3))
    assert contents(said, "error") == [], "the cell may be run again"
    said = cell("done = await durably.follow(await halves.trigger(9))\ndone")
    check_bar(contents(said, "display_data"), contents(said, "update_display_data"), "halves ")
    (result,) = contents(said, "execute_result")
    assert result["data"]["text/plain"].startswith("CompletedRun(id=")
    assert "<td style='text-align: left'>3</td>" in result["data"]["text/html"]
    cell("await durably.stop()")
