"""Watchers over two instances on one file: whoever did the work, and however slow one listens."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest

from durably import Durably, Step, events, job
from durably.errors import RunConflictError, StorageUnavailableError
from durably.feed.feed import CHUNK, Feed
from durably.feed.queues import MAX_QUEUED, MAX_WEIGHT, Watcher, weigh

Make = Callable[..., Any]
Told = list[events.AnyEvent | events.Resync]
PATIENCE = 60.0


@pytest.fixture
def make(make: Make) -> Make:
    """Nobody pulls the plug here."""
    return partial(make, durability="process")


class Gates:
    """Where jobs of this process wait for the test."""

    def __init__(self) -> None:
        self._events: dict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._reached: dict[str, asyncio.Event] = defaultdict(asyncio.Event)

    async def wait(self, name: str) -> None:
        self._reached[name].set()
        await self._events[name].wait()

    async def reached(self, name: str) -> None:
        """Wait until a job waits there."""
        await self._reached[name].wait()

    def open(self, name: str) -> None:
        self._events[name].set()


@pytest.fixture
def gates() -> Gates:
    return Gates()


@pytest.fixture
def script(gates: Gates) -> Any:
    """A job that does what its input says: 'wait', 'fail', 'log', 'N' steps, or '%N' progress."""

    @job("script")
    async def script(step: Step, input: list[str]) -> str:
        for number, word in enumerate(input):
            if word.isdigit():
                for i in range(int(word)):
                    await step.run(f"{number}-{i}", asyncio.sleep, 0)
            elif word.startswith("%"):
                step.progress(int(word[1:]))
            elif word == "log":
                step.log.info("line")
            elif word == "fail":
                raise ValueError(word)
            else:
                await gates.wait(word)
        return "done"

    return script


class Watch:
    """Everything that a subscription tells, in a task."""

    def __init__(self, source: AsyncIterator[Any]) -> None:
        self.told: Told = []
        self._news = asyncio.Event()
        self._task = asyncio.create_task(self._take(source))

    async def _take(self, source: AsyncIterator[Any]) -> None:
        async for event in source:
            self.told.append(event)
            self._news.set()

    async def until(self, wanted: Callable[[Any], bool]) -> None:
        """Until something that was told is as wanted."""
        async with asyncio.timeout(PATIENCE):
            while not any(map(wanted, self.told)):
                self._news.clear()
                await self._news.wait()

    async def ended(self) -> Told:
        """All of it."""
        async with asyncio.timeout(PATIENCE):
            await self._task
        return self.told

    async def stop(self) -> Told:
        self._task.cancel()
        await asyncio.wait({self._task})
        return self.told


def numbers(told: Iterable[Any]) -> list[int]:
    """The numbers of the journaled events."""
    return [event.sequence for event in told if getattr(event, "sequence", None) is not None]


def types(told: Iterable[Any]) -> list[str]:
    return [event.type for event in told]


def progress(told: Iterable[Any]) -> list[float]:
    return [event.progress.current for event in told if isinstance(event, events.RunProgress)]


async def until(done: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not done():
            await asyncio.sleep(0.005)


async def begun(*instances: Durably) -> None:
    """Until what is watched there is watched from the journal's present end."""
    await until(lambda: all(feed_of(durably)._cursor is not None for durably in instances))


def feed_of(durably: Durably) -> Feed:
    assert durably._engine.session.feed is not None
    return durably._engine.session.feed


async def test_who_reads_after_an_event_reads_nothing_older(
    make: Make, script: Any, gates: Gates
) -> None:
    """The database is some 100 ms behind: what was told is not taken back."""
    durably = await make(script)
    run = await durably.register(script).trigger(["%1", "more", "%2", "%3", "end"])
    watch = Watch(durably.subscribe(run.id))
    for word, current in (("more", 1), ("end", 3)):
        await watch.until(lambda e, c=current: progress([e]) == [c])
        listed = (await durably.get_runs())[0]
        for read in (await durably.get_run(run.id), listed):
            assert read is not None
            assert read.progress is not None
            assert read.progress.current == current
        gates.open(word)
    await watch.ended()


# -- one run


