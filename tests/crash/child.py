"""The process under attack: forked with everything loaded, it waits for its orders on stdin, and goes."""

from __future__ import annotations

import asyncio
import json
import logging
import resource
import signal
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import durably.store.sqlite.store
from durably import Durably, with_log_persistence
from durably.runtime import Runtime
from durably.store.url import DatabaseOptions, store_of

from . import faults, jobs, scenarios
from .effects import Effects

logger = logging.getLogger("tests.crash")


class JumpingRuntime(Runtime):
    """A wall clock that is off by as many milliseconds as a file says."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self._file = file

    def now(self) -> int:
        try:
            return super().now() + int(self._file.read_text() or 0)
        except FileNotFoundError:
            return super().now()


def build(config: dict[str, Any], effects: Effects) -> tuple[Durably, faults.Plan]:
    """An instance with the faults and bugs of a configuration."""
    folder = Path(config["folder"])
    options = dict(config.get("options", {}))
    durability = options.pop("durability", "full")
    runtime = JumpingRuntime(folder / config["jumps"]) if config.get("jumps") else Runtime()
    fault = faults.Fault(**config["fault"]) if config.get("fault") else None
    plan = faults.Plan(fault, config.get("reader", False), config.get("armed", False))
    plan.note = lambda text: effects.write("fault", *text.split())
    database = config.get("url") or str(folder / "runs.db")
    if config.get("url"):
        store = store_of(database, runtime, DatabaseOptions(durability, False, "", None, False))
    else:
        store = faults.FaultyStore(database, runtime, plan, durability=durability)
    faults.plant(config.get("plant"), store)
    if "patience" in config:
        durably.store.sqlite.store.PATIENCE = config["patience"]
    instance = Durably(
        database, jobs=jobs.make_jobs(effects, folder), runtime=runtime, store=store, **options
    )
    if config.get("keep_logs"):
        instance.use(with_log_persistence())
    return instance, plan


def effects_of(config: dict[str, Any]) -> Path:
    """Where the effects file is."""
    return Path(config.get("effects") or Path(config["folder"]) / "effects")


def limit_files(config: dict[str, Any]) -> None:
    """For a while, no file may grow beyond so many bytes."""
    if "file_limit" in config:
        _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (config["file_limit"], most))
        lift = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (most, most))
        asyncio.get_running_loop().call_later(config["limit_for"], lift)


async def work(config: dict[str, Any]) -> None:
    """A worker that also triggers runs, until it is killed, told to stop, or all is done."""
    effects = Effects(effects_of(config))
    limit_files(config)
    instance, _ = build(config, effects)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    await instance.init()
    effects.write("ready")
    keeper = asyncio.create_task(jobs.Keeper(instance, effects, config).keep())
    told = asyncio.create_task(stop.wait())
    busy = {told, asyncio.create_task(_until_done(instance, keeper))}
    if not config.get("until_done"):
        busy = {told, keeper}
    while told not in (await asyncio.wait(busy, return_when=asyncio.FIRST_COMPLETED))[0]:
        if config.get("until_done") or config.get("triggers_only"):
            break
        keeper.result()
        busy = {told}
    for task in (keeper, told, *busy):
        task.cancel()
    await instance.stop(config.get("grace", 25.0))
    effects.write("stopped")


async def _until_done(instance: Durably, keeper: asyncio.Task[None]) -> None:
    await keeper
    while await instance.get_runs(status=["pending", "running"], limit=1):
        await asyncio.sleep(0.01)


async def drive(config: dict[str, Any]) -> None:
    """Scenarios, one after the other: each is a caller's program, run from its beginning."""
    for case in config["cases"]:
        folder = Path(case["folder"])
        folder.mkdir(exist_ok=True)
        settings = {**config, **case}
        effects = Effects(effects_of(settings))
        instance, plan = build(settings, effects)
        started = time.monotonic()
        try:
            await asyncio.wait_for(
                scenarios.play(settings["scenario"], instance, effects, plan, folder), 60.0
            )
        except Exception as error:
            effects.write("raised", type(error).__name__, str(error).replace(" ", "_"))
            logger.exception("%s", case)
        finally:
            plan.fault = None
            await instance.stop(0)
        effects.write("took", round(time.monotonic() - started, 3))
        effects.write("labels", *plan.labels)
        effects.write("injected", plan.injected)


def main() -> None:
    """Wait for the orders: one line of JSON."""
    print("warm", flush=True)
    line = sys.stdin.readline()
    if not line:
        return
    config = json.loads(line)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    role = {"work": work, "drive": drive}[config["role"]]
    asyncio.run(role(config))


if __name__ == "__main__":
    main()
