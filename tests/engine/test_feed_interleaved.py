"""Two processes' worth of stores and feeds on one file and one loop, in an order that a seed decides.

Whatever they do to a few runs, and however late each tells its own watchers: a follower of a run is told
every number after its own once and in order, a follower of all runs every number of each.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from contextvars import Context, copy_context
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import durably.feed.feed as feed_module
from durably import events
from durably.errors import RunConflictError, RunNotFoundError
from durably.feed.feed import LOOK, Feed
from durably.models import Progress
from durably.runtime import Runtime, to_datetime
from durably.state import CANCEL, COMPLETE, FAIL, RELEASE, RETRY
from durably.store.records import Entry, Lease, NewRun, Settlement
from durably.store.snapshots import event_from_row, progress_to_json
from durably.store.sqlite.store import SQLiteStore
from tests.simulation.loop import PROCESS, SimulatedLoop
from tests.simulation.loop import Process as Simulated
from tests.tier import by_tier

SEEDS = by_tier(quick=40, ci=600, soak=20_000)
OPERATIONS = 120
LONG = 3_600_000  # milliseconds that a lease lasts


class VirtualRuntime(Runtime):
    """The loop's own time, and no threads: only the seed decides who is next."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__()
        self.threads, self.random = False, chance

    def now(self) -> int:
        return 1_700_000_000_000

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()


class Process:
    """A store and a feed, and what they have not told yet."""

    def __init__(self, path: Path, name: str, chance: random.Random, feed: type[Feed]) -> None:
        self.runtime = VirtualRuntime(chance)
        self.name, self.chance = name, chance
        self.store = SQLiteStore(path, self.runtime, durability="process")
        self.feed = feed(self.store, self.runtime, name)
        self.leases: dict[str, Lease] = {}
        self._untold: deque[Any] = deque()

    async def pause(self) -> None:
        await asyncio.sleep(self.chance.choice((0, 0.001, self.chance.random() * LOOK)))

    def tell_later(self, event: Any) -> None:
        self._untold.append(event)

    def tell_some(self) -> None:
        """In the order of the commits, as a process tells its own."""
        for _ in range(self.chance.randrange(len(self._untold) + 1)):
            self.feed.publish(self._untold.popleft())

    def tell_all(self) -> None:
        while self._untold:
            self.feed.publish(self._untold.popleft())

    async def committed(self, run_id: str, number: int) -> None:
        (row,) = await self.store.journal(run_id, number - 1, 1)
        self.tell_later(event_from_row(row))


def _alone(name: str) -> Context:
    """For a task whose turn the seed decides."""
    context = copy_context()
    context.run(PROCESS.set, Simulated(name))
    return context


class Follower:
    """A follower of one run, at its own pace."""

    def __init__(self, process: Process, run_id: str, after: int) -> None:
        self.run_id, self.after = run_id, after
        self.told: list[Any] = []
        self.was_there = True
        self.task = asyncio.create_task(self._follow(process), context=_alone(run_id))

    async def _follow(self, process: Process) -> None:
        try:
            async for event in process.feed.subscribe(self.run_id, self.after):
                self.told.append(event)
                await process.pause()
        except RunNotFoundError:
            self.was_there = False

    def check(self, deleted: set[str]) -> None:
        """Each number once, in order, to an end."""
        journaled = [event for event in self.told if event.sequence is not None]
        expected = self.after
        for event in journaled:
            expected += 1
            if event.type == "run:delete":  # the lines before it are gone
                assert event.sequence >= expected
            else:
                assert event.sequence == expected, (self.after, journaled)
        assert not journaled or journaled[-1].is_final
        assert [event.type for event in self.told].count("run:delete") <= 1
        assert self.was_there or self.run_id in deleted


