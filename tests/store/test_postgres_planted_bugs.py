"""T6: a plausible bug in each statement that is PostgreSQL's alone, and the test that sees it.

(Locks and fences: ``test_postgres_fence``.)
"""

import asyncio
import re
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import NamedTuple

import pytest

from durably.errors import LeaseLost
from durably.state import CANCEL, COMPLETE, RELEASE, TRANSITIONS, WAIT
from durably.store import claiming, enqueuing, reads
from durably.store.postgres import claim as claim_module
from durably.store.postgres import positions
from durably.store.postgres.connection import Link
from durably.store.postgres.writes import Claim, Enqueue, Record, Settle
from durably.store.records import ClaimRequest, Entry, Settlement
from tests import postgres
from tests.conftest import ManualPostgresStore, ManualRuntime
from tests.planting import rewrite
from tests.store import test_conformance as conformance
from tests.store import test_postgres_fence as fence
from tests.store import test_postgres_user_bugs as users
from tests.store.test_conformance import claim, claim_one, entry, new, put, settlement

# -- what the other tests do not ask for by name; each passes, and fails for its bugs


async def known_jobs_alone_are_due(store):
    await put(store, new(1, "other"))
    assert not await store.any_due(["job", "third"], store.clock.now())
    assert await store.any_due(["job", "other"], store.clock.now())


async def a_repeated_completion_waits_for_the_first(store):
    """The connection was lost; what it was told last is still under way (K10)."""
    await put(store, new(1))
    held = await claim_one(store)
    write = Settle(held.lease, COMPLETE, settlement(store, COMPLETE, output="1"))
    lost, watch = Link(store._server), Link(store._server)
    try:
        async with lost.session() as session, session.transaction():
            await session.run(write.alone())
            again = asyncio.create_task(repeated(store, write))
            async with asyncio.timeout(30), watch.session() as other:
                while not (await other.fetch(fence.WAITS, {}))[0][0]:
                    await asyncio.sleep(0.005)
        row, _ = await again
        assert row.status == "completed"
    finally:
        await lost.close()
        await watch.close()


async def repeated(store, *writes):
    """The results of writes whose first try's outcome is unknown."""
    for write in writes:
        write.tries = 1
    futures = [store._flusher.submit(write) for write in writes]
    return (await asyncio.gather(*futures, return_exceptions=True))[-1]


async def another_holders_completion_is_not_ours(store):
    await put(store, new(1))
    old = await claim_one(store)
    store.clock.at += 2 * conformance.LEASE
    new_holder = await claim_one(store)
    done = settlement(store, COMPLETE, output="1")
    await store.settle(new_holder.lease, COMPLETE, done)
    lost = await repeated(store, Settle(old.lease, COMPLETE, done._replace(output="2")))
    assert isinstance(lost, LeaseLost)
    row, _ = await repeated(store, Settle(new_holder.lease, COMPLETE, done))
    assert row.output == "1"


async def a_run_is_parked_before_the_holder_of_its_key_leaves(store):
    """Else nobody hands the key on to a run that is parked when the holder has just left."""
    await put(store, new(1, key="k"))
    held = await claim_one(store)
    await put(store, new(2, key="k"))
    await postgres.execute(store.url, STOP_PARKING)
    stop, watch = Link(store._server), Link(store._server)
    try:
        async with watch.session() as session:
            async with stop.session() as other, other.transaction():
                await other.fetch("select pg_advisory_xact_lock(7)", {})
                claiming = asyncio.create_task(claim(store))
                await until(session, 1)
                leaving = store.settle(
                    held.lease, COMPLETE, settlement(store, COMPLETE, output="1")
                )
                left = asyncio.ensure_future(leaving)
                await until(session, 2, unless=left)
            assert await claiming == []
            await left
    finally:
        await stop.close()
        await watch.close()
    assert (await claim_one(store)).row.id == new(2).id


async def until(session, count, unless=None):
    """Until so many connections wait for others."""
    async with asyncio.timeout(30):
        while (await session.fetch(fence.WAITS, {}))[0][0] < count:
            if unless is not None and unless.done():
                return
            await asyncio.sleep(0.005)