async def test_a_run_that_several_processes_move_is_told_whole_and_in_order(
    make: Make, script: Any, gates: Gates
) -> None:
    """Triggered by one, begun by a second, handed back, gone on with by a third, cancelled by the first."""
    web = await make(script, worker=False)
    run = await web.register(script).trigger(["5", "a", "5", "b"])
    first = await make(script)
    watches = [Watch(durably.subscribe(run.id)) for durably in (web, first)]
    await watches[0].until(lambda event: event.type == "step:complete" and event.step_index == 4)
    await first.stop(0)
    second = await make(script)
    watches.append(Watch(second.subscribe(run.id)))
    gates.open("a")
    await watches[0].until(lambda event: event.type == "step:complete" and event.step_index == 9)
    await web.cancel(run.id)
    told = [await watches[0].ended(), await watches[2].ended()]
    assert types(told[0])[-1] == "run:cancel"
    assert [*types(watches[1].told)].count("step:complete") == 5
    for each in told:
        journaled = [event for event in each if event.sequence is not None]
        assert numbers(journaled) == list(range(1, 16))
        assert types(journaled) == [
            "run:trigger", "run:start", *["step:complete"] * 5, "run:release", "run:start",
            *["step:complete"] * 5, "run:cancel",
        ]  # fmt: skip


@pytest.mark.parametrize("after", [0, 1])
async def test_events_that_were_not_told_are_read(make: Make, script: Any, after: int) -> None:
    """A gap in the numbers is all it takes."""
    worker = await make(script, start=False)
    await worker.migrate()
    run = await worker.register(script).trigger(["50", "fail"])
    feed = feed_of(worker)
    publish, dropped = feed.publish, 0

    def forgetful(event: events.AnyEvent) -> None:
        nonlocal dropped
        if event.sequence is not None and event.sequence % 3 == 0:
            dropped += 1
        else:
            publish(event)

    feed.publish = forgetful  # type: ignore[method-assign]
    watch = Watch(worker.subscribe(run.id, after))
    await worker.start()
    told = await watch.ended()
    assert numbers(told) == list(range(after + 1, 54))
    assert dropped > 10


async def told_to_a_slow_watcher(durably: Durably, script: Any, patience: float) -> Told:
    """Everything, to one who stops to listen at the start and goes on when the run is over."""
    await durably.migrate()
    run = await durably.register(script).trigger([str(5 * MAX_QUEUED)])
    told: Told = []
    over = asyncio.Event()

    async def listen() -> None:
        async for event in durably.subscribe(run.id):
            told.append(event)
            if event.type == "run:start":
                await over.wait()

    listening = asyncio.create_task(listen())
    await until(lambda: told and feed_of(durably)._cursor is not None)
    await durably.start()
    await durably.wait(run.id, PATIENCE)
    (watcher,) = feed_of(durably)._watchers[run.id]
    assert len(watcher._queue) <= MAX_QUEUED
    over.set()
    await asyncio.wait_for(listening, patience)
    return told


async def test_a_slow_watcher_is_told_all_that_is_kept_and_holds_little(
    make: Make, script: Any
) -> None:
    told = await told_to_a_slow_watcher(await make(script, start=False), script, PATIENCE)
    assert numbers(told) == list(range(1, 5 * MAX_QUEUED + 4))


