"""What every store must do, in the order of a run's life."""

import asyncio

import pytest

from durably.errors import LeaseLost, RunConflictError, RunNotFoundError
from durably.state import (
    ACTIVE,
    CANCEL,
    COMPLETE,
    FAIL,
    FINAL,
    NEVER,
    PARKED,
    RELEASE,
    RETRY,
    WAIT,
    Status,
)
from durably.store.records import Entry, Lease, NewRun, RunFilter, Settlement

LEASE = 30_000
SETTLING = (COMPLETE, FAIL, WAIT, RELEASE)


def new(n, job="job", key=None, idempotency_key=None, labels="{}", scope=""):
    return NewRun(f"{n:036d}", job, '{"n":1}', labels, idempotency_key, key, scope)


async def put(store, *runs):
    return [row.row for row in await store.enqueue(runs, store.clock.now())]


async def claim(store, limit=10, jobs=("job",), *, takeover=True):
    claims = await store.claim(jobs, "me", store.clock.now(), LEASE, limit, takeover=takeover)
    return claims.taken


async def claim_one(store):
    return (await claim(store, 1))[0]


def settlement(store, transition, **values):
    due = None if transition.target in FINAL else store.clock.now()
    return Settlement(store.clock.now(), due_at=due, **values)


def entry(store, name, kind="step:complete"):
    return Entry(kind, store.clock.now(), name, 0, store.clock.now(), "1")


async def test_a_new_run_is_pending_and_due_at_once(store):
    (row,) = await put(store, new(1, labels='{"a":"b"}'))
    assert (row.status, row.due_at, row.generation) == ("pending", store.clock.now(), 0)
    assert await store.run(row.id) == row
    assert [(j.seq, j.type) for j in await store.journal(row.id)] == [(1, "run:trigger")]


async def test_enqueue_is_all_or_nothing(store):
    await put(store, new(1))
    with pytest.raises(Exception, match=r"(?i)not[ -]null"):
        await store.enqueue([new(2), NewRun("x" * 36, None, "1", "{}", None, None)], 1)
    assert len(await store.runs(RunFilter())) == 1


async def test_lines_that_are_many_or_large_are_read_by_pages(store, monkeypatch):
    monkeypatch.setattr("durably.store.reader.PAGE", 1000)
    await put(store, new(1))
    held = await claim_one(store)
    for n in range(9):
        await store.record(held.lease, entry(store, f"s{n}")._replace(data="1" * 400))
        await store.record(held.lease, entry(store, None, "log:write")._replace(data="{}"))
    assert [line.step for line in await store.steps(held.row.id)] == [f"s{n}" for n in range(9)]
    assert len(await store.logs(held.row.id)) == 9
    assert [line.seq for line in await store.logs(held.row.id, 4, 2)] == [6, 8]
    assert [line.seq for line in await store.journal(held.row.id)] == list(range(1, 21))
    assert [line.seq for line in await store.journal(held.row.id, 3, 7)] == list(range(4, 11))


async def test_an_idempotency_key_gives_the_first_run_whatever_its_status(store):
    await put(store, new(1, idempotency_key="k"))
    held = await claim_one(store)
    await store.settle(held.lease, COMPLETE, settlement(store, COMPLETE, output="1"))
    ((row, created),) = await store.enqueue([new(2, idempotency_key="k")], store.clock.now())
    assert (row.id, row.status, created) == (new(1).id, "completed", False)
    ((_, other_job),) = await store.enqueue([new(3, "other", idempotency_key="k")], 1)
    assert other_job
    ((row, elsewhere),) = await store.enqueue([new(4, idempotency_key="k", scope="a")], 1)
    assert (row.scope, elsewhere) == ("a", True)
    ((row, again),) = await store.enqueue([new(5, idempotency_key="k", scope="a")], 1)
    assert (row.id, row.scope, again) == (new(4).id, "a", False)


async def test_the_same_key_from_many_tasks_makes_one_run(store):
    tried = await asyncio.gather(
        *(store.enqueue([new(n, idempotency_key="k")], store.clock.now()) for n in range(40))
    )
    assert len({found[0].row.id for found in tried}) == 1
    assert sum(found[0].created for found in tried) == 1


