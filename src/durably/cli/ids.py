"""Short forms of a run's id: what a user may type, and what ``runs list`` prints.

An id begins with the millisecond of its creation and ends at random (UUIDv7). A prefix is therefore a
range of the list's own order, and is looked up with the list's cursor, in a database and over HTTP alike.
Runs that one call triggered differ only at the end of their ids, so the printed short form has both:
``019ad2f8-3c5e..1f0a``, the millisecond and the last characters.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..errors import RunNotFoundError
from ..jobs.filter import CURSOR
from ..models import Run
from .connect import Runs
from .target import UsageError

SHORTEST = 8
"""Characters of a prefix. Eight say in which minute a run was created: fewer fit a whole day's runs."""
GAP = ".."
_MILLISECOND = 13  # characters of an id that say when it was made
_ENDING = 4  # characters after the gap, if they tell the listed runs apart
_LONGEST_ENDING = 12  # there is a dash before them
_DIGITS = 32
_PAGE = 200
_SHOWN = 10  # candidates of an ambiguous prefix


@dataclass(frozen=True, slots=True)
class Range:
    """The ids that a short form may mean: those that begin with some hex digits and end with others."""

    digits: str
    ending: str

    @property
    def after(self) -> str:
        """The cursor of the id that follows all of them."""
        free = 4 * (_DIGITS - len(self.digits))
        return _text(min((int(self.digits, 16) + 1) << free, (1 << 4 * _DIGITS) - 1))

    def includes(self, run_id: str) -> bool:
        """Whether the id begins as these do."""
        return run_id.replace("-", "").startswith(self.digits)


def parse(text: str) -> Range | None:
    """What a short form means; None for any other text, such as a whole id.

    Raises ``UsageError`` for one that is too short.
    """
    if re.fullmatch(CURSOR, text):
        return None
    begin, _, ending = text.lower().partition(GAP)
    digits = begin.replace("-", "")
    if not re.fullmatch("[0-9a-f]{1,32}", digits) or not re.fullmatch("[0-9a-f]*", ending):
        return None
    if begin not in (digits, _text(int(digits.ljust(_DIGITS, "0"), 16))[: len(begin)]):
        return None  # dashes where an id has none
    if len(begin) < SHORTEST:
        raise UsageError(
            f"{text!r} is too short for a run's id: give at least its first {SHORTEST} characters"
        )
    return Range(digits, ending)


async def resolve_all(runs: Runs, texts: Iterable[str]) -> list[str]:
    """The ids that are meant, each once, in the given order."""
    return list(dict.fromkeys([await resolve(runs, text) for text in texts]))


async def resolve(runs: Runs, text: str) -> str:
    """The id that an id or its short form means.

    Raises ``RunNotFoundError`` for a short form of no run, and ``UsageError`` for one of several.
    """
    requested = parse(text)
    if requested is None:
        return text
    found = await _candidates(runs, requested)
    if not found:
        raise RunNotFoundError(text)
    if len(found) > 1:
        more = ["  ... and more"] if len(found) > _SHOWN else []
        lines = [f"  {run.id}  {run.job}  {run.status}" for run in found[:_SHOWN]]
        raise UsageError(
            f"{text!r} is the beginning of several runs; give more of the id", [*lines, *more]
        )
    return found[0].id


async def _candidates(runs: Runs, requested: Range) -> list[Run]:
    """The first runs in the range, newest first; more than are shown if there are more."""
    found: list[Run] = []
    cursor = requested.after
    size = _PAGE if requested.ending else _SHOWN + 1
    while len(found) <= _SHOWN:
        page = await runs.get_runs(cursor=cursor, limit=size)
        within = [run for run in page if requested.includes(run.id)]
        found += [run for run in within if run.id.endswith(requested.ending)]
        if len(within) < size:
            break
        cursor = within[-1].cursor
    return found


def shorten(ids: Sequence[str]) -> list[str]:
    """Short forms that tell these ids apart."""
    for length in range(_ENDING, _LONGEST_ENDING + 1):
        short = [f"{run_id[:_MILLISECOND]}{GAP}{run_id[-length:]}" for run_id in ids]
        if len(set(short)) == len(ids):
            return short
    return list(ids)


def _text(value: int) -> str:
    digits = f"{value:032x}"
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