class ListFollower:
    """A follower of all runs."""

    def __init__(self, process: Process, known: dict[str, int]) -> None:
        self.told: list[Any] = []
        self._known = known
        """What was committed when it began: nobody owes it that."""
        self.task = asyncio.create_task(self._follow(process), context=_alone("all"))

    async def _follow(self, process: Process) -> None:
        async for event in process.feed.subscribe_runs(lambda event: True):
            self.told.append(event)

    def check(self, newest: dict[str, int], deleted: set[str]) -> None:
        per_run: dict[str, list[int]] = {}
        for event in self.told:
            assert isinstance(event, events.Event)  # it is never slow
            if event.sequence is not None and event.type != "run:delete":
                per_run.setdefault(event.run_id, []).append(event.sequence)
        for run_id, numbers in per_run.items():
            assert numbers == sorted(set(numbers)), run_id
        for run_id, newest_number in newest.items():
            if run_id not in deleted:
                known = self._known.get(run_id, 0)
                owed = [number for number in per_run.get(run_id, ()) if number > known]
                assert owed == list(range(known + 1, newest_number + 1)), run_id
        deletions = [event.run_id for event in self.told if event.type == "run:delete"]
        assert len(deletions) == len(set(deletions))


class World:
    """Some operations by two processes, and those who follow them."""

    def __init__(self, path: Path, chance: random.Random, feed: type[Feed]) -> None:
        self.chance = chance
        self.processes = [Process(path, name, chance, feed) for name in ("one", "other")]
        self.newest: dict[str, int] = {}
        self.deleted: set[str] = set()
        self.followers: list[Follower] = []
        self.lists: list[ListFollower] = []

    async def run(self) -> None:
        for process in self.processes:
            await process.store.open()
            await process.store.migrate()
        try:
            await self._play()
            await self._end()
        finally:
            for process in self.processes:
                await process.feed.close()
                await process.store.close()

    async def _play(self) -> None:
        for _ in range(OPERATIONS):
            operation = self.chance.choice(self._OPERATIONS)
            await operation(self, self.chance.choice(self.processes))
            for process in self.processes:
                if self.chance.random() < 0.5:
                    process.tell_some()
                if self.chance.random() < 0.3:
                    process.feed.rung()
            await process.pause()

    async def _end(self) -> None:
        """Every run ends, every line is told, every follower is over."""
        for run_id in self.newest.keys() - self.deleted:
            await self._cancel(self.processes[0], run_id)
        for process in self.processes:
            process.tell_all()
        async with asyncio.timeout(60):  # of virtual time
            while any(not follower.task.done() for follower in self.followers) or self._owed():
                await asyncio.sleep(LOOK)
        for follower in self.followers:
            follower.task.result()
            follower.check(self.deleted)
        for process in self.processes:
            await process.feed.close()
        for each in self.lists:
            await each.task
            each.check(self.newest, self.deleted)

    def _owed(self) -> bool:
        """Whether a list waits for the last line of a run."""
        wanted = {
            (run_id, number) for run_id, number in self.newest.items() if run_id not in self.deleted
        }
        return any(
            {(run_id, n) for run_id, n in wanted if n > each._known.get(run_id, 0)}
            - {(event.run_id, event.sequence) for event in each.told}
            for each in self.lists
        )

    def _any(self) -> str | None:
        runs = sorted(self.newest.keys() - self.deleted)
        return self.chance.choice(runs) if runs else None

    async def _count(self, process: Process, run_id: str, number: int) -> None:
        self.newest[run_id] = max(self.newest.get(run_id, 0), number)
        await process.committed(run_id, number)

    # -- what happens

    async def _trigger(self, process: Process) -> None:
        if len(self.newest) - len(self.deleted) < 4:
            run_id = f"run-{len(self.newest)}"
            new = NewRun(run_id, "job", "1", "{}", None, None)
            await process.store.enqueue([new], process.runtime.now())
            await self._count(process, run_id, 1)

    async def _claim(self, process: Process) -> None:
        claims = await process.store.claim(
            ["job"], process.name, process.runtime.now(), LONG, 1, takeover=False
        )
        for claimed in claims.taken:
            process.leases[claimed.row.id] = claimed.lease
            await self._count(process, claimed.row.id, claimed.seq)

    async def _step(self, process: Process) -> None:
        for run_id, lease in process.leases.items():
            name = f"after-{self.newest[run_id]}"
            entry = Entry("step:complete", process.runtime.now(), name, 0, data="0")
            await self._count(process, run_id, await process.store.record(lease, entry))

    async def _progress(self, process: Process) -> None:
        for run_id, lease in process.leases.items():
            progress = Progress(self.newest[run_id])
            now = process.runtime.now()
            await process.store.save_progress(lease, progress_to_json(progress), now)
            process.tell_later(
                events.RunProgress(
                    run_id=run_id,
                    job="job",
                    labels={},
                    timestamp=to_datetime(now),
                    progress=progress,
                )
            )

    async def _settle(self, process: Process) -> None:
        if process.leases:
            run_id = self.chance.choice(sorted(process.leases))
            transition = self.chance.choice((COMPLETE, FAIL, RELEASE))
            now = process.runtime.now()
            settlement = {
                COMPLETE: Settlement(now, output="0"),
                FAIL: Settlement(now, error='{"type":"E","message":"m"}'),
                RELEASE: Settlement(now, due_at=now),
            }[transition]
            lease = process.leases.pop(run_id)
            _, number = await process.store.settle(lease, transition, settlement)
            await self._count(process, run_id, number)

    async def _cancel(self, process: Process, run_id: str | None = None) -> None:
        if run_id := run_id or self._any():
            try:
                _, number = await process.store.move(run_id, CANCEL, process.runtime.now())
            except RunConflictError:
                return
            for each in self.processes:
                each.leases.pop(run_id, None)
            await self._count(process, run_id, number)

    async def _retry(self, process: Process) -> None:
        if run_id := self._any():
            try:
                _, number = await process.store.move(run_id, RETRY, process.runtime.now())
            except RunConflictError:
                return
            await self._count(process, run_id, number)

    async def _delete(self, process: Process) -> None:
        if run_id := self._any():
            now = process.runtime.now()
            try:
                await process.store.delete(run_id, now)
            except RunConflictError:
                return
            self.deleted.add(run_id)
            process.tell_later(  # as an instance does it: without its number
                events.RunDelete(run_id=run_id, job="job", labels={}, timestamp=to_datetime(now))
            )

    async def _follow(self, process: Process) -> None:
        if run_id := self._any():
            after = self.chance.randrange(self.newest[run_id] + 1)
            self.followers.append(Follower(process, run_id, after))

    async def _follow_all(self, process: Process) -> None:
        if len(self.lists) < 4:
            known: dict[str, int] = {}
            self.lists.append(ListFollower(process, known))
            await asyncio.sleep(0.001)  # until it has begun: nothing else happens meanwhile
            known |= self.newest

    _OPERATIONS = (
        _trigger, _trigger, _claim, _claim, _step, _step, _step, _progress, _settle, _cancel, _cancel,
        _retry, _delete, _delete, _follow, _follow, _follow, _follow_all,
    )  # fmt: skip


