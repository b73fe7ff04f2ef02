"""The jobs under attack. Every body tells the effects file that it began, before all else."""

from __future__ import annotations

import asyncio
import faulthandler
import os
import random
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from durably import Durably, Retry, Step, SyncStep
from durably.jobs.job import Job, job

from .effects import Effects

Order = dict[str, Any]
"""What a run is to do:

weight          how many characters a step's value has on top
steps, ms       how many steps, and the longest that a body takes
chat            write progress and log lines
flaky           steps 1 and 3 fail at their first try in each process
fail_at         fail at this step until the marker file exists
hang_at         hang in this step until the marker file exists
block_at        in this step, block the event loop for ``block`` seconds or hold the GIL for ``gil``
die_at, how     kill the process in this step, by exit, segv or kill
where, once     die "before" the step, in its "body", or "behind" it; only while there is no marker
"""


class Bodies:
    """What the steps of one run do."""

    def __init__(self, effects: Effects, marker: Path, step: Step | SyncStep, order: Order) -> None:
        self.effects, self.marker, self.step, self.order = effects, marker, step, order
        self.steps: int = order.get("steps", 5)
        self.nonces: list[str] = []

    def begin(self, i: int) -> dict[str, Any]:
        """The effect; then whatever harm was ordered."""
        value = {"i": i, "nonce": uuid4().hex[:12], "pad": "x" * self.order.get("weight", 0)}
        self.effects.write("begin", self.step.run_id, i, self.step.attempt, value["nonce"])
        if self.order.get("flaky") and i in (1, 3):
            self._fail_once(i)
        if i == self.order.get("fail_at") and not self.marker.exists():
            raise ValueError("the marker is not there")
        self.die(i, "body")
        if i == self.order.get("block_at"):
            if hold := self.order.get("gil"):
                hold_gil(hold)
            time.sleep(self.order.get("block", 0.0))
        return value

    def _fail_once(self, i: int) -> None:
        if (self.step.run_id, i) not in _tried:
            _tried.add((self.step.run_id, i))
            raise OSError(f"step {i} fails the first time")

    def die(self, i: int, where: str) -> None:
        if i != self.order.get("die_at") or where != self.order.get("where", "body"):
            return
        if self.order.get("once"):
            if self.marker.exists():
                return
            self.marker.touch()
        die(self.order.get("how", "exit"))

    def chat(self, i: int) -> None:
        if self.order.get("chat"):
            self.step.progress(i, self.steps, f"attempt {self.step.attempt}")
            self.step.log.info("in a step", {"i": i})
            self.step.log.warning("still there")

    def pause(self) -> float:
        return random.uniform(0, self.order.get("ms", 0)) / 1000

    async def in_loop(self, i: int) -> dict[str, Any]:
        value = self.begin(i)
        if (wait := self.pause()) > 0:
            await asyncio.sleep(wait)
        while i == self.order.get("hang_at") and not self.marker.exists():
            await asyncio.sleep(0.01)
        self.chat(i)
        return value

    def in_thread(self, i: int) -> dict[str, Any]:
        value = self.begin(i)
        time.sleep(self.pause())
        self.chat(i)
        return value

    def got(self, i: int, value: dict[str, Any]) -> None:
        self.effects.write("got", self.step.run_id, i, self.step.attempt, value["nonce"])
        self.nonces.append(value["nonce"])
        self.die(i, "behind")

    def end(self) -> dict[str, Any]:
        self.effects.write("ending", self.step.run_id, self.step.attempt)
        return {"nonces": self.nonces}

    @property
    def uses_threads(self) -> bool:
        return bool(self.order.get("ms")) and not {"block_at", "hang_at"} & self.order.keys()


_tried: set[tuple[str, int]] = set()


def make_jobs(effects: Effects, folder: Path) -> list[Job[Any, Any]]:
    """The same jobs in every process."""
    marker = folder / "marker"

    @job("async")
    async def in_loop(step: Step, order: Order) -> dict[str, Any]:
        bodies = Bodies(effects, marker, step, order)
        retries = Retry(1, delay=0.001) if order.get("flaky") else 0
        for i in range(bodies.steps):
            bodies.die(i, "before")
            body = bodies.in_thread if bodies.uses_threads and i % 2 else bodies.in_loop
            value = None
            while value is None:  # the failure of an earlier process is seen again, and then ours
                with suppress(OSError):
                    value = await step.run(str(i), body, i, retries=retries if i != 3 else 0)
            bodies.got(i, value)
        return bodies.end()

    @job("sync")
    def in_thread(step: SyncStep, order: Order) -> dict[str, Any]:
        bodies = Bodies(effects, marker, step, order)
        retries = Retry(1, delay=0.001) if order.get("flaky") else 0
        for i in range(bodies.steps):
            bodies.die(i, "before")
            value = step.run(str(i), bodies.in_thread, i, retries=retries)
            bodies.got(i, value)
        return bodies.end()

    return [in_loop, in_thread]


def die(how: str) -> None:
    """End this process as no program should."""
    if how == "exit":
        os._exit(137)
    if how == "segv":
        faulthandler.disable()
        os.kill(os.getpid(), signal.SIGSEGV)
    os.kill(os.getpid(), signal.SIGKILL)


def hold_gil(seconds: float) -> None:
    """One call into C after another would let go of the GIL in between; one long one does not."""
    started = time.monotonic()
    numbers = 1_000_000
    sum(range(numbers))
    took = max(time.monotonic() - started, 1e-4)
    sum(range(int(numbers * seconds / took)))


class Keeper:
    """Keeps some runs going: each that ends is followed by a new one, under the next key."""

    def __init__(self, durably: Durably, effects: Effects, config: dict[str, Any]) -> None:
        self._durably, self._effects = durably, effects
        self._next: int = config.get("next_key", 0)
        self._target: int = config.get("active", 0)
        self._last: int = config.get("last_key", 1 << 60)
        self._orders: list[Order] = config.get("orders", [{}])
        self._prefix: str = config.get("prefix", "k")
        self._ended = asyncio.Event()
        for kind in ("run:complete", "run:fail"):
            durably.on(kind, lambda _: self._ended.set())

    async def keep(self) -> None:
        while self._target and self._next < self._last:
            self._ended.clear()
            active = await self._durably.get_runs(status=["pending", "running"], limit=1000)
            for _ in range(min(self._target - len(active), self._last - self._next)):
                await self._trigger()
            if self._next < self._last:
                await self._ended.wait()

    async def _trigger(self) -> None:
        number = self._next
        order = self._orders[number % len(self._orders)]
        name = "sync" if number % 3 == 2 else "async"
        handle = self._durably.get_job(name)
        assert handle is not None
        key = f"{self._prefix}{number}"
        run = await handle.trigger(order, idempotency_key=key)
        self._effects.write("ack", key, run.id)
        self._next += 1
