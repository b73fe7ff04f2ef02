"""A run belongs to a scope: keys hold within it, and listings can be confined to it."""

import asyncio

import pytest

from durably import Durably, Step, Trigger, events
from durably.errors import InvalidInputError
from durably.events import EVENT_TYPES


class Door:
    """Jobs wait in here until they are let out."""

    def __init__(self, durably: Durably) -> None:
        self.inside: list[str] = []
        self.entered: list[str] = []
        self.open = asyncio.Event()

        @durably.job("enter")
        async def enter(step: Step, name: str) -> str:
            self.inside.append(name)
            self.entered.append(name)
            await self.open.wait()
            self.inside.remove(name)
            return name

        self.enter = enter

    async def has(self, *names: str) -> None:
        async with asyncio.timeout(30):
            while sorted(self.inside) != sorted(names):
                await asyncio.sleep(0.01)


@pytest.fixture
def door(durably):
    return Door(durably)


async def test_an_idempotency_key_is_its_scopes_own(durably, door):
    runs = {s: await door.enter.trigger(s, idempotency_key="k", scope=s) for s in ("", "a", "b")}
    assert len({run.id for run in runs.values()}) == 3
    assert {s: run.scope for s, run in runs.items()} == {"": "", "a": "a", "b": "b"}
    for scope, run in runs.items():
        again = await door.enter.trigger("other", idempotency_key="k", scope=scope)
        assert (again.id, again.scope, again.disposition) == (run.id, scope, "idempotent")
    items = [Trigger("x", idempotency_key="k", scope="a"), Trigger("x", idempotency_key="k")]
    assert [run.id for run in await door.enter.batch_trigger(items)] == [runs["a"].id, runs[""].id]


async def test_runs_of_two_scopes_hold_one_key_at_a_time_each(durably, door):
    runs = [
        await door.enter.trigger(f"{scope}{n}", concurrency_key="k", scope=scope)
        for n in (1, 2)
        for scope in ("", "a", "b")
    ]
    await door.has("1", "a1", "b1")
    await asyncio.sleep(0.2)
    assert door.entered == ["1", "a1", "b1"]
    door.open.set()
    assert [(await durably.wait(run)).output for run in runs] == ["1", "a1", "b1", "2", "a2", "b2"]


async def test_a_key_is_handed_on_within_its_scope(durably, door):
    held = await door.enter.trigger("a1", concurrency_key="k", scope="a")
    await door.enter.trigger("b1", concurrency_key="k", scope="b")
    await door.has("a1", "b1")
    await door.enter.trigger("b2", concurrency_key="k", scope="b")  # has waited longer
    await door.enter.trigger("a2", concurrency_key="k", scope="a")
    await durably.cancel(held.id)
    async with asyncio.timeout(30):
        while "a2" not in door.entered:
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.2)
    assert "b2" not in door.entered


async def test_listings_are_confined_to_a_scope(durably, door):
    door.open.set()
    ids = {s: [(await door.enter.trigger(s, scope=s)).id for _ in range(3)] for s in ("", "a", "b")}
    for listed in (durably.get_runs, door.enter.get_runs):
        for scope, own in ids.items():
            assert sorted(run.id for run in await listed(scope=scope)) == own
        assert len(await listed()) == 9
        assert await listed(scope="c") == []
        first, *rest = await listed(scope="a")
        assert [run.id for run in await listed(scope="a", cursor=first.cursor)] == [
            run.id for run in rest
        ]


async def test_a_retriggered_run_stays_in_its_scope(durably, door):
    door.open.set()
    done = await door.enter.trigger_and_wait("x", concurrency_key="k", scope="a", timeout=30)
    again = await durably.retrigger(done.id)
    assert (again.scope, again.concurrency_key, again.id == done.id) == ("a", "k", False)
    assert (await durably.wait(again)).scope == "a"


async def test_every_event_tells_the_scope(make):
    durably = await make()
    heard = []
    for kind in EVENT_TYPES:
        durably.on(kind, heard.append)

    @durably.job("all")
    async def everything(step: Step, fails: bool) -> None:
        if step.attempt > 1:
            await asyncio.Event().wait()  # until it is canceled
        step.log.info("hello")
        step.progress(1)
        await step.run("one", asyncio.sleep, 0)
        if fails:
            raise ValueError

    good = await everything.trigger_and_wait(False, scope="a")
    bad = await everything.trigger(True, scope="a")
    followed = [event async for event in durably.subscribe(bad.id)]
    await durably.retry(bad.id)
    await durably.cancel(bad.id)
    await durably.delete_run(good.id)
    (told,) = [event async for event in durably.subscribe(good.id)]
    assert (told.type, told.scope) == ("run:delete", "a")
    assert {event.scope for event in [*heard, *followed]} == {"a"}
    assert {event.type for event in heard} >= {
        "run:trigger", "run:start", "run:progress", "run:complete", "run:fail", "run:retry",
        "run:cancel", "run:delete", "step:start", "step:complete", "log:write",
    }  # fmt: skip


async def test_a_watcher_elsewhere_hears_the_scope_too(make, door, durably):
    @durably.job("half")
    async def half(step: Step) -> None:
        step.progress(1, 2)
        await door.open.wait()

    elsewhere = await make(worker=False)
    run = await half.trigger(scope="a")
    found = []
    async for event in elsewhere.subscribe(run.id):
        found.append(event)
        if isinstance(event, events.RunProgress):
            door.open.set()
    assert "run:progress" in [event.type for event in found]
    assert {event.scope for event in found} == {"a"}


@pytest.mark.parametrize("scope", ["x" * 256, "a\0b", "\ud800", None, 1])
async def test_a_scope_is_checked_as_a_key_is(durably, door, scope):
    with pytest.raises(InvalidInputError, match="scope"):
        await door.enter.trigger("x", scope=scope)
    with pytest.raises(InvalidInputError, match="scope"):
        await door.enter.batch_trigger([Trigger("x", scope=scope)])
    if scope is not None:
        with pytest.raises(InvalidInputError, match="scope"):
            await durably.get_runs(scope=scope)
    assert await durably.get_runs() == []


def test_blocking_callers_have_it_too(tmp_path):
    durably = Durably(tmp_path / "app.db", polling_interval=0.05)

    @durably.job("echo")
    async def echo(step: Step, text: str) -> str:
        return text

    with durably.sync() as d:
        handle = d.handle(echo)
        made = [
            d.trigger(echo, "1", idempotency_key="k", scope="a"),
            d.trigger_and_wait(echo, "2", scope="a"),
            handle.trigger("3", scope="a"),
            handle.trigger_and_wait("4", scope="a"),
        ]
        assert handle.trigger("5", idempotency_key="k", scope="b").disposition == "created"
        assert {run.scope for run in made} == {"a"}
        ids = sorted(run.id for run in made)
        assert sorted(run.id for run in d.get_runs(scope="a")) == ids
        assert sorted(run.id for run in handle.get_runs(scope="a")) == ids
