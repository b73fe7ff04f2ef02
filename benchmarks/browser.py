"""A page's driver: Durably, or the original, in a real Chromium on a profile of its own.

``python -m benchmarks.browser boot|sequential '{"page": "ours" | "original", …}'``
"""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from playwright.async_api import Page, async_playwright
from tests.browser import chromium as browsers
from tests.browser_mode import bundle

from .meter import Result, percentile

PAGES = Path(__file__).with_name("browser_pages")
BOOTED = "window.readyAfter !== undefined"
WARM_UP = 50
_PATIENCE = 140_000  # ms


class _Files(SimpleHTTPRequestHandler):
    """Files that browsers may keep, on a host that says what the original's database asks for."""

    extensions_map = {  # noqa: RUF012 - the base class has one
        ".html": "text/html",
        ".js": "text/javascript",
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
        "": "application/octet-stream",
    }

    def end_headers(self) -> None:
        self.send_header("cache-control", "max-age=3600")
        self.send_header("cross-origin-opener-policy", "same-origin")
        self.send_header("cross-origin-embedder-policy", "require-corp")
        super().end_headers()

    def log_message(self, *_: object) -> None:
        pass


def built(page: str, folder: Path) -> None:
    """The files of a page."""
    if page == "original":
        _build_original(folder)
        return
    shutil.copy(PAGES / "ours.html", folder / "index.html")
    shutil.copytree(bundle.made(), folder / "durably")


def _build_original(folder: Path) -> None:
    peers = Path(os.environ["PEERS"])
    source = peers / "browser"
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir()
    shutil.copy(PAGES / "original.html", source / "index.html")
    shutil.copy(PAGES / "original.mjs", source)
    config = {
        "root": str(source),
        "worker": {"format": "es"},
        "build": {"target": "es2022", "outDir": str(folder), "emptyOutDir": True},
    }
    (peers / "vite.config.mjs").write_text(f"export default {json.dumps(config)}\n")
    subprocess.run(
        ["node_modules/.bin/vite", "build", "--logLevel", "error"], cwd=peers, check=True
    )


@asynccontextmanager
async def hosted(page: str) -> AsyncIterator[tuple[str, Path]]:
    """The address of the page, and its files."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        built(page, folder)
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Files, directory=temporary))
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/", folder
        finally:
            server.shutdown()
            server.server_close()


@asynccontextmanager
async def opened(url: str, profile: str) -> AsyncIterator[Page]:
    """The page, once it has run a step, in a browser that was just started."""
    found = browsers.find()
    async with async_playwright() as playwright:
        context = await playwright.chromium.launch_persistent_context(
            profile,
            executable_path=found.path,
            args=list(browsers.FLAGS),
            env={**os.environ, **found.env},
        )
        try:
            page = await context.new_page()
            page.set_default_timeout(_PATIENCE)
            await page.goto(url)
            await page.wait_for_function(BOOTED)
            yield page
        finally:
            await context.close()


async def boot(page: str) -> Result:
    """From the navigation to the first committed step: a first visit, and another one after it."""
    async with hosted(page) as (url, folder):
        sizes = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
        with tempfile.TemporaryDirectory() as profile:
            took = []
            for _ in range(3):  # only the third finds what the second has compiled
                async with opened(url, profile) as booted:
                    took.append(await booted.evaluate("window.readyAfter"))
    return {
        "cold_ms": took[0],
        "warm_ms": took[-1],
        "raw_mb": sum(map(len, sizes)) / 1e6,
        "gzip_mb": sum(len(gzip.compress(file)) for file in sizes) / 1e6,
    }


async def sequential(page: str, steps: int, durability: str = "full") -> Result:
    """One run of so many steps."""
    async with hosted(page) as (url, _):
        with tempfile.TemporaryDirectory() as profile:
            async with opened(f"{url}?durability={durability}", profile) as booted:
                await booted.evaluate("steps => window.took(steps)", WARM_UP)
                took = await booted.evaluate("steps => window.took(steps)", steps)
    return {
        "steps_s": steps / sum(took) * 1000,
        "p50_ms": percentile(took, 50),
        "p99_ms": percentile(took, 99),
    }


def main() -> None:
    """Print what the measure gave."""
    measure, given = sys.argv[1], json.loads(sys.argv[2])
    known: dict[str, Any] = {"boot": boot, "sequential": sequential}
    wanted = {name: given[name] for name in ("page", "steps", "durability") if name in given}
    print(json.dumps(asyncio.run(known[measure](**wanted))))


if __name__ == "__main__":
    main()