def skipping(n, **fields):
    return new(n, key="k", **fields)._replace(coalesce=True)


async def tried(store, *runs):
    return [(row.id[-2:], created) for row, created in await store.enqueue(runs, 1)]


async def test_what_may_be_coalesced_is_stored_only_if_nothing_waits_with_its_key(store):
    assert await tried(store, skipping(1), skipping(2)) == [("01", True), ("01", False)]
    others = [
        skipping(3, job="other"),
        skipping(4, scope="a"),
        skipping(5)._replace(concurrency_key="l"),
    ]
    assert await tried(store, *others) == [("03", True), ("04", True), ("05", True)]
    (held,) = await claim(store, 1)
    assert held.row.id[-2:] == "01"
    assert await tried(store, skipping(6)) == [("06", True)]
    await claim(store)  # parks it behind the one that runs
    assert (await store.run(skipping(6).id)).key_slot == PARKED
    assert await tried(store, skipping(7)) == [("06", False)]
    assert await tried(store, new(8, key="k"), skipping(9)) == [("08", True), ("06", False)]
    assert await tried(store, skipping(9)._replace(concurrency_key="m"), new(10, key="m")) == [
        ("09", True),
        ("10", True),
    ]


async def test_a_run_that_has_begun_is_none_that_waits(store):
    await tried(store, skipping(1))
    held = await claim_one(store)
    await store.settle(held.lease, RELEASE, settlement(store, RELEASE))
    assert (await store.run(held.row.id)).status == "pending"
    assert await tried(store, skipping(2)) == [("02", True)]


async def test_an_idempotency_key_comes_before_what_waits(store):
    await tried(store, skipping(1), skipping(2, job="other", idempotency_key="i"))
    again = skipping(3, job="other", idempotency_key="i")._replace(concurrency_key="free")
    assert await tried(store, again) == [("02", False)]
    assert await tried(store, skipping(4, idempotency_key="i")) == [("01", False)]


async def test_of_many_triggers_at_once_one_waits(store):
    tries = await asyncio.gather(*(store.enqueue([skipping(n)], 1) for n in range(40)))
    assert sum(found[0].created for found in tries) == 1
    assert len({found[0].row.id for found in tries}) == 1


async def test_claim_takes_the_longest_due_first_and_only_known_jobs(store):
    for n, job in enumerate(("job", "other", "job", "unknown")):
        await put(store, new(n, job))
        store.clock.at += 10
    taken = await claim(store, 2, ("other", "job"))
    assert [c.row.id for c in taken] == [new(0).id, new(1).id]
    assert [c.row.id for c in await claim(store, 5, ("other", "job"))] == [new(2).id]
    assert (await store.run(new(3).id)).status == "pending"


async def test_a_claim_gives_a_fresh_lease_and_counts_the_attempt(store):
    await put(store, new(1))
    first = await claim_one(store)
    assert (first.row.generation, first.resumed, first.seq) == (1, False, 2)
    assert first.row.due_at == store.clock.now() + LEASE
    assert await claim(store) == []
    store.clock.at += LEASE + 1
    second = await claim_one(store)
    assert (second.row.generation, second.resumed) == (2, True)
    assert first.lease.token != second.lease.token
    assert len(second.lease.token) == 32


async def test_a_lapsed_lease_is_left_alone_when_takeover_is_off(store):
    await put(store, new(1))
    await claim_one(store)
    store.clock.at += LEASE + 1
    assert await claim(store, takeover=False) == []
    assert len(await claim(store)) == 1


async def test_a_renewed_lease_does_not_lapse(store):
    await put(store, new(1), new(2))
    one, two = await claim(store)
    store.clock.at += LEASE - 1
    gone = asyncio.get_running_loop().create_future()
    lost = Lease(two.lease.run_id, "0" * 32, 1, LEASE)
    store.renew([one.lease, lost], store.clock.now(), asyncio.get_running_loop(), gone.set_result)
    assert await gone == [two.lease.run_id]
    store.clock.at += 2
    assert [c.row.id for c in await claim(store)] == [two.row.id]
    assert await store.holds(one.lease, store.clock.now())
    assert not await store.holds(two.lease, store.clock.now())