async def test_forgetting_to_look_at_what_did_not_fit_would_be_seen(
    make: Make, script: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A planted bug: what a full queue does not take is gone."""
    tell = Watcher.tell

    def forgetful(self: Watcher, event: events.AnyEvent, weight: int = 0) -> None:
        if len(self._queue) < MAX_QUEUED:
            tell(self, event, weight)

    monkeypatch.setattr(Watcher, "tell", forgetful)
    with pytest.raises(TimeoutError):
        await told_to_a_slow_watcher(await make(script, start=False), script, 1.0)


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_large_outputs_do_not_wait_for_a_slow_watcher(make: Make, elsewhere: bool) -> None:
    size, count = 100_000, 60

    @job("large")
    async def large(step: Step) -> None:
        for i in range(count):
            await step.run(f"step-{i}", str.ljust, "", size)

    worker, web = await make(large, start=False), await make(large, worker=False)
    await worker.migrate()
    run = await worker.register(large).trigger()
    watching = web if elsewhere else worker
    stream = watching.subscribe(run.id)
    told = [await anext(stream)]
    lists = watching.subscribe_runs()
    first = asyncio.create_task(anext(lists))
    await worker.start()
    await watching.wait(run.id, PATIENCE)
    feed = feed_of(watching)
    (watcher,) = feed._watchers[run.id]
    (list_watcher,) = feed._lists
    for queue in (watcher._queue, list_watcher._queue):
        held = sum(len(event.output or "") for event in queue if hasattr(event, "output"))
        assert held <= MAX_WEIGHT
    told += [event async for event in stream]
    assert numbers(told) == list(range(1, count + 4))
    assert [len(event.output) for event in told if event.type == "step:complete"] == [size] * count
    await first
    async for event in lists:
        assert event.type != "step:complete" or event.output is None
        if event.is_final:
            break
    await lists.aclose()


@pytest.mark.parametrize(
    ("output", "least"),
    [("x" * 1000, 1000), (["x" * 10] * 1000, 10_000), ({"a": ["y" * 5000]}, 5_000),
     ([0] * 100_000, MAX_WEIGHT), (5, 0), (None, 0), ([[["z" * 300_000]]], 300_000)],
)  # fmt: skip
def test_heavy_outputs_are_known(output: Any, least: int) -> None:
    common: Any = {"run_id": "r", "job": "j", "labels": {}, "timestamp": datetime.now(UTC)}
    event = events.RunComplete(**common, output=output, duration=0.0)
    assert least <= weigh(event) <= 20 * least + 64


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_a_slow_watcher_is_told_the_last_progress_before_the_end(
    make: Make, script: Any, elsewhere: bool
) -> None:
    worker, web = await make(script, start=False), await make(script, worker=False)
    await worker.migrate()
    run = await worker.register(script).trigger(["%1", "10", "%7", str(2 * MAX_QUEUED)])
    stream = (web if elsewhere else worker).subscribe(run.id)
    told = [await anext(stream)]
    await worker.start()
    await web.wait(run.id, PATIENCE)
    told += [event async for event in stream]
    assert numbers(told) == list(range(1, 2 * MAX_QUEUED + 14))
    assert progress(told)[-1] == 7
    assert types(told)[-1] == "run:complete"


async def test_a_number_beyond_the_journal_is_told_the_end_of_the_run(
    make: Make, script: Any, gates: Gates
) -> None:
    """Of a file that was put back from a copy, say."""
    worker, web = await make(script), await make(script, worker=False)
    run = await worker.register(script).trigger(["a"])
    await gates.reached("a")  # its start is not among what they still hear
    watches = [Watch(durably.subscribe(run.id, 1_000)) for durably in (worker, web)]
    await until(lambda: all(d._engine.session.feed.follows(run.id) for d in (worker, web)))
    gates.open("a")
    for watch in watches:
        assert numbers(await watch.ended()) == [3]
    assert numbers(await Watch(web.subscribe(run.id, 1_000)).ended()) == [3]


@pytest.mark.parametrize("by", ["same", "other"])
async def test_a_deletion_is_told_once(make: Make, script: Any, by: str) -> None:
    watcher, other = await make(script, worker=False), await make(script, worker=False)
    deleter = watcher if by == "same" else other
    run = await watcher.register(script).trigger([])
    stream = watcher.subscribe(run.id)
    told = [await anext(stream)]
    await deleter.cancel(run.id)
    await deleter.delete_run(run.id)
    await asyncio.sleep(0.2)  # the watcher's process has looked meanwhile, or not
    told += [event async for event in stream]
    assert types(told)[-1] == "run:delete"
    assert types(told).count("run:delete") == 1
    assert types(told)[:-1] in (["run:trigger"], ["run:trigger", "run:cancel"])
    assert numbers(told) in ([1, 2, 3], [1, 3])


async def test_progress_of_other_processes_is_told_and_never_goes_back(
    make: Make, script: Any, gates: Gates
) -> None:
    worker, web = await make(script), await make(script, worker=False)
    run = await web.register(script).trigger(["%1", "a", "%2", "b", "%3", "%4"])
    watch = Watch(web.subscribe(run.id))
    await watch.until(lambda event: progress([event]) == [1])
    gates.open("a")
    await watch.until(lambda event: progress([event]) == [2])
    late = Watch(web.subscribe(run.id))
    await late.until(lambda event: progress([event]) == [2])
    gates.open("b")
    for told in (await watch.ended(), await late.ended()):
        assert progress(told) == sorted(set(progress(told)))
        assert progress(told)[-1] == 4
        assert types(told)[-2:] == ["run:progress", "run:complete"]
    assert worker


# -- all runs


def per_run(told: Told) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for event in told:
        if isinstance(event, events.Event) and event.sequence is not None:
            found.setdefault(event.run_id, []).append(event.sequence)
    return found


async def test_lists_are_told_each_event_once_and_in_order_whoever_did_what(
    make: Make, script: Any
) -> None:
    """Each run is triggered by one process and executed by any of three; one in five is cancelled."""
    web = await make(script, worker=False)
    workers = [await make(script, max_concurrent_runs=2) for _ in range(2)]
    everybody = [web, *workers]
    watches = [Watch(durably.subscribe_runs()) for durably in everybody]
    await begun(*everybody)
    runs: list[str] = []
    for i in range(60):
        run = await everybody[i % 3].register(script).trigger(["3", "log", "3"])
        runs.append(run.id)
        if i % 5 == 0:
            with suppress(RunConflictError):  # it may be over
                await everybody[(i + 1) % 3].cancel(run.id)
        await asyncio.sleep(0.002)
    for run_id in runs:
        for watch in watches:
            await watch.until(
                lambda event, run_id=run_id: event.is_final and event.run_id == run_id
            )
    for watch in watches:
        found = per_run(await watch.stop())
        assert "runs:resync" not in types(watch.told)
        assert set(found) == set(runs)
        for run_id, told in found.items():
            assert told == list(range(1, len(told) + 1)), run_id


async def test_lists_that_begin_in_the_middle_miss_nothing_of_what_follows(
    make: Make, script: Any, gates: Gates
) -> None:
    """Another process is ahead by some lines when this one tells of its own."""
    web, worker = await make(script, worker=False), await make(script)
    run = await worker.register(script).trigger(["5", "a", "5", "b"])
    await until(lambda: worker._engine.session.worker.running)
    await asyncio.sleep(0.1)
    watch = Watch(web.subscribe_runs())
    await begun(web)
    gates.open("a")
    async with asyncio.timeout(PATIENCE):
        while len(await web.get_steps(run.id)) < 10:
            pass
    await web.cancel(run.id)
    await watch.until(lambda event: event.type == "run:cancel")
    told = per_run(await watch.stop())[run.id]
    assert told == list(range(told[0], told[0] + len(told)))
    assert told[-1] == 13
    assert told[0] <= 8


async def test_a_slow_list_is_told_to_read_itself_again_and_goes_on(
    make: Make, script: Any
) -> None:
    durably = await make(script)
    handle = durably.register(script)
    stream = durably.subscribe_runs()
    first = asyncio.create_task(anext(stream))
    await begun(durably)
    await handle.trigger_and_wait([str(3 * MAX_QUEUED)], timeout=PATIENCE)
    (watcher,) = feed_of(durably)._lists
    assert len(watcher._queue) <= MAX_QUEUED
    assert (await first).type == "run:trigger"
    assert await anext(stream) == events.Resync()
    again = await handle.trigger_and_wait([], timeout=PATIENCE)
    async with asyncio.timeout(PATIENCE):
        async for event in stream:
            if event.is_final and event.run_id == again.id:
                break
    await stream.aclose()


@pytest.mark.parametrize("by", ["same", "other"])
async def test_a_list_is_told_of_a_deletion_once(make: Make, script: Any, by: str) -> None:
    watcher, other = await make(script, worker=False), await make(script, worker=False)
    deleter = watcher if by == "same" else other
    watch = Watch(watcher.subscribe_runs())
    await begun(watcher)
    for _ in range(3):
        run = await deleter.register(script).trigger([])
        await deleter.cancel(run.id)
        await deleter.delete_run(run.id)
    last = await deleter.register(script).trigger([])
    await watch.until(lambda event: event.run_id == last.id)
    assert types(await watch.stop()).count("run:delete") == 3


async def test_lists_are_told_the_last_progress_of_a_run_before_its_end(
    make: Make, script: Any
) -> None:
    worker, web = await make(script), await make(script, worker=False)
    watches = [Watch(durably.subscribe_runs()) for durably in (worker, web)]
    await begun(worker, web)
    run = await web.register(script).trigger(["%1", "%2", "%3"])
    for watch in watches:
        await watch.until(lambda event: event.is_final)
        told = [event for event in await watch.stop() if event.run_id == run.id]
        assert progress(told)[-1] == 3
        assert progress(told) == sorted(set(progress(told)))
        assert types(told)[-1] == "run:complete"


# -- trouble


async def test_trouble_of_the_storage_does_not_end_watching(
    make: Make, script: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, web = await make(script), await make(script, worker=False)
    run = await worker.register(script).trigger(["a"])
    watches = [Watch(web.subscribe(run.id)), Watch(web.subscribe_runs())]
    await watches[0].until(lambda event: event.type == "run:start")
    failures = 0

    async def unavailable(*_: Any) -> Any:
        nonlocal failures
        failures += 1
        raise StorageUnavailableError("the database cannot be read")

    with monkeypatch.context() as trouble:
        trouble.setattr(web._engine.store, "tail", unavailable)
        await worker.cancel(run.id)
        await until(lambda: failures >= 3)
    await watches[1].until(lambda event: event.type == "run:cancel")
    assert types(await watches[0].ended())[-1] == "run:cancel"
    await watches[1].stop()


async def test_more_lines_of_another_process_than_are_read_at_once(
    make: Make, script: Any, gates: Gates, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, web = await make(script), await make(script, worker=False)
    run = await worker.register(script).trigger(["a", str(2 * CHUNK + 7)])
    one, all = Watch(web.subscribe(run.id)), Watch(web.subscribe_runs())
    await one.until(lambda event: event.type == "run:start")
    feed, go = feed_of(web), asyncio.Event()
    catch_up = feed._catch_up

    async def late() -> None:
        await go.wait()
        await catch_up()

    monkeypatch.setattr(feed, "_catch_up", late)
    gates.open("a")
    await worker.wait(run.id, PATIENCE)
    go.set()
    assert numbers(await one.ended()) == list(range(1, 2 * CHUNK + 11))
    await all.until(lambda event: event == events.Resync())
    await all.until(lambda event: event.type == "run:complete")
    await all.stop()


async def test_closing_ends_every_watch(make: Make, script: Any) -> None:
    durably = await make(script)
    run = await durably.register(script).trigger(["never"])
    watches = [Watch(durably.subscribe(run.id)), Watch(durably.subscribe_runs())]
    await watches[0].until(lambda event: event.type == "run:start")
    feed = feed_of(durably)
    await durably.stop(0)
    for watch in watches:
        await watch.ended()
    assert feed.watchers == 0
    assert feed._looking is None


async def test_closing_ends_a_watch_that_is_reading(
    make: Make, script: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    durably = await make(script)
    run = await durably.register(script).trigger(["never"])
    read = durably._engine.store.run

    async def closed_meanwhile(run_id: str) -> Any:
        await durably.stop(0)
        return await read(run_id)

    monkeypatch.setattr(durably._engine.store, "run", closed_meanwhile)
    await Watch(durably.subscribe(run.id)).ended()


async def test_nothing_is_left_of_watchers_that_leave(make: Make, script: Any) -> None:
    durably, other = await make(script), await make(script, worker=False)
    run = await durably.register(script).trigger(["a"])
    feed = feed_of(other)
    for _ in range(3):
        watches = [Watch(other.subscribe(run.id)) for _ in range(20)]
        watches += [Watch(other.subscribe_runs()) for _ in range(20)]
        await watches[0].until(lambda event: event.type == "run:start")
        assert feed.watchers == 40
        for watch in watches:
            await watch.stop()
        assert feed.watchers == 0
        assert (feed._told, feed._watchers, feed._lists) == ({}, {}, {})
        assert not feed._counted
        await until(lambda: feed._looking is None)
        assert feed._cursor is None
