"""Leases that only look lapsed: nobody could renew them, or nobody ran, and their holders live."""

import asyncio
import logging
import sqlite3
import threading

import asyncpg
import pytest

from durably import Durably, Step
from durably.runtime import Runtime
from durably.store.records import Lease, NewRun
from durably.store.sqlite.store import SQLiteStore
from durably.worker.heartbeat import Heartbeat
from durably.worker.worker import Worker


class Elsewhen(Runtime):
    """A clock of its own, wall and monotonic, as a stopped process finds them when it goes on."""

    ahead = 0.0

    def now(self) -> int:
        return super().now() + round(self.ahead * 1000)

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead


def _held(n: int) -> NewRun:
    return NewRun(f"{n:036d}", "job", "1", "{}", None, None)


async def _lapsed(store: SQLiteStore) -> None:
    """A run whose lease ran out."""
    now = store._runtime.now()
    await store.enqueue([_held(1)], now - 5000)
    claims = await store.claim(["job"], "me", now - 5000, 1000, 1, takeover=False)
    assert len(claims.taken) == 1


@pytest.fixture
async def store(tmp_path):
    store = SQLiteStore(tmp_path / "a.db", Elsewhen())
    await store.open()
    await store.migrate()
    yield store
    await store.close()


async def test_a_claim_that_waited_for_the_file_takes_over_nothing(store):
    await _lapsed(store)
    now = store._runtime.now()
    with sqlite3.connect(store.path, isolation_level=None) as other:
        other.execute("begin immediate")
        claiming = store.claim(["job"], "you", now, 1000, 1, takeover=True)
        await asyncio.sleep(0.3)
        assert not claiming.done()
        other.execute("commit")
    claims = await claiming
    assert (claims.taken, claims.late) == ([], True)
    claims = await store.claim(["job"], "you", now, 1000, 1, takeover=True)
    assert (len(claims.taken), claims.late) == (1, False)


async def test_a_claim_that_was_stopped_on_its_way_takes_over_nothing(store):
    await _lapsed(store)
    claiming = store.claim(["job"], "you", store._runtime.now(), 1000, 1, takeover=True)
    store._runtime.ahead = 60.0  # before the writer came to it
    claims = await claiming
    assert (claims.taken, claims.late) == ([], True)


async def test_others_that_write_much_keep_nobody_from_taking_over_for_ever(store):
    """Each claim has to wait a little; after a lease of that, the living have renewed."""
    assert store._is_late(True, 0.05, 30.0)
    store._runtime.ahead = 29.0
    assert store._is_late(True, 0.05, 30.0)
    store._runtime.ahead = 31.0
    assert not store._is_late(True, 0.05, 30.0)
    assert store._is_late(True, 6.0, 30.0), "but one long wait is no such crowd"
    assert not store._is_late(False, 0.0, 30.0)
    assert store._is_late(True, 0.05, 30.0)


async def test_after_a_late_claim_the_living_have_one_heartbeat(tmp_path):
    durably = Durably(tmp_path / "a.db", runtime=Elsewhen(), polling_interval=60)
    await durably.init()
    worker = durably._engine.session.worker
    try:
        assert worker._takeover.decide()
        with sqlite3.connect(tmp_path / "a.db", isolation_level=None) as other:

            @durably.job("job")
            async def job(step: Step) -> None: ...

            other.execute("begin immediate")
            worker.wake()
            while not worker._claiming:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.2)
            other.execute("commit")
        while worker._claiming:
            await asyncio.sleep(0.01)
        assert not worker._takeover.decide()
        worker._takeover._ran_at = None
        durably._engine.runtime.ahead = 5.1
        assert worker._takeover.decide()
    finally:
        await durably.stop(0)


