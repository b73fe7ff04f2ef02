"""What a terminal is shown: text that cannot steer it, and a progress bar.

The bar is rich's where rich is installed, else one of a few lines; in a notebook it is under the cell.
"""

from __future__ import annotations

import shutil
import sys
import unicodedata
from collections.abc import Callable, Generator
from contextlib import contextmanager
from html import escape
from importlib.util import find_spec
from typing import Any, TextIO

from .models import Progress, Run

Show = Callable[[Progress], None]
_WIDTH = 30
_UNSAFE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})  # control, bidirectional, surrogates, breaks


def clean(text: str) -> str:
    """The text with what a terminal would obey made visible: ``\\x1b`` for an escape."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_visible(c) if unicodedata.category(c) in _UNSAFE else c for c in text)


def _visible(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def clean_lines(text: str) -> str:
    """As ``clean``, keeping line breaks."""
    return "\n".join(clean(line.expandtabs()) for line in text.splitlines())


def title_of(run: Run[Any, Any] | str) -> str:
    """The title of a run's bar."""
    return run.job if isinstance(run, Run) else f"run {run}"


@contextmanager
def open_bar(title: str) -> Generator[Show]:
    """A function that shows a progress until the block ends, on any thread.

    It draws under the cell of a notebook, otherwise on stderr if that is a terminal. In a notebook the
    thread that opens it is the cell's.
    """
    if (display := _notebook()) is not None:
        with _under_the_cell(title, display) as show:
            yield show
        return
    stream: Any = sys.stderr  # pythonw has none
    if stream is None or getattr(stream, "closed", False) or not stream.isatty():
        yield lambda _: None
        return
    with _rich(title) if find_spec("rich") else _plain(title, stream) as show:
        yield show


@contextmanager
def _rich(title: str) -> Generator[Show]:
    # Here, because rich is optional, and slow to import for those who draw nothing.
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn
    from rich.progress import Progress as Bar

    texts = [
        TextColumn(f"{{task.{name}}}", markup=False) for name in ("description", "fields[now]")
    ]
    columns = (texts[0], BarColumn(_WIDTH), TaskProgressColumn(), texts[1])
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None, now="")

        def show(progress: Progress) -> None:
            now = clean(progress.message or "")[:60]
            bar.update(task, completed=progress.current, total=progress.total, now=now)

        yield show


@contextmanager
def _plain(title: str, stream: TextIO) -> Generator[Show]:
    drawn = ""

    def draw(line: str) -> None:
        nonlocal drawn
        if line != drawn:
            drawn = line
            room = shutil.get_terminal_size().columns - 1
            stream.write("\r" + line[:room].ljust(room))
            stream.flush()

    def show(progress: Progress) -> None:
        message = clean(progress.message or "")
        if progress.total:
            share = min(1.0, max(0.0, progress.current / progress.total))
            filled = round(share * _WIDTH)
            far = f"[{'#' * filled}{'-' * (_WIDTH - filled)}] {share:4.0%}"
        else:
            far = f"{progress.current:g}"
        draw(f"{title} {far} {message}")

    try:
        yield show
    finally:
        draw("")
        stream.write("\r")
        stream.flush()


# -- in a notebook


def _notebook() -> Any:
    """``IPython.display.display`` in a notebook's kernel. It need not be imported: there it always is."""
    ipython: Any = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    if getattr(shell, "kernel", None) is None:
        return None
    return getattr(sys.modules.get("IPython.display"), "display", None)


@contextmanager
def _under_the_cell(title: str, display: Any) -> Generator[Show]:
    last = Progress(0)
    handle = display(_shown(title, last), raw=True, display_id=True)

    def show(progress: Progress) -> None:
        nonlocal last
        last = progress
        handle.update(_shown(title, progress), raw=True)

    try:
        yield show
    finally:
        if not last.total:  # a bar without a value moves for ever
            handle.update(_shown(title, last, is_over=True), raw=True)


def _shown(title: str, progress: Progress, *, is_over: bool = False) -> dict[str, str]:
    """For a page, and for what shows only text."""
    far = f"{progress.current:g}" + (f"/{progress.total:g}" if progress.total else "")
    text = clean(" ".join(part for part in (title, far, progress.message) if part))
    bar = f'<progress max="{progress.total or 1:g}"'
    bar += f' value="{progress.current:g}"></progress> ' if progress.total else "></progress> "
    return {"text/plain": text, "text/html": f"<div>{'' if is_over else bar}{escape(text)}</div>"}