async def test_recoveries_count_takeovers_without_a_step(store):
    await put(store, new(1))
    held = await claim_one(store)
    for expected in (1, 2):
        store.clock.at += 20 * LEASE
        held = await claim_one(store)
        assert held.row.recoveries == expected
    await store.record(held.lease, entry(store, "a"))
    store.clock.at += 20 * LEASE
    assert (await claim_one(store)).row.recoveries == 0


async def test_a_lease_grows_for_a_run_that_keeps_losing_it(store):
    await put(store, new(1))
    durations = []
    for _ in range(9):
        durations.append((await claim_one(store)).lease.duration)
        store.clock.at += 700_000
    assert durations[:4] == [LEASE, LEASE, 2 * LEASE, 4 * LEASE]
    assert durations[-1] == 600_000


async def test_a_handed_back_run_counts_no_recovery(store):
    await put(store, new(1))
    for _ in range(20):
        held = await claim_one(store)
        assert held.row.recoveries == 0
        await store.settle(held.lease, RELEASE, settlement(store, RELEASE))


async def test_steps_are_kept_in_order_and_once(store):
    await put(store, new(1))
    held = await claim_one(store)
    seqs = await asyncio.gather(
        *(store.record(held.lease, entry(store, f"s{i}")) for i in range(20))
    )
    assert seqs == list(range(3, 23))
    assert list((await store.decided_steps(held.row.id)).checkpoints) == [
        f"s{i}" for i in range(20)
    ]
    with pytest.raises(Exception, match=r"(?i)unique"):
        await store.record(held.lease, entry(store, "s3"))
    assert (await store.record(held.lease, entry(store, "s20"))) == 23


async def test_one_refused_write_does_not_harm_its_batch(store):
    await put(store, new(1), new(2))
    one, two = await claim(store)
    stale = one.lease._replace(token="f" * 32)
    results = await asyncio.gather(
        store.record(one.lease, entry(store, "a")),
        store.record(stale, entry(store, "b")),
        store.settle(stale, COMPLETE, settlement(store, COMPLETE, output="1")),
        store.record(two.lease, entry(store, "a")),
        return_exceptions=True,
    )
    assert results[0] == results[3] == 3
    assert isinstance(results[1], LeaseLost)
    assert isinstance(results[2], LeaseLost)


@pytest.mark.parametrize(
    "kind", ["record", "progress", "complete", "fail", "wait", "release", "renew"]
)
async def test_a_stale_holder_can_write_nothing(store, kind):
    await put(store, new(1))
    stale = (await claim_one(store)).lease
    store.clock.at += LEASE + 1
    await claim_one(store)
    before = await store.run(stale.run_id), await store.journal(stale.run_id)
    transitions = {"complete": COMPLETE, "fail": FAIL, "wait": WAIT, "release": RELEASE}
    if kind == "renew":
        assert not await store.holds(stale, store.clock.now())
    else:
        with pytest.raises(LeaseLost):
            if kind == "record":
                await store.record(stale, entry(store, "a"))
            elif kind == "progress":
                await store.save_progress(stale, "{}", store.clock.now())
            else:
                row = transitions[kind]
                await store.settle(stale, row, settlement(store, row))
    assert (await store.run(stale.run_id), await store.journal(stale.run_id)) == before


async def _run_in(store, status):
    """A run brought into a status by legal moves; its last lease."""
    (row,) = await put(store, new(1))
    lease = Lease(row.id, "0" * 32, 0, LEASE)
    path = {
        Status.PENDING: (),
        Status.RUNNING: ("claim",),
        Status.WAITING: ("claim", WAIT),
        Status.COMPLETED: ("claim", COMPLETE),
        Status.FAILED: ("claim", FAIL),
        Status.CANCELLED: (CANCEL,),
    }[status]
    for move in path:
        if move == "claim":
            lease = (await claim_one(store)).lease
        elif move.fenced:
            values = {"output": "1"} if move is COMPLETE else {}
            await store.settle(lease, move, settlement(store, move, **values))
        else:
            await store.move(row.id, move, store.clock.now())
    assert (await store.run(row.id)).status == status
    return lease


