"""A world of processes on one database, with faults; the product's own engine on virtual time."""

import asyncio
import contextvars
import logging
import random
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from durably import Durably, Retry, Step
from durably.errors import DurablyError, StorageUnavailableError
from durably.jobs.job import Job, define
from durably.runtime import Runtime
from durably.store.sqlite.store import DIALECT, SQLiteStore
from durably.store.sqlite.writer import Writer
from durably.store.statements import statements
from tests.oracle import check_journal

from .loop import PROCESS, Process, SimulatedLoop

HEARTBEAT, LEASE, POLL = 3.0, 10.0, 1.0
MAX_RECOVERIES = 50
END = 1500.0  # virtual seconds: a world that goes on longer hangs
START = 1_700_000_000_000


class SimulatedRuntime(Runtime):
    def __init__(self, world: "World") -> None:
        super().__init__()
        self.world, self.random, self.threads = world, world.rng, False

    def now(self) -> int:
        return START + round((self.world.loop.time() + self.world.clock_error) * 1000)

    def monotonic(self) -> float:
        return self.world.loop.time()

    def new_context(self) -> contextvars.Context:
        context = contextvars.Context()
        context.run(PROCESS.set, PROCESS.get())
        return context

    def token(self) -> str:
        return f"{self.random.getrandbits(128):032x}"

    def entropy(self, size: int) -> int:
        return self.random.getrandbits(8 * size)


class Rows(list):
    def fetchall(self):
        return self

    def fetchone(self):
        return self[0] if self else None


class Link:
    """A process's way to the database: injects faults, and watches what is written."""

    def __init__(self, world: "World") -> None:
        self.world = world

    @property
    def in_transaction(self) -> bool:
        return self.world.database.in_transaction

    def execute(self, text: str, params=()) -> Rows:
        world = self.world
        if text == "begin immediate" and world.chance(world.faults.busy):
            raise _error("database is locked", sqlite3.SQLITE_BUSY)
        if text == "begin immediate" and world.chance(world.faults.full):
            raise _error("database or disk is full", sqlite3.SQLITE_FULL)
        if text == "commit" and world.chance(world.faults.before_commit):
            raise _error("disk I/O error", sqlite3.SQLITE_IOERR)
        world.before(text, params)
        rows = Rows(world.database.execute(text, params).fetchall())
        world.after(text, params, rows)
        if text == "commit" and world.chance(world.faults.after_commit):
            raise _error("disk I/O error", sqlite3.SQLITE_IOERR)
        return rows

    def close(self) -> None:
        pass