def play(path: Path, seed: int, feed: type[Feed] = Feed) -> None:
    chance = random.Random(seed)
    with asyncio.Runner(loop_factory=lambda: SimulatedLoop(chance)) as runner:
        runner.run(World(path / f"{seed}.db", chance, feed).run())


@pytest.mark.parametrize("start", range(0, SEEDS, 20))
def test_nothing_is_missed_told_twice_or_out_of_order(tmp_path: Path, start: int) -> None:
    for seed in range(start, start + 20):
        try:
            play(tmp_path, seed)
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise


BUGS = {
    "a gap is not seen": ("if number == last + 1:", "if number > last:"),
    "lists do not see gaps": ("if last + 1 < number < _DELETED and not gapless:", "if False:"),
    "lists are told again": ("if number <= last:", "if False:"),
    "the bell is all that is heard": ("if changed != seen or self._bell.is_set():", "if self._bell.is_set():"),
    "a deletion is told without its number": ("or live.is_final:", "or False:"),
    "the tail begins too late": ("await self._tell_lines(lines)", "await self._tell_lines(lines[1:])"),
}  # fmt: skip


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_caught(tmp_path: Path, bug: str) -> None:
    old, new = BUGS[bug]
    source = Path(str(feed_module.__file__)).read_text()
    assert old in source
    planted = ModuleType("durably.feed.feed")
    planted.__package__ = "durably.feed"
    exec(compile(source.replace(old, new), bug, "exec"), planted.__dict__)
    with pytest.raises((AssertionError, TimeoutError)):
        for seed in range(200):
            play(tmp_path, seed, planted.Feed)