@pytest.mark.parametrize("who_goes_on_first", ["the loop", "the heartbeat"])
async def test_a_worker_that_was_stopped_takes_over_nothing_for_a_lease(
    tmp_path, who_goes_on_first
):
    runtime = Elsewhen()
    durably = Durably(tmp_path / "a.db", runtime=runtime, worker=False)
    await durably.init()
    worker: Worker = durably._engine._make_worker(
        durably._engine.session
    )  # not started: the test is its loop and its heartbeat
    try:
        worker._leases.renew()
        assert worker._takeover.decide()
        runtime.ahead = 6.0
        worker._leases.renew()
        assert worker._takeover.decide(), "a beat may be a little late"
        runtime.ahead += 20.0
        if who_goes_on_first == "the heartbeat":
            worker._leases.renew()
        assert not worker._takeover.decide()
        for _ in range(5):
            runtime.ahead += 5.0
            worker._leases.renew()
            assert not worker._takeover.decide()
        runtime.ahead += 5.1
        worker._leases.renew()
        assert worker._takeover.decide()
    finally:
        await durably.stop(0)


class Asleep(Runtime):
    """A machine that wakes: one of its clocks has gone on meanwhile, which one depends on the machine."""

    def __init__(self, clock: str) -> None:
        super().__init__()
        self.clock, self.slept = clock, 0

    def now(self) -> int:
        return super().now() + self.slept * 1000 * (self.clock == "wall")

    def monotonic(self) -> float:
        return super().monotonic() + self.slept * (self.clock == "monotonic")


@pytest.mark.parametrize("clock", ["wall", "monotonic"])
async def test_who_may_have_slept_through_a_lease_by_either_clock_begins_no_step(tmp_path, clock):
    runtime, began = Asleep(clock), []
    waiting, go_on = asyncio.Event(), asyncio.Event()
    times = {"heartbeat_interval": 3000, "stale_threshold": 6000, "polling_interval": 600}
    durably = Durably(tmp_path / "a.db", runtime=runtime, **times)

    @durably.job("job")
    async def job(step: Step) -> None:
        waiting.set()
        await go_on.wait()
        await step.run("begun", lambda: began.append(1))

    await durably.init()
    other = SQLiteStore(tmp_path / "a.db", Runtime())
    await other.open()
    try:
        await job.trigger()
        await asyncio.wait_for(waiting.wait(), 30)
        runtime.slept = 7000
        later = Runtime().now() + 7_000_000
        claims = await other.claim(["job"], "you", later, 6_000_000, 1, takeover=True)
        assert len(claims.taken) == 1
        go_on.set()
        async with asyncio.timeout(30):
            while durably._engine.session.worker.running:
                await asyncio.sleep(0.01)
        assert began == []
    finally:
        await other.close()
        await durably.stop(0)


class ByHand(Elsewhen):
    """A monotonic clock that only a test moves."""

    def monotonic(self) -> float:
        return self.ahead


@pytest.mark.parametrize(
    ("database", "what"),
    [("file", "writing"), ("postgres", "writing"), ("postgres", "renewing")],
    indirect=["database"],
)
async def test_for_a_lease_after_trouble_nothing_is_taken_over(database, monkeypatch, what):
    """The leases of the living lapsed while nobody could write."""
    runtime = ByHand()
    durably = Durably(database, runtime=runtime, worker=False)
    await durably.init()
    store, worker = durably._engine.store, durably._engine._make_worker(durably._engine.session)
    mended = asyncio.Event()
    try:
        assert worker._takeover.decide()
        _break(store, what, mended, monkeypatch)
        answered = asyncio.get_running_loop().create_future()
        if what == "writing":
            answered = asyncio.ensure_future(store.enqueue([_held(1)], runtime.now()))
        else:
            lease = Lease("r", "t", 1, 1000)
            store.renew([lease], runtime.now(), asyncio.get_running_loop(), answered.set_result)
        async with asyncio.timeout(30):
            while store.trouble is None:
                await asyncio.sleep(0.01)
        assert not worker._takeover.decide()
        runtime.ahead += 5.0
        mended.set()
        await asyncio.wait_for(answered, 30)
        assert store.trouble is None
        for _ in range(6):
            assert not worker._takeover.decide()
            runtime.ahead += 5.0
        assert worker._takeover.decide()
    finally:
        mended.set()
        await durably.stop(0)


def _break(store, what, mended, monkeypatch):
    """Let nothing be written until it is mended."""
    if isinstance(store, SQLiteStore):
        owner, name = store._writer, "_commit"
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorcode = sqlite3.SQLITE_FULL
    else:
        owner, name = (store._flusher, "_flush") if what == "writing" else (store._leases, "_try")
        error = ConnectionError("the server is away")
    real = getattr(owner, name)

    def broken(*args):
        if not mended.is_set():
            raise error
        return real(*args)

    monkeypatch.setattr(owner, name, broken)


