"""The jobs under attack. Every body tells the effects file that it began, before all else."""

from __future__ import annotations

import asyncio
import os
import random
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

from durably import Durably, Step, SyncStep
from durably.job import Job, job

from .oracle import Effects


Order = dict[str, Any]
"""What a run is to do:

steps, ms       how many steps, and the longest that a body takes
chat            write progress and log lines
flaky           steps 1 and 3 fail at their first try in each process
fail_at         fail at this step until the marker file exists
hang_at         hang in this step until the marker file exists
block_at        in this step, block the event loop for ``block`` seconds or hold the GIL for ``gil``
die_at, how     kill the process in this step, by exit, segv or kill
"""


def make_jobs(effects: Effects, folder: Path) -> list[Job[Any, Any]]:
    """The same jobs in every process."""
    marker = folder / "marker"
    tried: set[tuple[str, int]] = set()

    def begin(step: Step | SyncStep, i: int) -> str:
        effects.write("begin", step.run_id, i, step.attempt)
        return uuid4().hex[:12]

    def harm(step: Step | SyncStep, order: Order, i: int) -> None:
        if order.get("flaky") and i in (1, 3) and (step.run_id, i) not in tried:
            tried.add((step.run_id, i))
            raise OSError(f"step {i} fails the first time")
        if i == order.get("fail_at") and not marker.exists():
            raise ValueError("the marker is not there")
        if i == order.get("die_at"):
            die(order.get("how", "exit"))
        if i == order.get("block_at"):
            if hold := order.get("gil"):
                hold_gil(hold)
            time.sleep(order.get("block", 0.0))

    def chat(step: Step | SyncStep, order: Order, i: int) -> None:
        if order.get("chat"):
            step.progress(i, order.get("steps", 5), f"step {i}")
            step.log.info("in a step", {"i": i})
            step.log.warning("still there")

    def pause(order: Order) -> float:
        return random.uniform(0, order.get("ms", 0)) / 1000

    @job("async")
    async def in_loop(step: Step, order: Order) -> dict[str, Any]:
        async def body(i: int) -> dict[str, Any]:
            nonce = begin(step, i)
            harm(step, order, i)
            if (wait := pause(order)) > 0:
                await asyncio.sleep(wait)
            while i == order.get("hang_at") and not marker.exists():
                await asyncio.sleep(0.01)
            chat(step, order, i)
            return {"i": i, "nonce": nonce}

        def threaded(i: int) -> dict[str, Any]:
            nonce = begin(step, i)
            harm(step, order, i)
            time.sleep(pause(order))
            chat(step, order, i)
            return {"i": i, "nonce": nonce}

        nonces: list[str] = []
        in_threads = order.get("ms") and "block_at" not in order and "hang_at" not in order
        for i in range(order.get("steps", 5)):
            body_of = threaded if in_threads and i % 2 else body
            retries = 1 if order.get("flaky") else 0
            try:
                value = await step.run(str(i), body_of, i, retries=retries if i != 3 else 0)
            except OSError:
                value = await step.run(str(i), body_of, i)
            effects.write("got", step.run_id, i, step.attempt, value["nonce"])
            nonces.append(value["nonce"])
        return {"nonces": nonces}

    @job("sync")
    def in_thread(step: SyncStep, order: Order) -> dict[str, Any]:
        def body(i: int) -> dict[str, Any]:
            nonce = begin(step, i)
            harm(step, order, i)
            time.sleep(pause(order))
            chat(step, order, i)
            return {"i": i, "nonce": nonce}

        nonces: list[str] = []
        for i in range(order.get("steps", 5)):
            value = step.run(str(i), body, i, retries=1 if order.get("flaky") else 0)
            effects.write("got", step.run_id, i, step.attempt, value["nonce"])
            nonces.append(value["nonce"])
        return {"nonces": nonces}

    return [in_loop, in_thread]


def die(how: str) -> None:
    """End this process as no program should."""
    import faulthandler
    import signal

    if how == "exit":
        os._exit(137)
    if how == "segv":
        faulthandler.disable()
        os.kill(os.getpid(), signal.SIGSEGV)
    os.kill(os.getpid(), signal.SIGKILL)


def hold_gil(seconds: float) -> None:
    """One call into C after another would let go; one long one does not."""
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
            await self._ended.wait()

    async def _trigger(self) -> None:
        number = self._next
        order = self._orders[number % len(self._orders)]
        name = "sync" if number % 3 == 2 else "async"
        handle = self._durably.get_job(name)
        assert handle is not None
        key = f"{self._prefix}{number}"
        # The job is part of what an idempotency key belongs to: a key always goes to the same one.
        run = await handle.trigger(order, idempotency_key=key)
        self._effects.write("ack", key, run.id)
        self._next += 1
