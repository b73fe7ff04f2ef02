"""Tracebacks that show users' frames: Durably's own are taken out, unless ``DURABLY_DEBUG`` is set."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import cast

from ..errors import DurablyError

DEBUG = "DURABLY_DEBUG"
"""The environment variable that keeps Durably's own frames in tracebacks, unless it is empty or 0."""


_PACKAGE = str(Path(__file__).parents[1]) + os.sep
_DEMO = _PACKAGE + "demo" + os.sep  # jobs, as a user has them


def hide_frames(error: BaseException) -> BaseException:
    """Take Durably's own frames out of the tracebacks of an exception, its causes and its leaves.

    A fault of Durably itself, whose frames are all its own, keeps them.
    """
    if os.environ.get(DEBUG, "0") in ("", "0"):
        for linked in _linked(error):
            BaseException.with_traceback(linked, _without_ours(linked))  # it may be frozen
    return error


def _linked(error: BaseException) -> Iterator[BaseException]:
    """An exception with its causes, its contexts and its leaves, each once."""
    seen: set[int] = set()
    todo: list[BaseException | None] = [error]
    while todo:
        linked = todo.pop()
        if linked is not None and id(linked) not in seen:
            seen.add(id(linked))
            yield linked
            todo += [linked.__cause__, linked.__context__]
            if isinstance(linked, BaseExceptionGroup):
                todo += cast("BaseExceptionGroup[BaseException]", linked).exceptions


def _without_ours(error: BaseException) -> TracebackType | None:
    frames: list[TracebackType] = []
    at = error.__traceback__
    while at is not None:
        frames.append(at)
        at = at.tb_next
    theirs = [frame for frame in frames if not is_own(frame.tb_frame.f_code.co_filename)]
    if len(theirs) == len(frames) or not (theirs or isinstance(error, DurablyError)):
        return error.__traceback__
    kept: TracebackType | None = None
    for frame in reversed(theirs):
        kept = TracebackType(kept, frame.tb_frame, frame.tb_lasti, frame.tb_lineno)
    return kept


def is_own(filename: str) -> bool:
    """Whether a frame's file is one of Durably's."""
    return filename.startswith(_PACKAGE) and not filename.startswith(_DEMO)