STOP_PARKING = """
create or replace function stop() returns trigger language plpgsql as $$
begin
  perform pg_advisory_xact_lock(7);
  return new;
end $$;
create trigger stop before update on durably_runs for each row when (new.key_slot = -1) execute function stop();
"""


async def several_repeated_completions_are_known(store):
    await put(store, new(1), new(2), new(3))
    writes = [
        Settle(held.lease, COMPLETE, settlement(store, COMPLETE, output="1"))
        for held in await claim(store)
    ]
    for write in writes:
        await store.settle(write.lease, COMPLETE, write.settlement)
    row, _ = await repeated(store, *writes)
    assert row.status == "completed"


async def a_checkpoint_of_another_attempt_is_not_ours(store):
    await put(store, new(1))
    old = await claim_one(store)
    store.clock.at += 2 * conformance.LEASE
    new_holder = await claim_one(store)
    await store.record(new_holder.lease, entry(store, "s"))
    assert isinstance(await repeated(store, Record(old.lease, entry(store, "s"))), LeaseLost)
    await repeated(store, Record(new_holder.lease, entry(store, "s")))


async def a_checkpoint_of_ours_is_known(store):
    await put(store, new(1))
    held = await claim_one(store)
    seq = await store.record(held.lease, entry(store, "s"))
    assert await repeated(store, Record(held.lease, entry(store, "s"))) == seq


async def many_lines_are_numbered_in_their_order(store):
    await put(store, new(1), new(2))
    taken = await claim(store)
    futures = [
        store.record(held.lease, Entry("log:write", i, None, None, None, str(i)))
        for i in range(5)
        for held in taken
    ]
    await asyncio.gather(*futures)
    for held in taken:
        lines = [line for line in await store.journal(held.row.id) if line.type == "log:write"]
        assert [line.data for line in lines] == [str(i) for i in range(5)]
        assert [line.seq for line in lines] == [3, 4, 5, 6, 7]


async def everybody_has_their_own_progress(store):
    await put(store, new(1), new(2))
    taken, now = await claim(store), store.clock.now()
    saved = [store.save_progress(held.lease, held.row.id, now) for held in taken]
    await asyncio.gather(*saved)
    for held in taken:
        assert (await store.run(held.row.id)).progress == held.row.id


async def many_completions_keep_their_outputs(store):
    await put(store, new(1), new(2))
    taken = await claim(store)
    for held in taken:
        ended = settlement(store, COMPLETE, output=held.row.id)
        row, _ = await store.settle(held.lease, COMPLETE, ended)
        assert row.output == held.row.id


async def the_longest_due_comes_first(store):
    for n in (2, 1):
        await put(store, new(n))
        store.clock.at += 1
    assert (await claim_one(store)).row.id == new(2).id


async def a_new_run_is_taken_by_a_claim_that_waits(store):
    stored = put(store, new(1), new(2, key="k"), new(3), new(4))
    enqueued, taken = await asyncio.gather(stored, claim(store, limit=2))
    assert [one.row.id for one in taken] == [new(1).id, new(3).id]
    assert {row.status for row in enqueued} == {"pending"}
    for one in taken:
        lines = await store.journal(one.row.id)
        assert [(line.type, line.seq) for line in lines] == [("run:trigger", 1), ("run:start", 2)]
        assert await store.record(one.lease, entry(store, "s")) == 3
    assert {one.row.id for one in await claim(store)} == {new(2).id, new(4).id}


async def what_was_taken_before_is_known(store):
    """The flush that stored a run as taken is repeated, its outcome unknown."""
    _, (held,) = await asyncio.gather(put(store, new(1)), claim(store, limit=1))
    now = store.clock.now()
    ask = ClaimRequest(["job"], "me", held.lease.token, now, conformance.LEASE, 1, takeover=True)
    stored, again = Enqueue([new(1)], now), Claim(ask)
    found = await repeated(store, stored, again)
    assert [one.lease for one in found.taken] == [held.lease]
    assert (await stored.future)[0].created


