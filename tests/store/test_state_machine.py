"""The store against its model: a dict, a clock, and the table in state.py; and both databases side by side (T7)."""

import asyncio

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule

from durably.errors import LeaseLost, RunConflictError, RunNotFoundError
from durably.state import CANCEL, COMPLETE, FAIL, FINAL, RELEASE, RETRY, WAIT, Status
from durably.store.records import (
    Claims,
    Entry,
    JournalRow,
    Lease,
    NewRun,
    RunFilter,
    RunRow,
    Settlement,
)
from durably.store.sqlite.store import SQLiteStore
from tests import postgres
from tests.conftest import ManualPostgresStore, ManualRuntime
from tests.oracle import check_journal
from tests.tier import by_tier

LEASE = 30_000
EXAMPLES = by_tier(quick=30, ci=500, soak=5000)
TWINS = by_tier(quick=4, ci=40, soak=5000)


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
                "place": False, "held": None,
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
            assert all(r["key"] and r["status"] != "running" and self._busy(r) for r in due)
        for claimed in taken:
            run = self.model[claimed.row.id]
            assert run in due or run["status"] == "pending"  # unparked: due, as the model sees it
            assert run["held"] is None or run["held"] <= self.now
            lapsed = run["status"] == "running"
            assert not run["key"] or not self._busy(run)
            run.update(place=bool(run["key"]), held=None)
            run["recoveries"] = run["recoveries"] + 1 if lapsed and not run["fresh"] else 0
            run.update(status="running", generation=run["generation"] + 1, fresh=False)
            run["due"] = self.now + claimed.lease.duration
            assert claimed.row.recoveries == run["recoveries"]
            assert claimed.row.generation == run["generation"]
        return multiple(*(claimed.lease for claimed in taken))

    def _busy(self, run):
        """Whether another run has its key: it runs, or its body may, or it is to go on from there."""
        return any(
            r is not run
            and r["key"] == run["key"]
            and r["place"]
            and (r["status"] not in FINAL or self._is_held(r))
            for r in self.model.values()
        )

    def _is_held(self, run):
        return run["held"] is not None and run["held"] > self.now

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
        run = self.model.get(lease.run_id)
        if run and run["generation"] == lease.generation:
            if held or (run["held"] is not None and run["status"] == "pending"):
                run["due"] = self.now + lease.duration
            if run["held"] is not None and (run["place"] or not run["key"] or self._is_held(run)):
                run["held"] = self.now + lease.duration

    @rule(lease=leases)
    def let_go(self, lease):
        run = self.model.get(lease.run_id)
        mine = run and run["generation"] == lease.generation
        row = self.do(self.store.let_go(lease, self.now))
        if row is None:
            assert not (mine and self._is_held(run))
            return
        assert mine
        assert run["held"] is not None
        run["held"] = None
        if run["status"] == "pending":
            run["due"] = self.now
        else:
            run["place"] = False

    @rule(
        lease=leases, row=st.sampled_from([COMPLETE, FAIL, WAIT, RELEASE]), body_runs=st.booleans()
    )
    def settle(self, lease, row, body_runs):
        body_runs = body_runs and row is not WAIT
        due = None if row.target in FINAL else self.now + (50_000 if row is WAIT else 0)
        values = {"output": "1"} if row is COMPLETE else {}
        if row is FAIL:
            values = {"error": '{"type":"E","message":"m"}'}
        try:
            moved = Settlement(self.now, due, body_runs=body_runs, **values)
            self.do(self.store.settle(lease, row, moved))
        except LeaseLost:
            assert not self._holds(lease)
        else:
            assert self._holds(lease)
            run = self.model[lease.run_id]
            held = run["due"] if body_runs else None
            due = held if body_runs and row is RELEASE else due
            run.update(status=str(row.target), due=due, held=held, place=run["place"] and body_runs)

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
            if row is RETRY:
                run.update(status="pending", due=run["held"] if self._is_held(run) else self.now)
                return
            if run["status"] == "running" and run["due"] > self.now:
                run["held"] = run["due"]
            elif not self._is_held(run):
                run["held"] = None
            run.update(status="cancelled", due=None, place=run["place"] and run["held"] is not None)

    @rule(id=runs)
    def delete(self, id):
        run = self.model.get(id)
        try:
            self.do(self.store.delete(id, self.now))
        except RunNotFoundError:
            assert run is None
        except RunConflictError:
            assert Status(run["status"]) not in FINAL or self._is_held(run)
        else:
            assert not self._is_held(run)
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
            assert (
                set(self.do(self.store.decided_steps(row.id)).checkpoints)
                == self.model[row.id]["steps"]
            )
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


class Named(ManualRuntime):
    """Both stores must draw the same tokens."""

    drawn = ""

    def token(self):
        return self.drawn or super().token()


class Twins:
    """A SQLite store and a PostgreSQL store that are told the same, and must answer the same."""

    def __init__(self, runtime, url):
        self.runtime = runtime
        self.url = url
        self.stores = SQLiteStore(":memory:", runtime), ManualPostgresStore(url, runtime)
        self.claims = 0

    async def open(self):
        for store in self.stores:
            await store.open()
            await store.migrate()
        await postgres.execute(self.url, "truncate durably_runs, durably_journal")

    async def close(self):
        for store in self.stores:
            await store.close()

    async def reopen(self):
        await self.stores[1].close()
        await self.stores[1].open()

    async def claim(self, *args, **options):
        self.claims += 1
        self.runtime.drawn = f"{self.claims:032x}"
        return await self._both("claim", *args, **options)

    async def _both(self, name, *args, **options):
        answers = []
        for store in self.stores:
            try:
                answers.append(await getattr(store, name)(*args, **options))
            except (LeaseLost, RunConflictError, RunNotFoundError) as refused:
                answers.append(refused)
        on_file, on_server = answers
        if isinstance(on_file, BaseException):
            assert (type(on_file), str(on_file)) == (type(on_server), str(on_server))
            raise on_file
        assert _plain(on_file) == _plain(on_server), name
        return on_file

    def __getattr__(self, name):
        async def both(*args, **options):
            return await self._both(name, *args, **options)

        return both

    async def agree(self):
        """Everything that is kept is the same."""
        for run in await self.runs(RunFilter(limit=1000)):
            await self.journal(run.id)
            await self.steps(run.id)


def _plain(answer):
    """What may differ is left out: a line's position, and whether a run is parked before anybody looks."""
    if isinstance(answer, RunRow):
        waits = answer.status == "pending" and answer.concurrency_key is not None
        return answer._replace(due_at=None) if waits else answer
    if isinstance(answer, JournalRow):
        return answer._replace(position=0)
    if isinstance(answer, Claims):
        return [(_plain(held.row), held.lease, held.seq, held.resumed) for held in answer.taken]
    if isinstance(answer, list | tuple):
        return [_plain(one) for one in answer]
    return answer


class TwinMachine(StoreMachine):
    """The same moves on both databases, which must end in equal states."""

    url = None

    async def _open(self):
        if TwinMachine.url is None:
            TwinMachine.url = await postgres.create_database()
        self.runtime = Named(threads=False)
        twins = Twins(self.runtime, self.url)
        await twins.open()
        return twins

    async def _close(self):
        await self.store.agree()
        assert check_journal(await postgres.as_sqlite(self.url)) == []
        await self.store.close()

    def _forget(self):
        self.do(self.store.reopen())


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(max_examples=EXAMPLES, stateful_step_count=40, deadline=None)

TestTwinMachine = TwinMachine.TestCase
TestTwinMachine.settings = settings(max_examples=TWINS, stateful_step_count=40, deadline=None)
