"""T4, moment by moment: a holder's write has looked at its lease when another takes the run over.

Two connections, and each is made to wait where the other must go first: by a lock that it needs.
"""

import asyncio
import contextlib

import pytest

from durably.errors import LeaseLost
from durably.state import COMPLETE, FAIL, RELEASE
from durably.store import leasing, records
from durably.store.postgres import claim, flush
from durably.store.postgres.connection import Link
from durably.store.records import Entry, NewRun, Settlement
from tests import postgres
from tests.conftest import ManualPostgresStore, ManualRuntime
from tests.oracle import check_journal
from tests.planting import rewrite

LEASE = 1000
WAITS = (
    "select count(*) from pg_stat_activity"
    " where datname = current_database() and cardinality(pg_blocking_pids(pid)) > 0"
)
# Whoever writes a step's line stops before it, as long as somebody holds the lock.
STOP = """
create function stop() returns trigger language plpgsql as $$
begin
  if new.type in ('step:complete', 'run:complete', 'run:fail', 'run:release') and new.attempt = 1 then
    perform pg_advisory_xact_lock(7);
  end if;
  return new;
end $$;
create trigger stop before insert on durably_journal for each row execute function stop();
"""


class Pair:
    """A run whose lease has run out, its old holder, and who takes it over."""

    def __init__(self, store: ManualPostgresStore) -> None:
        self.store = store
        self.now = store._runtime.now()
        self.links = [Link(store._server) for _ in range(3)]
        self.old, self.new, self.watch = self.links

    async def begin(self) -> None:
        await self.store.enqueue([NewRun("r" * 36, "job", "1", "{}", None, None)], self.now)
        (held,) = (await self.store.claim(["job"], "old", self.now, LEASE, 1, takeover=True)).taken
        self.lease = held.lease
        self.store._runtime.at += 2 * LEASE
        self.now = self.store._runtime.now()

    async def take_over(self, session) -> list:
        token = self.store._runtime.token()
        ask = records.ClaimRequest(["job"], "new", token, self.now, LEASE, 1, takeover=True)
        return (await claim.claim(session, ask)).taken

    async def until_somebody_waits(self) -> None:
        async with asyncio.timeout(30), self.watch.session() as session:
            while not (await session.fetch(WAITS, {}))[0][0]:
                await asyncio.sleep(0.005)

    async def write(self, kind: str, *, many: bool):
        """The holder's write, by the statement for one or by the one for many; None when it was refused."""
        write = _write(kind, self.lease, self.now)
        async with self.old.session() as session, session.transaction():
            try:
                if many:
                    return await self._by_many(session, kind, write)
                if kind == "renew":
                    return None if await session.run(write) else "held"
                return await session.run(write.alone()) or "written"
            except LeaseLost:
                return None

    async def _by_many(self, session, kind, write):
        if kind == "renew":
            given = {
                "run_id": [self.lease.run_id],
                "token": [self.lease.token],
                "duration": [5 * LEASE],
            }
            return await session.fetch("renew_all", {**given, "now": self.now}) or None
        if kind == "record":  # a single one would go by the statement for one
            other = flush.Record(self.lease._replace(run_id="x" * 36), write.entry)
            result = (await flush._record(session, [write, other]))[0]
        else:
            together = flush._save_progress if kind == "progress" else flush._settle
            (result,) = await together(session, [write])
        if result.error is not None:
            raise result.error
        return result.value or "written"

    async def refused(self, wrote: object) -> None:
        """The old holder was told so, and the run is as its new holder took it."""
        row = await self.store.run(self.lease.run_id)
        as_taken = ("running", "new", 2, self.now + LEASE, None)
        found = (row.status, row.lease_owner, row.generation, row.due_at, row.progress)
        assert found == as_taken, "a write of an old holder was accepted"
        assert wrote is None, "a write of an old holder was said to be accepted"

    async def close(self) -> None:
        for link in self.links:
            await link.close()


def _write(kind, lease, now):
    if kind == "renew":
        return leasing.renew([lease._replace(duration=5 * LEASE)], now)
    if kind == "record":
        return flush.Record(lease, Entry("step:complete", now, "step", 0, now, "1"))
    if kind == "progress":
        return flush.SaveProgress(lease, '{"current":1}', now)
    values = {"complete": {"output": "1"}, "fail": {"error": '{"type":"E","message":""}'}}
    moves = {"complete": COMPLETE, "fail": FAIL, "release": RELEASE}
    due = now if kind == "release" else None
    return flush.Settle(lease, moves[kind], Settlement(now, due, **values.get(kind, {})))


