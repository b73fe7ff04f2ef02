"""The commands that execute jobs: ``run`` and ``worker``."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from argparse import Namespace
from contextlib import suppress
from dataclasses import replace
from typing import Any

from ..durably import Durably, engine_of, with_log_persistence
from ..errors import StorageError
from ..events import RunProgress
from ..jobs.job import Job
from ..jobs.trigger import missing_input
from ..models import Run
from ..state import Status
from ..telemetry.logs import RUNS
from ..terminal import Show, clean, open_bar
from ..values.codec import Unstorable
from .home import home, home_of
from .logs import set_up
from .show import plain_run, print_json
from .signals import STOPPING, Signals, unless
from .target import UsageError, load_durably, load_job

logger = logging.getLogger("durably")

_LOOK = 1.0  # seconds between two looks at whether the worker still works


# -- run


async def run(args: Namespace) -> int:
    """Trigger a run and work until it is over."""
    job, app = load_job(args.job)
    value = _read_input(job, args.input)
    where = home(args.db, args.schema) if args.db or app is None else home_of(app)
    durably = replace(where, jobs=[job]).instance(worker=True)
    durably.use(with_log_persistence())
    _log_of_run(args)
    signals = Signals(durably.expect_stop)
    await durably.init()
    try:
        started = await _start(durably, job, value, args.key)
        with open_bar(job.name) as show:
            if not await unless(signals.first, _follow(durably, started.id, show)):
                return _hand_back(started, signals)
        done = await durably.get_run(started.id)
    finally:
        await unless(signals.second, durably.stop(0))
    return _tell_result(done, started, as_json=args.json)


def _log_of_run(args: Namespace) -> None:
    """Warnings; that the run failed is the command's own last line, unless a level was chosen."""
    handler = set_up(args, "warning")
    if args.log_level is None and not args.debug:
        handler.addFilter(lambda at: at.name != RUNS or vars(at).get("status") != "failed")


def _read_input(job: Job[Any, Any], text: str | None) -> Any:
    if text == "-":
        text = sys.stdin.read()
    if text is None:
        text = job.default
    if text is None and job.takes_input:
        raise UsageError(str(missing_input(job, "give it as JSON")))
    text = "null" if text is None else text
    try:
        json.loads(text)
    except ValueError as error:
        raise UsageError(f"the input is not JSON: {error}") from None
    try:
        return job.input.parse(text)
    except Unstorable as problem:
        raise UsageError(f"the input does not fit job {job.name!r}: {problem}") from None


async def _start(durably: Durably, job: Job[Any, Any], value: Any, key: str | None) -> Run:
    """The run of the key, resumed if it had ended without a result, or a new one."""
    run: Run = await durably.register(job).trigger(value, idempotency_key=key)
    if run.disposition == "idempotent" and run.input != value:
        logger.warning("key %r is known: its run keeps the input that it had", key)
    if run.status in (Status.FAILED, Status.CANCELLED):
        run = await durably.retry(run.id)
    return run


async def _follow(durably: Durably, run_id: str, show: Show) -> None:
    async for event in durably.subscribe(run_id):
        if isinstance(event, RunProgress):
            show(event.progress)


def _hand_back(run: Run, signals: Signals) -> int:
    how = (
        f"the same --key {run.idempotency_key}" if run.idempotency_key else "any worker of its job"
    )
    print(f"durably: run {run.id} was handed back; {how} resumes it", file=sys.stderr)
    return signals.exit_code


def _tell_result(done: Run | None, started: Run, *, as_json: bool) -> int:
    if done is None:
        print(f"durably: error: run {started.id} was deleted", file=sys.stderr)
        return 1
    if as_json:
        print_json(plain_run(done))
    elif done.status == Status.COMPLETED:
        print_json(done.output)
    if done.status == Status.COMPLETED:
        return 0
    why = f": {clean(str(done.error))}" if done.error else ""
    where = f" in step {clean(done.error.step)!r}" if done.error and done.error.step else ""
    print(f"durably: error: run {done.id} {done.status}{where}{why}", file=sys.stderr)
    return 1


# -- worker


async def worker(args: Namespace) -> int:
    """Work until a signal, or until nothing is due."""
    if args.max_runs is not None and not args.until_idle:
        raise UsageError("--max-runs is for --until-idle; add it, or leave --max-runs out")
    set_up(args)
    durably = load_durably(args.durably)
    if not durably.jobs:
        raise UsageError(f"{args.durably} has no jobs; import the modules that register them")
    engine_of(durably).set_worker(max_concurrent_runs=args.concurrency)
    signals = Signals(durably.expect_stop)
    if args.until_idle:
        return await _work_until_idle(durably, signals, args.max_runs)
    await durably.init()
    while not signals.first.is_set():
        if not durably.is_working:
            raise StorageError(
                f"the worker on {durably.shown_database} had to stop; its log says why"
            )
        with suppress(TimeoutError):
            await asyncio.wait_for(signals.first.wait(), _LOOK)
    logger.info(STOPPING, args.grace)
    if await unless(signals.second, durably.stop(args.grace)):
        return 0
    return signals.exit_code


async def _work_until_idle(durably: Durably, signals: Signals, most: int | None) -> int:
    try:
        if await unless(signals.first, durably.run_until_idle(most)):
            return _tell_failed(durably)
    finally:
        await unless(signals.second, durably.stop(0))
    return signals.exit_code


def _tell_failed(durably: Durably) -> int:
    """1 if runs failed here, which cron is to notice; a run that was retried since counts as well."""
    ended = engine_of(durably).metrics.ended.items()
    if failed := sum(count for (_, status), count in ended if status == Status.FAILED):
        print(f"durably: error: {failed} of the runs failed", file=sys.stderr)
        return 1
    return 0


# -- demo


def demo(args: Namespace) -> int:
    """Kill a worker and resume its run."""
    from ..demo import Options, run_demo

    return run_demo(Options(fresh=args.fresh, tests=args.all, limit=args.limit), open_bar)