def _error(text: str, code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError(text)
    error.sqlite_errorcode = code
    return error


class SlowWriter(Writer):
    """Answers a little after the commit, so that anything may happen in between."""

    world: "World"
    _last = 0.0

    def _tell(self, results, *, regroup=False, from_thread=0) -> None:
        loop = self.world.loop
        self._last = max(self._last, loop.time() + self.world.rng.random() * 0.05)
        loop.call_at(self._last, lambda: super(SlowWriter, self)._tell(results))


class SimulatedStore(SQLiteStore):
    def __init__(self, world: "World", runtime: Runtime) -> None:
        super().__init__(":memory:", runtime)
        self._world = world
        self.writer_type = type("W", (SlowWriter,), {"world": world})
        self._statements = world.statements

    def _open_connection(self):
        return Link(self._world)

    def _configure(self, connection):
        return connection

    async def changed(self) -> int:
        return self._world.commits


class DeclinedError(Exception):
    """What a job handles."""


class Body(NamedTuple):
    """A step's function that runs now, under the lease of a process."""

    process: Process | None
    run_id: str
    key: tuple[str, str] | None
    token: str
    name: str


@dataclass
class Faults:
    busy: float = 0.0
    full: float = 0.0
    before_commit: float = 0.0
    after_commit: float = 0.0


@dataclass
class Report:
    seed: int
    violations: list[str] = field(default_factory=list)
    bodies: int = 0
    faults: int = 0
    seconds: float = 0.0
    runs: int = 0
    trace: int = 0


class World:
    """``World(seed).run()`` is one simulation; the same seed gives the same report."""

    def __init__(
        self,
        seed: int,
        *,
        watchers: bool | None = None,
        plant: Callable[[dict[str, str]], object] = lambda _: None,
        mix: tuple[str, ...] = ("line", "fan", "flaky", "doomed", "saga"),
        pauses: bool = False,  # whatever befalls a process is a pause
        cancels: bool = False,  # runs are cancelled and retried, and nothing else happens
    ) -> None:
        self.rng = random.Random(seed)
        self.loop = SimulatedLoop(self.rng)
        self.database = sqlite3.connect(":memory:", isolation_level=None)
        self.statements = dict(statements(DIALECT))
        plant(self.statements)
        self.fenced = {
            self.statements[name]: name
            for name in ("record", "progress", "renew", "complete", "fail", "release", "wait")
        }
        self.claim_text = self.statements["claim"]
        self.renew_text = self.statements["renew"]
        self.report = Report(seed)
        self.faults = Faults()
        self.faulty = True
        self.clock_error = 0.0
        self.jumped = False
        self.beats: dict[str, float] = {}
        self.bodies: list[Body] = []
        self.processes: list[Process] = []
        self.jobs = _jobs(self)
        self.mix, self.pauses, self.cancels = mix, pauses, cancels
        self.expected: dict[str, object] = {}
        self.watched: dict[str, list[int]] = {}
        self.watchers = seed % 10 == 0 if watchers is None else watchers
        self.commits = 0
        self._beating: dict[str, float] = {}
        self._holder: tuple | None = None
        self._tasks: list[asyncio.Task] = []  # the dead are kept: nothing of theirs may run again
        self.loop.set_task_factory(self._make_task)

    def _make_task(self, loop, coroutine, **kwargs):
        task = asyncio.Task(coroutine, loop=loop, **kwargs)
        task._log_destroy_pending = False
        self._tasks.append(task)
        return task

    # -- what the world sees of the database

    def chance(self, probability: float) -> bool:
        hit = self.faulty and probability > 0 and self.rng.random() < probability
        self.report.faults += hit
        return hit

    def before(self, text: str, params) -> None:
        self.report.trace = hash((self.report.trace, text, str(params))) & 0xFFFFFFFFFFFF
        if text == self.claim_text:
            row = self.database.execute(
                "select status from durably_runs where id = ?", (params["id"],)
            ).fetchone()
            beat = self.beats.get(params["id"], float("-inf"))
            age = self.loop.time() - beat
            if row and row[0] == "running" and age < LEASE - 0.5 and not self.jumped:
                self.say(f"lease of {params['id']} stolen {age:.1f} s after its last renewal")
        self._holder = None
        if text in self.fenced:
            row = self.database.execute(
                "select lease_token, status from durably_runs where id = ?", (params["run_id"],)
            ).fetchone()
            self._holder = row

    def after(self, text: str, params, rows: Rows) -> None:
        if text in self.fenced and rows:
            token, status = self._holder or (None, None)
            held = text == self.renew_text and rows[0][1] != "running"
            if token != params["token"] or (status != "running" and not held):
                self.say(f"stale {self.fenced[text]} accepted for {params['run_id']} ({status})")
        if rows and text in (self.claim_text, self.renew_text):
            run_id = params.get("run_id") or params["id"]
            self._beating[run_id] = self._beating[f"{run_id} {params['token']}"] = self.loop.time()
        if text == "commit":
            self.commits += 1
            self.beats |= self._beating
        if text in ("commit", "rollback"):
            self._beating = {}

    def say(self, violation: str) -> None:
        self.report.violations.append(f"{self.loop.time():.2f}: {violation}")

    @contextmanager
    def body(self, step: Step, name: str) -> Iterator[None]:
        """A step's body runs: it is not decided yet, and nobody else executes its run or has its key."""
        self.report.bodies += 1
        if self.database.execute(
            "select 1 from durably_journal where run_id = ? and step = ? and type = 'step:complete'",
            (step.run_id, name),
        ).fetchone():
            self.say(f"body of committed step {name} of {step.run_id} began")
        if self.database.execute(
            "select 1 from durably_journal as j where run_id = ? and step = ? and type = 'step:fail' and seq > "
            "(select coalesce(max(seq), 0) from durably_journal where run_id = j.run_id and type = 'run:retry')",
            (step.run_id, name),
        ).fetchone():
            self.say(f"body of failed step {name} of {step.run_id} began again")
        token, scope, key = self.database.execute(
            "select lease_token, scope, concurrency_key from durably_runs where id = ?",
            (step.run_id,),
        ).fetchone()
        body = Body(PROCESS.get(), step.run_id, (scope, key) if key else None, token, name)
        for other in self.bodies:
            if self._excludes(other, body):
                self.say(
                    f"{body.name} of {body.run_id} began beside {other.name} of {other.run_id}"
                )
        self.bodies.append(body)
        try:
            yield
        finally:
            self.bodies.remove(body)

    def _excludes(self, other: Body, body: Body) -> bool:
        """Whether a body must not begin beside another: the other's holder lives, and has said so."""
        if other.token == body.token and other.run_id == body.run_id:
            return False
        same = other.run_id == body.run_id or (other.key is not None and other.key == body.key)
        age = self.loop.time() - self.beats.get(f"{other.run_id} {other.token}", float("-inf"))
        is_alive = other.process is not None and other.process.alive
        return same and is_alive and age < LEASE - 0.5 and not self.jumped

    # -- processes

    def spawn(self, name: str) -> Process:
        process = Process(name)
        self.processes.append(process)
        context = contextvars.copy_context()
        context.run(PROCESS.set, process)
        self.loop.create_task(self._serve(process), context=context)
        return process

    def make(self, *, worker: bool) -> Durably:
        runtime = SimulatedRuntime(self)
        return Durably(
            ":memory:",
            jobs=self.jobs,
            polling_interval=POLL,
            heartbeat_interval=HEARTBEAT,
            stale_threshold=LEASE,
            max_concurrent_runs=3,
            max_recoveries=MAX_RECOVERIES,
            worker=worker,
            runtime=runtime,
            store=SimulatedStore(self, runtime),
        )

    async def _serve(self, process: Process) -> None:
        durably = self.make(worker=True)
        process.durably = durably
        await durably.init()
        await asyncio.Event().wait()

    # -- the story

    def run(self) -> Report:
        asyncio.set_event_loop(self.loop)
        logging.disable(logging.CRITICAL)
        try:
            self.loop.run_until_complete(asyncio.wait_for(self._story(), END))
        except Exception as error:
            self.say(repr(error))
        finally:
            logging.disable(logging.NOTSET)
            self._bury()
        self.report.seconds = self.loop.time()
        self.report.violations += check_journal(self.database)
        self.database.close()
        return self.report

    async def _story(self) -> None:
        client = self.make(worker=False)
        await client.init()
        for name in ("a", "b", "c")[: self.rng.choice((2, 3))]:
            self.spawn(name)
        ids = await self._trigger(client)
        followers = (
            [asyncio.ensure_future(self._follow(client, id)) for id in ids] if self.watchers else []
        )
        rng = self.rng
        self.faults = Faults(
            busy=rng.choice((0, 0.1)),
            full=rng.choice((0, 0.05)),
            before_commit=rng.choice((0, 0.03)),
            after_commit=rng.choice((0, 0.03)),
        )
        while self.loop.time() < 45:
            await asyncio.sleep(rng.random() * 6)
            await self._mishap(client, ids)
        self.faulty = False
        self.clock_error = 0.0
        if not any(process.alive for process in self.processes):
            self.spawn("z")
        await self._settle(ids)
        await self._check_outcomes(client, ids)
        for task in followers:
            task.cancel()
        await client.stop()

    async def _trigger(self, client: Durably) -> list[str]:
        ids = []
        for i in range(9):
            name = self.mix[i % len(self.mix)]
            key = self.rng.choice((None, "k", "k"))
            scope = "other" if i % 3 == 2 else ""
            run = await client.get_job(name).trigger(i, concurrency_key=key, scope=scope)
            self.expected[run.id] = _expected(name, i)
            ids.append(run.id)
        self.report.runs = len(ids)
        return ids

    async def _mishap(self, client: Durably, ids: list[str]) -> None:
        rng, kind = self.rng, 0.5 if self.pauses else self.rng.random()
        if self.cancels:
            run_id = rng.choice(ids)
            for command in (client.cancel, client.retry)[: rng.choice((1, 2))]:
                with suppress(DurablyError):
                    await command(run_id)
            return
        alive = [process for process in self.processes if process.alive]
        self.report.faults += 1
        if kind < 0.35 and alive:
            rng.choice(alive).alive = False
            name = f"p{len(self.processes)}"
            asyncio.get_running_loop().call_later(rng.random() * 5, self.spawn, name)
        elif kind < 0.65 and alive:
            rng.choice(alive).paused_until = self.loop.time() + rng.random() * 25
        elif kind < 0.75 and alive:
            await self._stop_gracefully(rng.choice(alive))
        elif kind < 0.8:
            self.clock_error += rng.choice((-30, 60))
            self.jumped = True
        else:
            await self._command(client, rng.choice(ids))

    async def _stop_gracefully(self, process: Process) -> None:
        durably = getattr(process, "durably", None)
        if durably is None:
            return
        context = contextvars.copy_context()
        context.run(PROCESS.set, process)

        async def leave() -> None:
            await durably.stop(self.rng.random() * 3)
            process.alive = False

        self.loop.create_task(leave(), context=context)
        self.loop.call_later(self.rng.random() * 8, self.spawn, f"p{len(self.processes)}")

    async def _command(self, client: Durably, run_id: str) -> None:
        command = self.rng.choice((client.cancel, client.retry, client.retry, self._purge(client)))
        try:
            await command(run_id)
        except (StorageUnavailableError, DurablyError):
            return

    def _purge(self, client: Durably):
        async def purge(_: str) -> None:
            await client.purge_runs(older_than=self.rng.random() * 20)

        return purge

    async def _follow(self, client: Durably, run_id: str) -> None:
        seen = self.watched.setdefault(run_id, [])
        while True:
            try:
                async for event in client.subscribe(run_id, seen[-1] if seen else 0):
                    if event.sequence is not None:
                        seen.append(event.sequence)
            except DurablyError:
                return
            await asyncio.sleep(1)

    async def _settle(self, ids: list[str]) -> None:
        """Faults are over: everything ends within bounded time."""
        deadline = self.loop.time() + 400
        active = (
            "select count(*) from durably_runs where status in ('pending', 'running', 'waiting')"
        )
        while self.loop.time() < deadline:
            if not any(process.alive for process in self.processes):
                self.spawn("last")
            if not self.database.in_transaction and not self.database.execute(active).fetchone()[0]:
                return
            await asyncio.sleep(2)
        stuck = self.database.execute(
            "select id, status, due_at, concurrency_key from durably_runs where ended_at is null"
        ).fetchall()
        self.say(f"stuck after {self.loop.time():.0f} s: {stuck}")

    async def _check_outcomes(self, client: Durably, ids: list[str]) -> None:
        await asyncio.sleep(30)
        for run_id in ids:
            run = await client.get_run(run_id)
            if run is None or run.status == "cancelled":
                continue
            ended = str(run.error) if run.status == "failed" else run.output
            if ended != self.expected[run_id]:
                self.say(f"run {run_id} ({run.job}) ended {run.status}: {run.output} {run.error}")
            steps = {record.name for record in await client.get_steps(run_id)}
            allowed = _BRANCHES.get(run.job) or (_STEPS.get(run.job),)
            if run.status == "completed" and steps not in allowed:
                self.say(f"run {run_id} ({run.job}) completed with the checkpoints {steps}")
            if run_id in self.watched:
                last = self.database.execute(
                    "select max(seq) from durably_journal where run_id = ?", (run_id,)
                ).fetchone()[0]
                if self.watched[run_id] != list(range(1, last + 1)):
                    self.say(f"a watcher of {run_id} saw {self.watched[run_id]}, not 1..{last}")

    def _bury(self) -> None:
        self.report.violations += [
            f"loop error: {context.get('message')} {context.get('exception')!r}"
            for context in self.loop.errors
        ]
        for task in self._tasks:
            if not task.done():
                with suppress(Exception):  # it would await, or touch the loop that is gone
                    task.get_coro().close()
        self.loop._scheduled.clear()
        self.loop._ready.clear()
        asyncio.set_event_loop(None)
        self.loop.close()


def _jobs(world: World) -> list[Job]:
    async def work(step: Step, name: str, value: int, longest: float) -> int:
        with world.body(step, name):
            try:
                await asyncio.sleep(world.rng.random() * longest)
            except asyncio.CancelledError:  # not every body ends at once
                await asyncio.sleep(world.rng.choice((0, 0, 2, 8)))
                raise
        return value

    async def line(step: Step, n: int) -> int:
        total = 0
        for i in range(4):
            total += await step.run(f"s{i}", work, step, f"s{i}", i * n, 4.0)
            step.progress(i, 4)
        for i in range(3):  # also what is no step may be stale
            await asyncio.sleep(world.rng.random() * 3)
            step.progress(i, 3)
        return total

    async def fan(step: Step, n: int) -> list[int]:
        names = [f"f{i}" for i in range(3)]
        tasks = [step.run(name, work, step, name, n, 9.0) for name in names]
        found = await asyncio.gather(*tasks)
        return [*found, await step.run("last", work, step, "last", n, 1.0)]

    async def flaky(step: Step, n: int) -> int:
        async def sometimes() -> int:
            if world.rng.random() < 0.5:
                raise ConnectionError("not this time")
            return n

        found = await step.run("flaky", sometimes, retries=Retry(30, delay=0.5, max_delay=2))
        return found + await step.run("long", work, step, "long", n, 20.0)

    async def doomed(step: Step, n: int) -> int:
        async def refuse() -> int:
            await asyncio.sleep(world.rng.random() * 4)
            raise ValueError(f"{n} is refused")

        await step.run("before", work, step, "before", n, 4.0)
        return await (step.run("refuse", refuse) if n % 2 else refuse())

    async def charge(step: Step, n: int) -> int:
        with world.body(step, "charge"):
            await asyncio.sleep(world.rng.random())
            if world.rng.random() < 0.5:
                raise DeclinedError(n, "declined")
        return n

    async def saga(step: Step, n: int) -> list[int]:
        try:
            charged = await step.run("charge", charge, step, n)
        except DeclinedError as error:
            charged = error.args[0]
            await step.run("notify", work, step, "notify", n, 2.0)
        return [charged, await step.run("long", work, step, "long", n, 20.0)]

    jobs = {"saga": saga, "line": line, "fan": fan, "flaky": flaky, "doomed": doomed}
    return [define(name, fn) for name, fn in jobs.items()]


_STEPS = {
    "line": {"s0", "s1", "s2", "s3"},
    "fan": {"f0", "f1", "f2", "last"},
    "flaky": {"flaky", "long"},
}
_BRANCHES = {"saga": ({"charge", "long"}, {"charge", "notify", "long"})}


def _expected(job: str, n: int) -> object:
    outcomes = {"saga": [n, n], "line": 6 * n, "fan": [n] * 4, "flaky": 2 * n}
    return outcomes.get(job, f"ValueError: {n} is refused")