@pytest.mark.parametrize("status", Status)
@pytest.mark.parametrize("transition", [*SETTLING, CANCEL, RETRY], ids=lambda t: t.name)
async def test_the_table_decides_every_move(store, status, transition):
    lease = await _run_in(store, status)
    before = await store.run(lease.run_id)
    legal = status in transition.sources
    try:
        if transition.fenced:
            await store.settle(lease, transition, settlement(store, transition))
        else:
            await store.move(lease.run_id, transition, store.clock.now())
    except (LeaseLost, RunConflictError):
        assert not legal
        assert await store.run(lease.run_id) == before
    else:
        assert legal
        row = await store.run(lease.run_id)
        assert row.status == transition.target
        assert (await store.journal(row.id))[-1].type == transition.event
        assert (row.due_at is None) == (transition.target in FINAL)


@pytest.mark.parametrize("status", Status)
async def test_claim_takes_exactly_what_is_active_and_due(store, status):
    await _run_in(store, status)
    store.clock.at += LEASE + 1
    assert bool(await claim(store)) == (status in ACTIVE)


async def test_moving_a_run_that_does_not_exist(store):
    with pytest.raises(RunNotFoundError, match="nothing"):
        await store.move("nothing", CANCEL, 1)


async def test_results_of_steps_go_with_the_completion_that_says_so(store):
    rows = await put(store, *(new(n) for n in range(3)))
    leases = [held.lease for held in await claim(store)]
    for lease in leases:
        await store.record(lease, entry(store, "one"))
        await store.record(lease, entry(store, "two", "step:fail"))
    forget = [settlement(store, COMPLETE, output="5", forget_steps=n > 0) for n in range(3)]
    await asyncio.gather(
        *(store.settle(*one) for one in zip(leases, [COMPLETE] * 3, forget, strict=True))
    )
    kept = [[(line.step, line.data) for line in await store.steps(row.id)] for row in rows]
    failed = ("two", "1")
    assert kept == [[("one", "1"), failed], [("one", None), failed], [("one", None), failed]]
    assert [(await store.run(row.id)).output for row in rows] == ["5"] * 3


async def test_what_lost_its_lease_forgets_nothing(store):
    await put(store, new(1))
    held = await claim_one(store)
    await store.record(held.lease, entry(store, "one"))
    lost = held.lease._replace(token="x" * 32)
    with pytest.raises(LeaseLost):
        await store.settle(lost, COMPLETE, settlement(store, COMPLETE, forget_steps=True))
    assert (await store.checkpoint(held.row.id, "one")).data == "1"


async def test_retry_keeps_checkpoints_and_forgets_the_error(store):
    await put(store, new(1))
    held = await claim_one(store)
    await store.record(held.lease, entry(store, "a"))
    await store.settle(held.lease, FAIL, settlement(store, FAIL, error='{"type":"E","message":""}'))
    row, seq = await store.move(held.row.id, RETRY, store.clock.now())
    assert (row.status, row.error, row.ended_at, seq) == ("pending", None, None, 5)
    again = await claim_one(store)
    assert again.resumed
    assert list((await store.decided_steps(again.row.id)).checkpoints) == ["a"]


async def test_one_running_run_per_key_first_come_first_served(store):
    await put(store, *(new(n, "job" if n % 2 else "other", "k") for n in range(5)), new(9))
    order = []
    taken = await claim(store, 10, ("job", "other"))
    assert [c.row.id for c in taken if c.row.concurrency_key is None] == [new(9).id]
    while held := next((c for c in taken if c.row.concurrency_key), None):
        order.append(held.row.id)
        assert await claim(store, 10, ("job", "other")) == []
        store.clock.at += 1
        await store.settle(held.lease, COMPLETE, settlement(store, COMPLETE, output="1"))
        taken = await claim(store, 10, ("job", "other"))
    assert order == [new(n).id for n in range(5)]


async def test_what_waits_behind_a_busy_key_is_parked_once(store):
    await put(store, *(new(n, key="k") for n in range(300)))
    await claim(store, 1)
    while await claim(store, 10):
        pass
    rows = await store.runs(RunFilter(limit=1000))
    assert sum((row.due_at, row.key_slot) == (NEVER, PARKED) for row in rows) == 299
    assert not await store.any_due(["job"], store.clock.now())