async def a_claim_that_comes_too_late_for_its_flush_claims(store):
    now = store.clock.now()
    await put(store, new(1))
    ask = ClaimRequest(["job"], "me", "t" * 32, now, conformance.LEASE, 1, takeover=True)
    (held,) = (await store._flusher.submit(Claim(ask))).taken
    assert [line.type for line in await store.journal(held.row.id)] == ["run:trigger", "run:start"]


async def a_new_run_waits_its_turn(store):
    await put(store, new(1))
    _, taken = await asyncio.gather(put(store, new(2)), claim(store, limit=1))
    assert taken == []
    assert (await claim_one(store)).row.id == new(1).id


async def a_lease_that_was_handed_back_is_worth_nothing(store):
    await put(store, new(1))
    old = await claim_one(store)
    await store.settle(old.lease, RELEASE, settlement(store, RELEASE))
    await claim_one(store)
    with pytest.raises(LeaseLost):
        await store.record(old.lease, entry(store, "s"))


async def a_handed_back_run_keeps_its_place(store):
    for n in (1, 2):
        await put(store, new(n))
        store.clock.at += 1
    held = await claim_one(store)
    await store.settle(held.lease, RELEASE, settlement(store, RELEASE))
    assert (await claim_one(store)).row.id == held.row.id


async def a_waiting_run_wakes_when_it_wants_to(store):
    await put(store, new(1))
    held = await claim_one(store)
    now = store.clock.now()
    row, _ = await store.settle(held.lease, WAIT, Settlement(now, now + 5000))
    assert row.due_at == now + 5000
    assert await claim(store) == []
    store.clock.at += 5000
    assert len(await claim(store)) == 1


async def many_renewals_prolong(store):
    await put(store, new(1), new(2))
    leases = [held.lease for held in await claim(store)]
    store.clock.at += conformance.LEASE - 1
    answered = asyncio.get_running_loop().create_future()
    store.renew(leases, store.clock.now(), asyncio.get_running_loop(), answered.set_result)
    assert await asyncio.wait_for(answered, 30) == []
    store.clock.at += conformance.LEASE - 1
    assert await claim(store) == []


async def only_the_key_that_is_busy_parks(store):
    await put(store, new(1, key="a"))
    await claim_one(store)
    await put(store, new(2, key="a"), new(3, key="a", scope="t"), new(4, key="a"))
    assert (await claim_one(store)).row.id == new(3).id


async def a_late_line_is_told(store):
    """To who watches, and to who began to when it was written and not committed."""
    slow, quick = Link(store._server), Link(store._server)
    before = await store.end_of_tail()
    try:
        async with slow.session() as session, session.transaction():
            await session.fetch(LINE, {"run_id": "slow"})
            async with quick.session() as other:
                await other.fetch(LINE, {"run_id": "quick"})
            lines, cursor = await store.tail(before)
            assert [line.run_id for line in lines] == ["quick"]
            begun = await store.end_of_tail()
            assert await store.tail(cursor) == ([], cursor)
        for held in (cursor, begun):
            assert [line.run_id for line in (await store.tail(held))[0]] == ["slow"]
    finally:
        await slow.close()
        await quick.close()


async def a_journal_of_large_lines_comes_in_pages(store):
    await put(store, new(1))
    held = await claim_one(store)
    for n in range(4):
        await store.record(held.lease, entry(store, f"s{n}")._replace(data="x" * 100))
    page = await store._read(lambda: reads.journal(held.row.id, 0, 100, 150))
    assert ([line.seq for line in page.rows], page.last) == ([1, 2, 3, 4], 4)
    page = await store._read(lambda: reads.journal(held.row.id, 4, 100, 1000))
    assert ([line.seq for line in page.rows], page.last) == ([5, 6], None)


async def the_oldest_are_purged_first(store):
    async with store._commands.session() as session:
        for n in (3, 1, 2):
            await session.fetch(ENDED, {"id": f"r{n}", "n": n})
    purged = [await store.purge(10**15, 10**15, 1) for _ in range(4)]
    assert [[row.id for row in rows] for rows in purged] == [["r1"], ["r2"], ["r3"], []]


