"""Where a progress bar is drawn: under the cell of a notebook, else on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from html import escape
from typing import Any

from .. import terminal
from ..models import Progress
from ..terminal import Show, clean


def open_bar(title: str) -> AbstractContextManager[Show]:
    """A function that shows a progress until the block ends; it may be called from any thread."""
    display = _notebook()
    return terminal.open_bar(title) if display is None else _under_the_cell(title, display)


def _notebook() -> Any:
    """``IPython.display.display`` in a notebook's kernel. It need not be imported: there it always is."""
    ipython: Any = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    if getattr(shell, "kernel", None) is None:
        return None
    return getattr(sys.modules.get("IPython.display"), "display", None)


@contextmanager
def _under_the_cell(title: str, display: Any) -> Generator[Show]:
    handle = display(_shown(title, Progress(0)), raw=True, display_id=True)
    yield lambda progress: handle.update(_shown(title, progress), raw=True)


def _shown(title: str, progress: Progress) -> dict[str, str]:
    """For a page, and for what shows only text."""
    far = f"{progress.current:g}" + (f"/{progress.total:g}" if progress.total else "")
    text = clean(" ".join(part for part in (title, far, progress.message) if part))
    bar = f'<progress max="{progress.total or 1:g}"'
    bar += f' value="{progress.current:g}"' if progress.total else ""
    return {"text/plain": text, "text/html": f"<div>{bar}></progress> {escape(text)}</div>"}