@pytest.mark.parametrize("how", ["complete", "fail", "wait", "cancel", "cancel-next"])
async def test_the_key_is_handed_on_whatever_ends_its_holder(store, how):
    await put(store, *(new(n, key="k") for n in range(3)))
    held = await claim_one(store)
    assert await claim(store) == []
    if how.startswith("cancel"):
        await store.move(held.row.id, CANCEL, store.clock.now())
        assert await claim(store) == [], "its body still runs"
        await store.let_go(held.lease, store.clock.now())
        if how == "cancel-next":
            # The one that the key was handed to goes too, before it is claimed.
            await store.move(new(1).id, CANCEL, store.clock.now())
    else:
        row = {"complete": COMPLETE, "fail": FAIL, "wait": WAIT}[how]
        values = {"output": "1"} if row is COMPLETE else {}
        later = settlement(store, row, **values)
        if row is WAIT:
            later = later._replace(due_at=store.clock.now() + 1_000_000)
        await store.settle(held.lease, row, later)
    expected = new(2).id if how == "cancel-next" else new(1).id
    assert [c.row.id for c in await claim(store)] == [expected]


async def test_a_key_is_its_scopes_own(store):
    await put(store, *(new(n, key="k", scope="ab"[n % 2]) for n in range(4)), new(4, key="k"))
    held = {c.row.scope: c for c in await claim(store)}
    assert {scope: c.row.id for scope, c in held.items()} == {
        "a": new(0).id, "b": new(1).id, "": new(4).id
    }  # fmt: skip
    assert await claim(store) == []
    done = settlement(store, COMPLETE, output="1")
    await store.settle(held[""].lease, COMPLETE, done)
    assert await claim(store) == [], "those who wait are of other scopes"
    await store.settle(held["b"].lease, COMPLETE, done)
    assert [c.row.id for c in await claim(store)] == [new(3).id]
    await store.move(held["a"].row.id, CANCEL, store.clock.now())
    await store.let_go(held["a"].lease, store.clock.now())
    assert [c.row.id for c in await claim(store)] == [new(2).id]


# -- a run that was moved on while its body runs is held


async def hold(store, how, *, key="k", others=2):
    """A run whose body runs though it does not any more, and the others that wait for its key."""
    await put(store, new(0, key=key), *(new(n, key=key) for n in range(1, others + 1)))
    held = await claim_one(store)
    assert key is None or await claim(store) == []
    if how is CANCEL:
        row, _ = await store.move(held.row.id, CANCEL, store.clock.now())
    else:
        error = '{"type":"E","message":"m"}' if how is FAIL else None
        moved = settlement(store, how, error=error, body_runs=True)
        row, _ = await store.settle(held.lease, how, moved)
    assert row.held_until == store.clock.now() + LEASE
    return held


@pytest.mark.parametrize("how", [CANCEL, FAIL, COMPLETE], ids=lambda row: row.name)
async def test_the_key_of_a_held_run_is_free_when_its_holder_lets_go(store, how):
    held = await hold(store, how)
    store.clock.at += LEASE // 2
    assert await claim(store) == []
    gone = await store.let_go(held.lease, store.clock.now())
    assert (gone.key_slot, gone.held_until) == (None, None)
    assert [c.row.id for c in await claim(store)] == [new(1).id]
    assert await store.let_go(held.lease, store.clock.now()) is None


async def test_the_key_of_a_held_run_is_free_when_its_holder_is_not_heard_of_for_a_lease(store):
    held = await hold(store, CANCEL)
    store.clock.at += LEASE - 1
    assert not await store.any_due(["job"], store.clock.now())
    store.clock.at += 1
    assert await store.any_due(["job"], store.clock.now()), "nobody has to come by for it"
    assert [c.row.id for c in await claim(store)] == [new(1).id]
    assert await store.let_go(held.lease, store.clock.now()) is None
    assert await claim(store) == []


async def test_who_has_waited_longest_is_first_when_a_hold_lapses(store):
    await hold(store, CANCEL, others=1)
    await put(store, new(2, key="k"))  # due, and not parked yet
    store.clock.at += LEASE
    taken = await claim(store) or await claim(store)
    assert [c.row.id for c in taken] == [new(1).id]