async def a_sequence_that_is_behind_goes_on_after_the_newest_line(store):
    async with store._commands.session() as session:
        await session.fetch(AHEAD, {})
    await positions.set_if_behind(store._commands)
    await put(store, new(1))
    assert [line.position for line in await store.journal(new(1).id)] == [51]


async def one_at_a_time_sets_the_sequence(store):
    first, second, watch = (Link(store._server) for _ in range(3))
    try:
        async with watch.session() as session:
            async with first.session() as other, other.transaction():
                await other.fetch("lock_positions", {})
                setting = asyncio.create_task(positions.set_if_behind(second))
                await until(session, 1, unless=setting)
                assert not setting.done()
            await setting
    finally:
        for link in (first, second, watch):
            await link.close()


AHEAD = """
insert into durably_journal (position, run_id, seq, at, type, attempt) values (50, 'r', 1, 1, 'x', 1)
"""
ENDED = """
insert into durably_runs (id, job, status, input, labels, ended_at, created_at, updated_at)
values (:id, 'job', 'completed', '1', '{}', :n, 1, 1)
"""
LINE = "insert into durably_journal (run_id, seq, at, type, attempt) values (:run_id, 1, 1, 'log:write', 1)"


async def what_is_parked_with_others_looks_again_when_a_hold_ends(store):
    """A look that finds one key busy parks all whose keys are, whoever holds them."""
    await conformance.hold(store, CANCEL, others=0)
    await put(store, new(1, key="a"))
    await claim_one(store)
    await put(store, new(2, key="a"), new(3, key="k"))
    assert await claim(store, 1) == []
    assert not await store.any_due(["job"], store.clock.now())
    store.clock.at += conformance.LEASE
    assert new(3).id in [held.row.id for held in await claim(store)]


async def what_waits_behind_a_key_is_due_no_more(store):
    await put(store, new(1, key="k"))
    await claim_one(store)
    await put(store, new(2, key="k"))
    assert await claim(store) == []
    assert not await store.any_due(["job"], store.clock.now())


async def what_may_be_coalesced_waits_for_who_decides(store):
    run = conformance.skipping(1)
    async with store._commands.session() as session, session.transaction():
        await session.fetch("lock_keys", {"names": enqueuing.keys_to_lock([run])})
        tried = asyncio.ensure_future(store.enqueue([run], 1))
        await asyncio.wait([tried], timeout=0.2)
        assert not tried.done()
    assert (await tried)[0].created


class Bug(NamedTuple):
    statement: str
    old: str
    new: str
    test: Callable[[ManualPostgresStore], Awaitable[None]]


