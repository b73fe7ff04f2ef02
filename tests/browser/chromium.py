"""Find a Chromium, and open it."""

from __future__ import annotations

import asyncio
import os
import shutil
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from playwright.async_api import Browser, async_playwright

from . import node, npm, processes

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # Loopback is all that a test may reach.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
)

_DEBIAN = Path("/usr/bin/chromium")
_PACKED = Path(__file__).with_name("packed_chromium.mjs")


@dataclass(frozen=True)
class Chromium:
    """A Chromium on this machine."""

    path: Path
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    """What it needs in its environment."""


def find() -> Chromium:
    """``$CHROME_PATH``, else Debian's, else the one inside an npm package (Linux on x86-64)."""
    if given := os.environ.get("CHROME_PATH"):
        if not os.access(given, os.X_OK):
            raise npm.Unavailable(f"CHROME_PATH={given} is no program")
        return Chromium(Path(given))
    if _DEBIAN.exists():
        return Chromium(_DEBIAN)
    return packed()


def packed() -> Chromium:
    """The one inside the npm package, unpacked with the few libraries and fonts that it needs."""
    folder = npm.installed() / ".chromium"
    done = folder / ".unpacked-with-fonts"
    with npm.locked("chromium"):
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            node.run(_PACKED, {"folder": str(folder)})
            _find_fonts(folder / "fonts")
            done.touch()
    return Chromium(
        folder / "chromium",
        {"LD_LIBRARY_PATH": str(folder / "al2023/lib"), "FONTCONFIG_PATH": str(folder / "fonts")},
    )


def _find_fonts(folder: Path) -> None:
    """Without one font, Chromium ends at the first character that its own lack."""
    listed = folder / "fonts.conf"
    listed.write_text(listed.read_text().replace("<dir>/tmp/fonts<", f"<dir>{folder}<"))


@asynccontextmanager
async def open_browser(chromium: Chromium, *flags: str) -> AsyncIterator[Browser]:
    """A headless browser with a profile of its own. At the end no process of it is left."""
    mark = uuid.uuid4().hex
    try:
        async with async_playwright() as playwright:
            browser = await playwright.chromium.launch(
                executable_path=chromium.path,
                args=[*FLAGS, *flags],
                env={**os.environ, **chromium.env, processes.MARK: mark},
                timeout=60_000,
            )
            try:
                yield browser
            finally:
                async with asyncio.timeout(30):
                    await browser.close()
    finally:
        processes.end(mark)