async def test_a_heartbeat_prolongs_a_hold_and_says_that_the_run_is_over(store):
    held = await hold(store, CANCEL)
    for _ in range(3):
        store.clock.at += LEASE - 1
        assert not await store.holds(held.lease, store.clock.now())
    row = await store.run(held.row.id)
    assert (row.status, row.held_until) == ("cancelled", store.clock.now() + LEASE)
    assert (await store.run(new(1).id)).due_at <= store.clock.now(), (
        "it looks again at the first end"
    )
    assert await claim(store) == [], "and finds that the hold goes on"
    store.clock.at += LEASE
    assert [c.row.id for c in await claim(store)] == [new(1).id]


async def test_the_first_in_line_passes_its_time_on_when_it_is_cancelled(store):
    await hold(store, CANCEL)
    await store.move(new(1).id, CANCEL, store.clock.now())
    store.clock.at += LEASE
    assert [c.row.id for c in await claim(store)] == [new(2).id]


async def test_a_held_run_that_is_retried_is_due_when_its_holder_lets_go(store):
    held = await hold(store, CANCEL)
    row, _ = await store.move(held.row.id, RETRY, store.clock.now())
    assert row.due_at == row.held_until
    assert await claim(store) == []
    store.clock.at += LEASE - 1
    assert not await store.holds(held.lease, store.clock.now())
    store.clock.at += LEASE - 1
    assert await claim(store) == [], "the heartbeat prolonged it"
    assert (await store.let_go(held.lease, store.clock.now())).status == "pending"
    assert [c.row.id for c in await claim(store)] == [held.row.id], "and it kept its key"
    assert await claim(store) == []


async def test_a_held_run_that_is_retried_is_due_when_the_hold_lapses(store):
    held = await hold(store, CANCEL)
    await store.move(held.row.id, RETRY, store.clock.now())
    store.clock.at += LEASE
    (again,) = await claim(store)
    assert (again.row.id, again.row.generation, again.row.held_until) == (held.row.id, 2, None)
    assert await store.let_go(held.lease, store.clock.now()) is None, "the lease is another's"
    assert (await store.run(held.row.id)).status == "running"


async def test_a_former_holder_lets_go_of_nothing(store):
    former = await hold(store, CANCEL)
    await store.move(former.row.id, RETRY, store.clock.now())
    store.clock.at += LEASE
    (holder,) = await claim(store)
    await store.move(holder.row.id, CANCEL, store.clock.now())
    assert await store.let_go(former.lease, store.clock.now()) is None
    assert await claim(store) == []
    await store.let_go(holder.lease, store.clock.now())
    assert [c.row.id for c in await claim(store)] == [new(1).id]


async def test_a_run_that_is_handed_back_while_its_body_runs_waits_for_it(store):
    held = await hold(store, RELEASE, others=1)
    assert await claim(store) == []
    assert (await store.let_go(held.lease, store.clock.now())).status == "pending"
    assert [c.row.id for c in await claim(store)] == [held.row.id]


@pytest.mark.parametrize("row", [COMPLETE, FAIL, RELEASE], ids=lambda row: row.name)
async def test_a_run_without_a_key_is_held_as_well(store, row):
    held = await hold(store, row, key=None, others=0)
    if row is RELEASE:
        assert await claim(store) == []
    else:
        with pytest.raises(RunConflictError, match="still stopping"):
            await store.delete(held.row.id, store.clock.now())
    store.clock.at += LEASE
    if row is RELEASE:
        assert [c.row.id for c in await claim(store)] == [held.row.id]
    else:
        await store.delete(held.row.id, store.clock.now())


async def test_a_held_run_is_purged_only_when_its_body_has_ended(store):
    held = await hold(store, CANCEL)
    later = store.clock.now() + LEASE // 2
    store.clock.at = later
    assert await store.purge(later, later) == []
    await store.let_go(held.lease, later)
    assert [row.id for row in await store.purge(later, later)] == [held.row.id]


async def test_a_run_whose_dead_holder_held_its_key_hands_it_on_when_it_is_deleted(store):
    held = await hold(store, CANCEL, others=1)
    await store.move(new(1).id, CANCEL, store.clock.now())
    await put(store, new(3, key="k"))
    store.clock.at += LEASE
    await store.delete(held.row.id, store.clock.now())
    assert [c.row.id for c in await claim(store)] == [new(3).id]