BUGS = {
    "two decide at once whether a run waits": Bug(
        "lock_keys", "pg_advisory_xact_lock(key)", "pg_advisory_xact_lock_shared(key)",
        what_may_be_coalesced_waits_for_who_decides),
    "a completion deletes the results of others' steps": Bug(
        "forget_steps_all", "run_id = any(cast(:run_id as text[])) and", "",
        conformance.test_results_of_steps_go_with_the_completion_that_says_so),
    "a new run has no first line": Bug(
        "enqueue_all", "bigint) from new\n", "bigint) from new where false\n",
        conformance.test_a_new_run_is_pending_and_due_at_once),
    "a new run has no concurrency key": Bug(
        "enqueue_all", "concurrency_key, scope,\n         {now}", "null, scope,\n         {now}",
        conformance.test_one_running_run_per_key_first_come_first_served),
    "a new run is taken before those that wait": Bug(
        "enqueue_all", "and not exists", "or not exists", a_new_run_waits_its_turn),
    "a new run is taken without a line": Bug(
        "enqueue_all", "from new where status = 'running'", "from new where false",
        a_new_run_is_taken_by_a_claim_that_waits),
    "a run that is taken has no line": Bug(
        "append", "select :run_id, coalesce", "select :run_id || 'x', coalesce",
        a_claim_that_comes_too_late_for_its_flush_claims),
    "what was taken before is taken for somebody else's": Bug(
        "claimed", "lease_token = :token", "lease_token <> :token", what_was_taken_before_is_known),
    "a claim takes runs by age, not by when they are due": Bug(
        "claim_due", "order by due_at, id limit", "order by id limit",
        the_longest_due_comes_first),
    "a claim takes what is not due": Bug(
        "claim_due", "due_at <= {now}", "due_at <= {now} + 10000", a_waiting_run_wakes_when_it_wants_to),
    "a claim does not mind keys": Bug(
        "claim_due", "and concurrency_key is null", "",
        conformance.test_one_running_run_per_key_first_come_first_served),
    "a claim counts no recovery": Bug(
        "claim_due", "status <> 'running' and concurrency_key", "concurrency_key",
        conformance.test_recoveries_count_takeovers_without_a_step),
    "a claim keeps the old token": Bug(
        "claim_due", "lease_token = :token", "lease_token = coalesce(r.lease_token, :token)",
        a_lease_that_was_handed_back_is_worth_nothing),
    "any job's runs are due": Bug(
        "any_due", "job = j.job and", "", known_jobs_alone_are_due),
    "another scope's busy key parks": Bug(
        "park_all", "on held.scope = due.scope and", "on", only_the_key_that_is_busy_parks),
    "a run of a held key is not parked until the hold ends": Bug(
        "park_all", "coalesce(held.until, ", "coalesce(null, ",
        what_is_parked_with_others_looks_again_when_a_hold_ends),
    "the holders of a key are not asked": Bug(
        "key_holders", "key_slot >= 0 or status = 'running'", "false",
        what_waits_behind_a_key_is_due_no_more),
    "whoever holds a key may leave while another is parked": Bug(
        "key_holders", "for share", "", a_run_is_parked_before_the_holder_of_its_key_leaves),
    "the leases of the living end with those of the dead": Bug(
        "expire", "and lease_owner = :owner ", "",
        conformance.test_the_leases_and_the_holds_of_the_living_outlast_a_dead_owner),
    "the holds of the living end with those of the dead": Bug(
        "expire_holds", "and lease_owner = :owner", "",
        conformance.test_the_leases_and_the_holds_of_the_living_outlast_a_dead_owner),
    "a run that was handed back loses its key when its body has ended": Bug(
        "let_go", "then key_slot end", "then null end",
        conformance.test_a_run_that_was_handed_back_keeps_its_key_when_its_body_has_ended),
    "all leases are ours": Bug(
        "no_longer_ours", "<> g.token or r.status <> 'running'", "<> g.token",
        conformance.test_whose_runs_were_cancelled_or_taken_over_is_known_at_once),
    "a renewal is none": Bug(
        "renew_all", "{now} + given.duration", "r.due_at", many_renewals_prolong),
    "a repeated write does not wait for the first": Bug(
        "lock_all", "for update", "", a_repeated_completion_waits_for_the_first),
    "lines of one flush are numbered backwards": Bug(
        "record_all", "order by given.n)", "order by given.n desc)",
        many_lines_are_numbered_in_their_order),
    "another attempt's checkpoint is taken for ours": Bug(
        "recorded_all", "and j.attempt = g.attempt", "",
        a_checkpoint_of_another_attempt_is_not_ours),
    "only the first of several is looked up": Bug(
        "runs_of", "any(cast(:run_id as text[]))", "(cast(:run_id as text[]))[1]",
        several_repeated_completions_are_known),
    "progress of many is the first one's": Bug(
        "progress_all", "progress = given.progress", "progress = (select max(progress) from given)",
        everybody_has_their_own_progress),
    "a run does not wait": Bug(
        "wait_all", "+ given.delay", "+ 0 * given.delay", a_waiting_run_wakes_when_it_wants_to),
    "a completion keeps no output": Bug(
        "complete_all", "output = given.output", "output = r.output",
        many_completions_keep_their_outputs),
    "a handed back run loses its place": Bug(
        "release_all", "then r.created_at", "then {now}",
        a_handed_back_run_keeps_its_place),
    "what was missing is not looked for again": Bug(
        "tail", "late.position between m.first and m.last", "late.position > m.last", a_late_line_is_told),
    "a page has no end": Bug(
        "journal", "where j.before <", "where true or j.before <", a_journal_of_large_lines_comes_in_pages),
    "the youngest are purged first": Bug(
        "purgeable", "order by ended_at", "order by ended_at desc", the_oldest_are_purged_first),
    "the sequence is set when it is ahead": Bug(
        "set_positions", "j.newest > coalesce", "j.newest < coalesce",
        a_sequence_that_is_behind_goes_on_after_the_newest_line),
    "two set the sequence at once": Bug(
        "lock_positions", "select pg_advisory_xact_lock(7289343, 2)", "select 1", one_at_a_time_sets_the_sequence),
    "nobody is known to write": Bug(
        "writers", "RowExclusiveLock", "AccessExclusiveLock", a_late_line_is_told),
    "a single missing line is none": Bug(
        "missing", "newest.position - 1\n", "newest.position - 2\n", a_late_line_is_told),
}  # fmt: skip


