"""T10: the connections of workers are cut, before a message and after it: also after COMMIT, before its answer.

python -m tests.crash.cuts --cuts 200 --seed 7
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from tests.proxy import Cut, Proxy

from .harness import Child, Nursery, Report, folder, main, until
from .oracle import World
from .place import POSTGRES, Way, name_of, new_database, straight

ORDERS = [{"steps": 6, "ms": 4, "chat": True}, {"steps": 4, "ms": 10}, {"steps": 8}]
LEASES = {
    "heartbeat_interval": 0.5,
    "stale_threshold": 60.0,
}  # renewals are cut, too; nobody takes over
FAR = 40  # messages from one cut to the next, at most
COMMIT = b"COMMIT"


class Wire:
    """The proxy, in a thread of its own."""

    def __init__(self, loop: asyncio.AbstractEventLoop, proxy: Proxy) -> None:
        self._loop, self._proxy = loop, proxy

    def cut(self, cut: Cut) -> None:
        """Cut, and wait until that was done."""
        before = self._proxy.cuts
        self._loop.call_soon_threadsafe(self._proxy.arm, cut)
        until(lambda: self._proxy.cuts > before, f"it does not come to {cut}")

    def through(self, url: str) -> str:
        """The database's URL, through the proxy."""
        parts = urlsplit(url)
        user, at, _ = parts.netloc.rpartition("@")
        return urlunsplit(parts._replace(netloc=f"{user}{at}127.0.0.1:{self._proxy.port}"))


@contextmanager
def wire_to(url: str) -> Iterator[Wire]:
    """A proxy before a server, for the length of a block."""
    started, stop = threading.Event(), asyncio.Event()
    found: list[Wire] = []

    async def serve() -> None:
        async with Proxy(urlsplit(url).port or 5432) as proxy:
            found.append(Wire(asyncio.get_running_loop(), proxy))
            started.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), name="proxy")
    thread.start()
    assert started.wait(30)
    try:
        yield found[0]
    finally:
        found[0]._loop.call_soon_threadsafe(stop.set)
        thread.join()


def run(
    cuts: int = 200, seed: int = 7, workers: int = 2, database: str = POSTGRES,
    plant: str | None = None, way: Way = straight,
) -> Report:  # fmt: skip
    """Cut after cut, until there were enough; then everything must end as if there had been none."""
    options = {"cuts": cuts, "workers": workers, "database": name_of(database)}
    report = Report("cuts", seed, options)
    started = time.monotonic()
    with (
        folder("cuts") as where, new_database(database) as url, wire_to(way(url)) as wire, Nursery() as nursery,
    ):  # fmt: skip
        world = World(where, url=url)

        def config(name: str, **more: Any) -> dict[str, Any]:
            return {
                "role": "work", "folder": str(where), "url": wire.through(url), "prefix": name,
                "active": 4 * workers, "orders": ORDERS, "keep_logs": True, "plant": plant,
                "options": {"max_concurrent_runs": 3, "polling_interval": 0.1, **LEASES}, **more,
            }  # fmt: skip

        crew = [nursery.spawn(config(f"w{i}-")) for i in range(workers)]
        chance = random.Random(seed)
        for _ in range(cuts):
            kind, cut = _choose(chance)
            wire.cut(cut)
            report.faults[kind] += 1
            now = world.look(dead=False)
            failed = [run_id for run_id, row in now.runs.items() if row["status"] == "failed"]
            if plant and (failed or world.wrong):
                break
        _finish(report, world, nursery, crew, config("last-", url=url, active=0, until_done=True))
    report.seconds = time.monotonic() - started
    return report


def _choose(chance: random.Random) -> tuple[str, Cut]:
    kind = chance.choice(["before", "after", "after COMMIT"])
    if kind == "after COMMIT":
        return kind, Cut(chance.randrange(3), after=True, says=COMMIT)
    return kind, Cut(chance.randrange(FAR), after=kind == "after")


def _finish(
    report: Report, world: World, nursery: Nursery, crew: list[Child], last: dict[str, Any]
) -> None:
    for worker in crew:
        worker.send(signal.SIGTERM)
    for worker in [*crew, nursery.spawn(last)]:
        code, output = worker.wait(), worker.output()
        if code or "Traceback" in output:
            report.found("died", f"exit {code}: {output[-2000:]}")
    now = world.look()
    world.check_order(now)
    world.check_completed(now)
    if world.repeats:
        report.found("duplicated", f"{world.repeats} bodies ran twice, though nobody died")
    report.take(world)
    world.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cuts", type=int, default=200)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--database", default=POSTGRES)
    parser.add_argument("--plant")
    main(run, parser)
