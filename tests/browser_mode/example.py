"""Where the examples of browser mode are, and the page of the larger one."""

from __future__ import annotations

from pathlib import Path

from tests.browser import vite

EXAMPLE = vite.ROOT / "examples/browser-only"
VANILLA = vite.ROOT / "examples/browser-vanilla"


def built() -> Path:
    """The page, without a bundle."""
    return vite.built(EXAMPLE, "jobs.py")
