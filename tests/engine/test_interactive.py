"""Notebooks and interactive sessions: a cell may be run again, and ``follow`` draws."""

from __future__ import annotations

import asyncio
import io
import sys
from pathlib import Path
from typing import Any

import pytest

from durably import Durably, Progress, Step
from durably.errors import ClosedError, ConfigurationError, RunFailedError
from durably.terminal import open_bar


def typed_in(source: str, durably: Durably, **names: Any) -> dict[str, Any]:
    """What a cell with this source defines."""
    cell = {"__name__": "__main__", "durably": durably, "Step": Step, **names}
    exec(source, cell)
    return cell


CELL = """
@durably.job("double")
async def double(step: Step, number: int) -> int:
    started.set()
    await go.wait()
    return await step.run("double", lambda: {}number)
"""


async def test_a_cell_that_is_run_again_replaces_its_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "ps1", "In : ", raising=False)
    async with Durably(tmp_path / "a.db") as durably:
        started, go = asyncio.Event(), asyncio.Event()
        first = typed_in(CELL.format("2 * "), durably, started=started, go=go)["double"]
        under_way = await first.trigger(1)
        await started.wait()
        again = typed_in(CELL.format("20 * "), durably, started=started, go=go)["double"]
        assert again is first, "what other cells hold is the new job, too"
        go.set()
        assert (await durably.wait(under_way)).output == 2
        assert (await again.trigger_and_wait(1)).output == 20


async def test_nothing_else_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    durably = Durably(tmp_path / "a.db")
    names = {"started": asyncio.Event(), "go": asyncio.Event()}
    typed_in(CELL.format(""), durably, **names)
    with pytest.raises(ConfigurationError, match="already registered"):  # a program
        typed_in(CELL.format(""), durably, **names)
    monkeypatch.setattr(sys, "ps1", "In : ", raising=False)
    with pytest.raises(ConfigurationError, match="already registered"):  # a module's function

        @durably.job("double")
        async def double(step: Step) -> None: ...


async def test_follow_shows_the_progress_and_returns_as_wait_does(tmp_path: Path) -> None:
    async with Durably(tmp_path / "a.db") as durably:

        @durably.job("count")
        async def count(step: Step, numbers: int) -> int:
            for i in range(numbers):
                step.progress(i + 1, numbers, "counting")
            if not numbers:
                raise ValueError("nothing to count")
            return numbers

        shown: list[Progress] = []
        run = await count.trigger(3)
        done = await durably.follow(run, show=shown.append)
        assert done.output == 3
        assert shown[-1] == Progress(3, 3, "counting")
        assert (await durably.follow(run.id)).output == 3
        with pytest.raises(RunFailedError, match="nothing to count"):
            await durably.follow(await count.trigger(0))


async def test_a_wait_that_a_stop_ends_says_so(tmp_path: Path) -> None:
    durably = Durably(tmp_path / "a.db")
    started = asyncio.Event()

    @durably.job("hang")
    async def hang(step: Step) -> None:
        step.progress(1)
        await asyncio.Event().wait()

    await durably.init()
    run = await hang.trigger()
    following = asyncio.create_task(durably.follow(run, show=lambda _: started.set()))
    await asyncio.wait_for(started.wait(), 30)
    await durably.stop(0)
    with pytest.raises(ClosedError):
        await following


async def test_what_is_no_run_is_refused_by_follow_as_by_wait(tmp_path: Path) -> None:
    async with Durably(tmp_path / "a.db", worker=False) as durably:
        for method in (durably.wait, durably.follow):
            with pytest.raises(ConfigurationError, match="5"):
                await method(5)  # type: ignore[arg-type]


def test_no_bar_is_drawn_on_a_closed_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr("sys.stderr", closed)
    with open_bar("a run") as show:
        show(Progress(1))
