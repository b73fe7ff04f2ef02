"""Where the example is, and its page."""

from __future__ import annotations

from tests.browser import vite

ROOT = vite.ROOT
EXAMPLE = ROOT / "examples/fullstack"


def built() -> None:
    """The page is there."""
    vite.built(EXAMPLE)