async def _taken_without_a_transaction(session, ask, due):
    return await session.run(claiming.take(ask, due))


IN_CODE = {
    "a run with a key is taken or parked without a transaction": (
        claim_module, "_take", _taken_without_a_transaction,
        a_run_is_parked_before_the_holder_of_its_key_leaves),
    "whoever completed a run, it was us": (
        Settle, "is_done", lambda self, row: row.status == self.transition.target,
        another_holders_completion_is_not_ours),
}  # fmt: skip


@asynccontextmanager
async def store_on(url, bug=None):
    store = ManualPostgresStore(url, ManualRuntime())
    store.clock = store._runtime
    if bug is not None:
        rewrite(store, bug.statement, bug.old, bug.new)
    await store.open()
    await store.migrate()
    try:
        yield store
    finally:
        await store.close()


TESTS = [bug.test for bug in BUGS.values()] + [bug[-1] for bug in IN_CODE.values()]
OWN = {test.__name__: test for test in TESTS if test.__module__ == __name__}


@pytest.mark.parametrize("name", OWN)
async def test_without_a_bug_nothing_is_caught(emptied_url, name):
    async with store_on(emptied_url) as store:
        await OWN[name](store)


@pytest.mark.parametrize("name", BUGS)
async def test_a_bug_in_a_statement_is_caught(emptied_url, name):
    async with store_on(emptied_url, BUGS[name]) as store:
        with pytest.raises((Exception, pytest.fail.Exception)):  # however it shows
            await asyncio.wait_for(BUGS[name].test(store), 30)


@pytest.mark.parametrize("name", IN_CODE)
async def test_a_bug_in_the_code_around_them_is_caught(emptied_url, monkeypatch, name):
    owner, attribute, planted, test = IN_CODE[name]
    monkeypatch.setattr(owner, attribute, planted)
    async with store_on(emptied_url) as store:
        with pytest.raises((Exception, pytest.fail.Exception)):  # however it shows
            await asyncio.wait_for(test(store), 30)


async def test_leases_by_the_clock_of_a_host_would_be_stolen(emptied_url):
    """What ``test_postgres`` and ``tests/crash/test_clock.py`` see of a server's clock, they would miss here."""
    async with store_on(emptied_url) as right, store_on(emptied_url) as wrong:
        wrong.clock.at += 3_600_000
        await put(right, new(1))
        assert len(await claim(right)) == len(await claim(wrong)) == 1


def test_each_statement_of_postgres_has_its_bug():
    text = files("durably.store").joinpath("queries.sql").read_text("utf-8")
    own = set(re.findall(r"^-- (\w+)@postgres$", text, flags=re.MULTILINE))
    moves = {f"{row.name}_all" for row in TRANSITIONS if row.fenced}
    planted = {bug.statement for bug in BUGS.values()} | set(fence.LOCKS) | set(fence.FENCES)
    planted |= {statement for bug in users.BUGS.values() for statement, _, _ in bug.edits}
    assert (own - {"transition_all"}) | moves <= planted
