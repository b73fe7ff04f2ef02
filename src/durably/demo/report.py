"""What really happened in the demo's run, from the journal and from what its steps noted themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ..events import AnyEvent, RunStart, StepComplete
from ..models import StepRecord
from .census import Begin
from .index_stdlib import Totals

_MARKED = "index-"  # the steps that note their begin


@dataclass(frozen=True, slots=True)
class Attempt:
    """What one worker did."""

    number: int
    skipped: list[str]
    """Steps that were there from earlier attempts."""
    again: list[str]
    """Steps that an earlier attempt had begun and not committed."""
    committed: list[str]


def attempts(events: Sequence[AnyEvent], begins: Sequence[Begin]) -> list[Attempt]:
    """The attempts at a run, by its journal; ``again`` by the steps' own notes."""
    attempts: list[Attempt] = []
    before: list[str] = []
    times = Counter(begin.step for begin in begins)
    for event in events:
        match event:
            case RunStart(attempt=number):
                attempts.append(Attempt(number, list(before), [], []))
            case StepComplete(step_name=step):
                attempts[-1].committed.append(step)
                before.append(step)
                if times[step] > 1:
                    attempts[-1].again.append(step)
            case _:
                pass
    return attempts


def repeated(steps: Iterable[StepRecord], begins: Iterable[Begin]) -> list[str]:
    """Steps that were entered after they had been committed. There must be none."""
    ended = {s.name: s.completed_at.timestamp() * 1000 for s in steps if s.status == "completed"}
    return [begin.step for begin in begins if begin.at > ended.get(begin.step, float("inf")) + 1]


def describe(attempts: Sequence[Attempt], begins: Sequence[Begin]) -> Iterator[str]:
    """The story, in lines."""
    pids = list(dict.fromkeys(begin.pid for begin in begins))
    yield f"{len(attempts)} attempts, by {len(pids)} workers:"
    for attempt in attempts:
        yield f"  attempt {attempt.number}: {len(attempt.committed)} steps committed"
        if attempt.skipped:
            yield f"    skipped, from their checkpoints: {_span(attempt.skipped)}"
        if attempt.again:
            yield f"    ran again, begun before and not committed: {', '.join(attempt.again)}"
    twice = sum(1 for times in Counter(b.step for b in begins).values() if times > 1)
    once = len({begin.step for begin in begins}) - twice
    yield f"By the steps' own notes, {once} of the {_MARKED}… steps were entered once, {twice} twice."


def _span(names: Sequence[str]) -> str:
    if len(names) == 1:
        return f"1 step ({names[0]})"
    return f"{len(names)} steps ({names[0]} … {names[-1]})"


def differences(durable: Totals, plain: Totals) -> list[str]:
    """Where the two counts differ, in lines."""
    one, other = durable.model_dump(), plain.model_dump()
    return [
        f"{name}: {one[name]} by the resumed run, {other[name]} by the plain count"
        for name in one
        if one[name] != other[name]
    ]
