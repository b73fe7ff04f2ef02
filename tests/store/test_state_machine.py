"""Each store against its model: a dict, a clock, and the table in state.py (T7).

Both machines make the same moves by the same rules, so both databases end in the same states.
"""

import asyncio

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule

from durably.errors import LeaseLost, RunConflictError, RunNotFoundError
from durably.models import Lease
from durably.state import CANCEL, COMPLETE, FAIL, FINAL, RELEASE, RETRY, WAIT, Status
from durably.store.base import Entry, NewRun, RunFilter, Settlement
from durably.store.sqlite import SQLiteStore
from tests import postgres
from tests.conftest import ManualPostgresStore, ManualRuntime
from tests.oracle import check_journal
from tests.tier import by_tier

LEASE = 30_000
EXAMPLES = by_tier(quick=60, ci=500, soak=5000)
ON_POSTGRES = by_tier(quick=8, ci=60, soak=5000)


class StoreMachine(RuleBasedStateMachine):
    runs = Bundle("runs")
    leases = Bundle("leases")

    def __init__(self):
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.runtime = ManualRuntime(threads=False)
        self.store = self.do(self._open())
        self.model, self.count = {}, 0

    async def _open(self):
        store = SQLiteStore(":memory:", self.runtime)
        await store.open()
        await store.migrate()
        return store

    async def _close(self):
        assert check_journal(self.store._connection) == []
        await self.store.close()

    def do(self, awaitable):
        return self.loop.run_until_complete(awaitable)

    def teardown(self):
        self.do(self._close())
        self.loop.close()

    async def _claim(self, limit):
        return await self.store.claim(["job"], "w", self.now, LEASE, limit, takeover=True)

    async def _record(self, lease, entry):
        return await self.store.record(lease, entry)

    def _forget(self):
        self.store._writer._waiting.clear()

    @property
    def now(self):
        return self.runtime.at

    @rule(
        target=runs,
        key=st.sampled_from([None, "a", "b"]),
        known=st.sampled_from([None, "x", "y"]),
        scope=st.sampled_from(["", "t"]),
    )
    def enqueue(self, key, known, scope):
        self.count += 1
        run = NewRun(f"{self.count:036d}", "job", "1", "{}", known, key, scope)
        ((row, created),) = self.do(self.store.enqueue([run], self.now))
        key, known = key and (scope, key), known and (scope, known)
        same = next((id for id, r in self.model.items() if known and r["known"] == known), None)
        assert (row.id, created) == ((same, False) if same else (run.id, True))
        if created:
            self.model[run.id] = {
                "status": "pending", "generation": 0, "due": self.now, "key": key, "known": known,
                "steps": set(), "fresh": False, "recoveries": 0, "born": self.count,
            }  # fmt: skip
        return row.id

    @rule(ms=st.integers(1, 50_000))
    def time_passes(self, ms):
        self.runtime.at += ms

    @rule(target=leases, limit=st.integers(1, 3))
    def claim(self, limit):
        taken = self.do(self._claim(limit)).taken
        due = [r for r in self.model.values() if r["due"] is not None and r["due"] <= self.now]
        if not taken:  # what is due is kept from running by its key alone
            assert all(r["key"] and r["status"] != "running" and self._busy(r["key"]) for r in due)
        for claimed in taken:
            run = self.model[claimed.row.id]
            assert run in due or run["status"] == "pending"  # unparked: due, as the model sees it
            lapsed = run["status"] == "running"
            assert lapsed or not run["key"] or not self._busy(run["key"])
            run["recoveries"] = run["recoveries"] + 1 if lapsed and not run["fresh"] else 0
            run.update(status="running", generation=run["generation"] + 1, fresh=False)
            run["due"] = self.now + claimed.lease.duration
            assert claimed.row.recoveries == run["recoveries"]
            assert claimed.row.generation == run["generation"]
        return multiple(*(claimed.lease for claimed in taken))

    def _busy(self, key):
        return any(r["key"] == key and r["status"] == "running" for r in self.model.values())

    def _holds(self, lease: Lease):
        run = self.model.get(lease.run_id)
        return run and run["status"] == "running" and run["generation"] == lease.generation

    @rule(lease=leases, step=st.sampled_from("abc"))
    def record(self, lease, step):
        entry = Entry("step:complete", self.now, step, 0, self.now, "1")
        if self._holds(lease) and step in self.model[lease.run_id]["steps"]:
            return
        try:
            self.do(self._record(lease, entry))
        except LeaseLost:
            assert not self._holds(lease)
        else:
            assert self._holds(lease)
            self.model[lease.run_id]["steps"].add(step)
            self.model[lease.run_id]["fresh"] = True

    @rule(lease=leases)
    def renew(self, lease):
        held = self.do(self.store.holds(lease, self.now))
        assert held == bool(self._holds(lease))
        if held:
            self.model[lease.run_id]["due"] = self.now + lease.duration

    @rule(lease=leases, row=st.sampled_from([COMPLETE, FAIL, WAIT, RELEASE]))
    def settle(self, lease, row):
        due = None if row.target in FINAL else self.now + (50_000 if row is WAIT else 0)
        values = {"output": "1"} if row is COMPLETE else {}
        if row is FAIL:
            values = {"error": '{"type":"E","message":"m"}'}
        try:
            self.do(self.store.settle(lease, row, Settlement(self.now, due, **values)))
        except LeaseLost:
            assert not self._holds(lease)
        else:
            assert self._holds(lease)
            self.model[lease.run_id].update(status=str(row.target), due=due)

    @rule(id=runs, row=st.sampled_from([CANCEL, RETRY]))
    def command(self, id, row):
        run = self.model.get(id)
        try:
            self.do(self.store.move(id, row, self.now))
        except RunNotFoundError:
            assert run is None
        except RunConflictError:
            assert run["status"] not in row.sources
        else:
            assert run["status"] in row.sources
            run.update(status=str(row.target), due=None if row is CANCEL else self.now)

    @rule(id=runs)
    def delete(self, id):
        run = self.model.get(id)
        try:
            self.do(self.store.delete(id, self.now))
        except RunNotFoundError:
            assert run is None
        except RunConflictError:
            assert Status(run["status"]) not in FINAL
        else:
            del self.model[id]

    @rule()
    def restart(self):
        """What another process would read: nothing lives outside the database."""
        self._forget()

    @invariant()
    def the_rows_agree(self):
        rows = self.do(self.store.runs(RunFilter(limit=1000)))
        assert {row.id: (row.status, row.generation) for row in rows} == {
            id: (run["status"], run["generation"]) for id, run in self.model.items()
        }
        for row in rows:
            assert set(self.do(self.store.checkpoints(row.id))) == self.model[row.id]["steps"]
        running = [
            (row.scope, row.concurrency_key)
            for row in rows
            if row.status == "running" and row.concurrency_key
        ]
        assert len(running) == len(set(running))

    @invariant()
    def nothing_is_parked_for_ever(self):
        rows = self.do(self.store.runs(RunFilter(limit=1000)))
        for parked in (row for row in rows if row.due_at == 2**53 - 1):
            ahead = [
                row for row in rows
                if (row.scope, row.concurrency_key) == (parked.scope, parked.concurrency_key)
                and row.due_at not in (None, 2**53 - 1)
            ]  # fmt: skip
            assert ahead, f"{parked.id} waits for a key that nobody will hand on"


class PostgresMachine(StoreMachine):
    url = None

    async def _open(self):
        if PostgresMachine.url is None:
            PostgresMachine.url = await postgres.create_database()
        store = ManualPostgresStore(self.url, self.runtime)
        await store.open()
        await store.migrate()
        await postgres.execute(self.url, "truncate durably_runs, durably_journal")
        return store

    async def _close(self):
        assert check_journal(await postgres.as_sqlite(self.url)) == []
        await self.store.close()

    def _forget(self):
        self.do(self.store.close())
        self.do(self.store.open())


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(max_examples=EXAMPLES, stateful_step_count=40, deadline=None)

TestPostgresMachine = PostgresMachine.TestCase
TestPostgresMachine.settings = settings(
    max_examples=ON_POSTGRES, stateful_step_count=40, deadline=None
)