async def test_a_dead_owner_holds_nothing(store):
    held = await hold(store, CANCEL)
    assert await store.owners(["job"], store.clock.now()) == ["me"]
    assert await store.expire("me", ["job"], store.clock.now()) == [held.row.id]
    assert [c.row.id for c in await claim(store)] == [new(1).id]
    assert await store.expire("another", ["job"], store.clock.now()) == []


async def test_a_hold_does_not_wait_for_a_clock_that_was_set_back(store):
    await hold(store, CANCEL)
    store.clock.at -= 10 * LEASE
    await store.hurry(["job"], store.clock.now(), LEASE)
    store.clock.at += LEASE
    assert [c.row.id for c in await claim(store)] == [new(1).id]


async def test_whose_runs_were_cancelled_or_taken_over_is_known_at_once(store):
    await put(store, *(new(n) for n in range(4)))
    leases = [claimed.lease for claimed in await claim(store)]
    await store.move(leases[1].run_id, CANCEL, store.clock.now())
    await store.move(leases[2].run_id, CANCEL, store.clock.now())
    await store.move(leases[2].run_id, RETRY, store.clock.now())
    await store.settle(leases[3], RELEASE, settlement(store, RELEASE))
    await claim(store, 1)
    gone = await store.no_longer_ours(leases)
    assert sorted(gone) == [lease.run_id for lease in leases[1:]]


async def test_a_cancelled_run_that_nobody_executes_hands_its_key_on_at_once(store):
    await put(store, new(1, key="k"), new(2, key="k"))
    held = await claim_one(store)
    assert await claim(store) == []
    store.clock.at += LEASE + 1  # its worker is dead
    row, _ = await store.move(held.row.id, CANCEL, store.clock.now())
    assert row.held_until is None
    assert [c.row.id for c in await claim(store)] == [new(2).id]


async def test_a_released_run_keeps_its_key_and_its_place(store):
    await put(store, new(1, key="k"), new(2, key="k"))
    held = await claim_one(store)
    assert await claim(store) == []
    later = Settlement(store.clock.now(), held.row.created_at)
    await store.settle(held.lease, RELEASE, later)
    assert [c.row.id for c in await claim(store)] == [held.row.id]


async def test_a_run_that_was_handed_back_keeps_its_key_when_its_body_has_ended(store):
    await put(store, new(1, key="k"), new(2, "other", "k"))
    held = await claim_one(store)
    await store.settle(held.lease, RELEASE, settlement(store, RELEASE, body_runs=True))
    await store.let_go(held.lease, store.clock.now())
    assert await claim(store, jobs=["other"]) == []
    assert [c.row.id for c in await claim(store)] == [held.row.id]


async def test_a_lapsed_holder_is_taken_over_though_others_wait_for_its_key(store):
    await put(store, new(1, key="k"), new(2, key="k"))
    await claim_one(store)
    assert await claim(store) == []
    store.clock.at += LEASE + 1
    assert [c.row.id for c in await claim(store)] == [new(1).id]


async def test_a_dead_owners_leases_end_at_once(store):
    await put(store, new(1))
    await claim_one(store)
    assert await store.owners(["job"], store.clock.now()) == ["me"]
    assert await store.expire("me", ["job"], store.clock.now()) == [new(1).id]
    assert (await claim_one(store)).row.recoveries == 1


async def test_the_leases_and_the_holds_of_the_living_outlast_a_dead_owner(store):
    await put(store, *(new(n) for n in range(4)))
    now, of = store.clock.now(), {}
    for owner in ("dead", "living"):
        of[owner] = (await store.claim(["job"], owner, now, LEASE, 2, takeover=True)).taken
        await store.move(of[owner][1].row.id, CANCEL, now)  # its body runs: it is held
    before = [await store.run(held.row.id) for held in of["living"]]
    expired = await store.expire("dead", ["job"], now)
    assert sorted(expired) == [held.row.id for held in of["dead"]]
    assert [await store.run(held.row.id) for held in of["living"]] == before
    assert await store.owners(["job"], now) == ["living"]
    assert [held.row.id for held in await claim(store)] == [of["dead"][0].row.id]


