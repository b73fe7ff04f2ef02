"""A browser that keeps its files, so that it can be killed and opened again."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import uuid
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any

from playwright.async_api import BrowserContext, Error, Page, Playwright

from tests.browser import chromium as browsers
from tests.browser import processes

PATIENCE = 240_000  # ms; for a page that boots on a busy machine


class Profile:
    """A browser on a profile in ``folder``; its pages are those of ``url``."""

    def __init__(
        self, playwright: Playwright, chromium: browsers.Chromium, folder: Path, url: str
    ) -> None:
        self._playwright, self._chromium = playwright, chromium
        self._folder, self.url = folder, url
        self._mark = ""
        self._context: BrowserContext | None = None

    @property
    def context(self) -> BrowserContext:
        assert self._context is not None
        return self._context

    async def start(self, *flags: str) -> None:
        self._mark = uuid.uuid4().hex
        for left in self._folder.glob("Singleton*"):
            left.unlink()
        self._context = await self._playwright.chromium.launch_persistent_context(
            self._folder,
            executable_path=self._chromium.path,
            args=[*browsers.FLAGS, *flags],
            env={**os.environ, **self._chromium.env, processes.MARK: self._mark},
            timeout=PATIENCE,
        )
        self._context.set_default_timeout(PATIENCE)

    async def kill(self) -> None:
        """SIGKILL for the browser and all its processes, at once."""
        context, self._context = self._context, None
        processes.end(self._mark)
        if context is not None:
            with contextlib.suppress(Exception):  # of a browser that is no more
                await context.close()

    def _renderers(self) -> list[int]:
        found = [pid for pid in _descendants(processes.marked(self._mark)) if _is_renderer(pid)]
        assert found
        return found

    async def kill_pages(self) -> None:
        """SIGKILL for the processes of the pages only, the one that waits for the next page included."""
        pages = self.context.pages
        for pid in self._renderers():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for page in pages:
            with contextlib.suppress(Exception):
                await page.close()
        await asyncio.sleep(0.5)

    @contextlib.contextmanager
    def asleep(self) -> Generator[None]:
        """All its pages are stopped in the middle, as on a machine that sleeps."""
        renderers = self._renderers()
        for pid in renderers:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in renderers:
                os.kill(pid, signal.SIGCONT)

    async def _new_page(self) -> Page:
        for _ in range(20):
            with contextlib.suppress(Error):  # what is left of pages that were killed
                return await self.context.new_page()
            await asyncio.sleep(0.5)
        return await self.context.new_page()

    async def open(self, path: str = "", **options: Any) -> Page:
        """A new tab. It boots; ``await ready(page)``."""
        page = await self._new_page()
        page.on("console", lambda said: print("console:", said.text))
        query = f"?options={json.dumps(options)}" if options else ""
        await page.goto(f"{self.url}{path}{query}")
        return page


def _is_renderer(pid: int) -> bool:
    return b"--type=renderer" in _read(Path(f"/proc/{pid}/cmdline"))


def _descendants(pids: Iterable[int]) -> set[int]:
    """These processes and those that they started. Renderers hide their environment."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        _, _, rest = _read(entry).rpartition(b")")
        parents[int(entry.parent.name)] = int((rest.split() or [b"Z", b"0"])[1])
    found = set(pids)
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it is gone
        return b""


async def ready(page: Page) -> Page:
    """The page, once its client is there; what went wrong is the message of the failure."""
    await page.wait_for_function("document.title !== 'durably'")
    problem = await page.evaluate("window.problem")
    assert problem is None, problem
    return page


async def trigger(page: Page, job: str, **input: Any) -> str:
    triggered = await page.evaluate("([job, input]) => durably.trigger(job, input)", [job, input])
    return triggered["runId"]


async def finished(page: Page, run_id: str) -> dict[str, Any]:
    """The run, once it is over."""
    await page.evaluate("id => durably.wait(id).catch(() => {})", run_id)
    return await page.evaluate("id => durably.run(id)", run_id)


async def steps(page: Page, run_id: str) -> list[str]:
    """The names of the steps that are committed."""
    return await page.evaluate("async id => (await durably.steps(id)).map(s => s.name)", run_id)


async def until_steps(page: Page, run_id: str, count: int) -> None:
    await page.wait_for_function(
        "async ([id, count]) => (await durably.steps(id)).length >= count", arg=[run_id, count]
    )


async def until_phase(page: Page, phase: str) -> None:
    await page.wait_for_function("phase => phases.some(([p]) => p === phase)", arg=phase)