@contextlib.asynccontextmanager
async def pair_on(url, *bugs):
    store = ManualPostgresStore(url, ManualRuntime())
    for bug in bugs:
        rewrite(store, *bug)
    await store.open()
    await store.migrate()
    pair = Pair(store)
    try:
        await pair.begin()
        yield pair
    finally:
        await pair.close()
        await store.close()


async def taken_over_while_it_writes(url, kind, many, *bugs):
    """The takeover is done and not committed when the write comes; it must wait, and then be refused."""
    async with pair_on(url, *bugs) as pair:
        async with pair.new.session() as session, session.transaction():
            assert len(await pair.take_over(session)) == 1
            writing = asyncio.create_task(pair.write(kind, many=many))
            await pair.until_somebody_waits()
        await pair.refused(await writing)
    assert check_journal(await postgres.as_sqlite(url)) == []


async def taken_over_before_it_writes(url, kind, many, *bugs):
    """The plain case: the takeover is committed."""
    async with pair_on(url, *bugs) as pair:
        async with pair.new.session() as session:
            assert len(await pair.take_over(session)) == 1
        await pair.refused(await pair.write(kind, many=many))


async def writes_while_it_is_taken_over(url, kind, many, *bugs):
    """The write has looked at its lease and is about to insert its line when the takeover comes."""
    async with pair_on(url, *bugs) as pair:
        await postgres.execute(url, STOP)
        async with pair.new.session() as session:
            async with pair.watch.session() as other, other.transaction():
                await other.fetch("select pg_advisory_xact_lock(7)", {})
                writing = asyncio.create_task(pair.write(kind, many=many))
                async with asyncio.timeout(30):
                    while not (await session.fetch(WAITS, {}))[0][0]:
                        await asyncio.sleep(0.005)
                taken = await pair.take_over(session)
            assert await writing is not None
            assert taken == [], "a run was taken from a holder that was writing"
            if kind == "record":
                assert len(await pair.take_over(session)) == 1
    assert check_journal(await postgres.as_sqlite(url)) == []


KINDS = ["record", "progress", "renew", "complete", "fail", "release"]
WITH_A_LINE = ["record", "complete", "fail", "release"]
BOTH = pytest.mark.parametrize("many", [False, True], ids=["one", "many"])


@BOTH
@pytest.mark.parametrize("kind", KINDS)
async def test_a_write_that_waits_for_a_takeover_is_refused(emptied_url, kind, many):
    await taken_over_while_it_writes(emptied_url, kind, many)


@BOTH
@pytest.mark.parametrize("kind", KINDS)
async def test_a_write_after_a_takeover_is_refused(emptied_url, kind, many):
    await taken_over_before_it_writes(emptied_url, kind, many)


@BOTH
@pytest.mark.parametrize("kind", WITH_A_LINE)
async def test_a_takeover_leaves_alone_what_is_being_written(emptied_url, kind, many):
    await writes_while_it_is_taken_over(emptied_url, kind, many)


def _unlock(name):
    return name, "for update", ""


def _unfence(name):
    many = name.endswith("_all")
    return name, "and held.lease_token = given.token" if many else "and lease_token = :token", ""


LOCKS = [
    "record",
    "record_all",
    "progress_all",
    "renew_all",
    "complete_all",
    "fail_all",
    "release_all",
]
FENCES = [f"{kind}{many}" for kind in KINDS for many in ("", "_all")]


@pytest.mark.parametrize("name", LOCKS)
async def test_a_write_without_its_lock_is_caught(emptied_url, name):
    kind = name.removesuffix("_all")
    with pytest.raises(Exception, match=r"accepted|unique constraint"):
        await taken_over_while_it_writes(emptied_url, kind, name != kind, _unlock(name))


@pytest.mark.parametrize("name", ["record", "record_all"])
async def test_a_line_without_its_lock_is_caught_by_the_takeover(emptied_url, name):
    kind = name.removesuffix("_all")
    with pytest.raises(Exception, match=r"taken|unique"):
        await writes_while_it_is_taken_over(emptied_url, kind, name != kind, _unlock(name))


@pytest.mark.parametrize("name", FENCES)
async def test_a_write_without_its_fence_is_caught(emptied_url, name):
    kind = name.removesuffix("_all")
    with pytest.raises(AssertionError, match="accepted"):
        await taken_over_before_it_writes(emptied_url, kind, name != kind, _unfence(name))