async def test_a_deleted_run_leaves_one_line_that_tells_of_it(store):
    lease = await _run_in(store, Status.COMPLETED)
    await store.delete(lease.run_id, store.clock.now())
    assert await store.run(lease.run_id) is None
    (line,) = await store.journal(lease.run_id)
    told = '{"job":"job","scope":""}'
    assert (line.type, line.seq, line.data) == ("run:delete", 4, told)
    with pytest.raises(RunNotFoundError):
        await store.delete(lease.run_id, store.clock.now())


@pytest.mark.parametrize("status", sorted(ACTIVE))
async def test_an_active_run_cannot_be_deleted(store, status):
    lease = await _run_in(store, status)
    with pytest.raises(RunConflictError, match=status):
        await store.delete(lease.run_id, store.clock.now())


async def test_positions_are_never_used_twice(store):
    lease = await _run_in(store, Status.COMPLETED)
    end = await store.end_of_tail()
    await store.delete(lease.run_id, store.clock.now())
    assert [line.run_id for line in (await store.tail(end))[0]] == [lease.run_id]
    end = await store.end_of_tail()
    await put(store, new(2))
    assert [line.run_id for line in (await store.tail(end))[0]] == [new(2).id]


async def test_purge_takes_what_ended_before_in_batches(store):
    await put(store, *(new(n) for n in range(7)))
    for held in await claim(store, 5):
        await store.settle(held.lease, COMPLETE, settlement(store, COMPLETE, output="1"))
        store.clock.at += 1000
    before = store.clock.now() - 1500
    assert len(await store.purge(before, store.clock.now(), 3)) == 3
    assert len(await store.purge(before, store.clock.now(), 3)) == 1
    assert await store.purge(before, store.clock.now(), 3) == []
    assert len(await store.runs(RunFilter())) == 3


async def test_listing_filters_and_pages(store):
    await put(store, *(new(n, f"job{n % 2}", labels=f'{{"tenant":"t{n % 3}"}}') for n in range(12)))
    everything = [row.id for row in await store.runs(RunFilter())]
    assert everything == [new(n).id for n in reversed(range(12))]
    page = await store.runs(RunFilter(limit=5))
    await put(store, new(99))
    rest = await store.runs(RunFilter(limit=50, after=page[-1].id))
    assert [row.id for row in page + rest] == everything
    both = await store.runs(RunFilter(jobs=("job1",), labels={"tenant": "t1"}))
    assert [row.id for row in both] == [new(7).id, new(1).id]
    assert await store.runs(RunFilter(statuses=(Status.FAILED, Status.RUNNING))) == []
    assert len(await store.runs(RunFilter(offset=10))) == 3


async def test_listing_is_confined_to_a_scope(store):
    await put(store, *(new(n, f"job{n % 2}", scope=("", "a", "b")[n % 3]) for n in range(12)))

    async def listed(**wanted):
        return [int(row.id) for row in await store.runs(RunFilter(**wanted))]

    assert await listed(scope="a") == [10, 7, 4, 1]
    assert await listed(scope="") == [9, 6, 3, 0]
    assert await listed(scope="A") == await listed(scope="a%") == []
    assert len(await listed()) == 12
    assert await listed(scope="a", jobs=("job1",), limit=1, after=new(7).id) == [1]
    assert await listed(scope="a", statuses=(Status.FAILED,)) == []


async def test_a_label_is_matched_as_it_is_written(store):
    odd = "a.b $x[0] '; drop table durably_runs; --"
    await put(store, new(1, labels='{"' + odd + '":"v"}'), new(2))
    assert [row.id for row in await store.runs(RunFilter(labels={odd: "v"}))] == [new(1).id]


async def test_migrating_twice_changes_nothing(store):
    await put(store, new(1))
    await store.migrate()
    await store.require_schema()
    assert len(await store.runs(RunFilter())) == 1


async def test_labels_of_any_alphabet_find_their_runs(store):
    labels = '{"stra\\u00dfe":"gr\\u00f6\\u00dfe"}'
    await put(store, new(1)._replace(labels=labels), new(2))
    found = await store.runs(RunFilter(labels={"straße": "größe"}))
    assert [row.id for row in found] == [new(1).id]