async def test_a_blocked_loop_alone_is_no_stopped_process(tmp_path):
    runtime = Elsewhen()
    durably = Durably(tmp_path / "a.db", runtime=runtime, worker=False)
    await durably.init()
    worker: Worker = durably._engine._make_worker(durably._engine.session)
    try:
        assert worker._takeover.decide()
        for _ in range(10):
            runtime.ahead += 5.0
            worker._leases.renew()
        assert worker._takeover.decide()
    finally:
        await durably.stop(0)


async def test_a_claim_that_waited_for_the_servers_table_takes_over_nothing(postgres_url):
    from durably.store.postgres.store import PostgresStore

    store = PostgresStore(postgres_url, Runtime())
    await store.open()
    await store.migrate()
    other = await asyncpg.connect(postgres_url)
    try:
        await store.enqueue([_held(1)], store._runtime.now())
        taken = (
            await store.claim(["job"], "me", store._runtime.now(), 100, 1, takeover=True)
        ).taken
        assert len(taken) == 1
        warm = await store.claim(["none"], "you", store._runtime.now(), 100, 1, takeover=True)
        assert warm.taken == []  # its statement is prepared: the wait comes when it is bound
        async with other.transaction():
            await other.execute("lock table durably_runs in access exclusive mode")
            now = store._runtime.now()
            claiming = asyncio.ensure_future(
                store.claim(["job"], "you", now, 30_000, 1, takeover=True)
            )
            await asyncio.sleep(1.5)
            assert not claiming.done()
        assert (await claiming).taken == []
        later = await store.claim(["job"], "you", store._runtime.now(), 30_000, 1, takeover=True)
        assert len(later.taken) == 1
    finally:
        await other.close()
        await store.close()


# -- the threads that keep leases wait for nobody


class Stuck(logging.Handler):
    """A pipe that nobody reads: whoever logs waits, and everybody waits for the handler's lock."""

    def __init__(self) -> None:
        super().__init__()
        self.met, self.free = threading.Event(), threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.met.set()
        self.free.wait(60)


@pytest.fixture
def stuck():
    handler = Stuck()
    logging.getLogger("durably").addHandler(handler)
    yield handler
    handler.free.set()
    logging.getLogger("durably").removeHandler(handler)


@pytest.mark.parametrize("what", ["a blocked loop", "a failing beat"])
async def test_the_heartbeat_goes_on_while_a_log_handler_hangs(stuck, monkeypatch, what):
    monkeypatch.setattr("durably.worker.heartbeat.BLOCKED_AFTER", -1.0)
    beats: list[int] = []
    enough = threading.Event()

    def beat() -> None:
        beats.append(1)
        if len(beats) >= 5 and stuck.met.is_set():
            enough.set()
        if what == "a failing beat":
            raise OSError("no")

    heartbeat = Heartbeat(Runtime(), 0.02, beat, lambda _: None)
    heartbeat.start()
    assert enough.wait(30)  # the loop is blocked by this, too
    heartbeat.stop()
    stuck.free.set()


async def test_a_commit_waits_for_no_log_handler(store, stuck, monkeypatch):
    commit, failed = store._writer._commit, threading.Event()

    def full_once(batch):
        if not failed.is_set():
            failed.set()
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error
        return commit(batch)

    monkeypatch.setattr(store._writer, "_commit", full_once)
    async with asyncio.timeout(30):
        await store.enqueue([_held(1)], 1)
    assert stuck.met.wait(30)


async def test_a_full_disk_is_logged_and_its_end_too(store, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    commit, tries = store._writer._commit, []

    def full(batch):
        tries.append(1)
        if len(tries) < 4:
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error
        return commit(batch)

    monkeypatch.setattr(store._writer, "_commit", full)
    await store.enqueue([_held(1)], 1)
    async with asyncio.timeout(20):
        while "can be written again" not in caplog.text:
            await asyncio.sleep(0.01)
    assert caplog.text.count("disk is full; trying again") == 1
