"""The commands that read runs, and their upkeep: ``runs show``, ``purge``, ``logs``, ``steps``, ``jobs``, ``migrate``."""

from __future__ import annotations

import asyncio
import sys
from argparse import ArgumentTypeError, Namespace
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from ..durably import Durably
from ..errors import RunNotFoundError
from ..events import LogWrite
from ..models import LogEntry, Run, StepRecord
from ..options import MAX_DURATION
from ..terminal import clean, clean_lines
from .connect import Runs, connect, connect_database
from .hints import completed
from .home import Home, named_home, need_driver, newest_schema
from .ids import resolve_all, shorten
from .remote import connected, named_url
from .show import brief, plain, plain_run, print_json, print_table, when
from .target import UsageError, load_durably
from .why import explain

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_PAGE = 1000
_SOME_SERVER = "postgresql://"


def duration(text: str) -> float:
    """``90``, ``45s``, ``30m``, ``12h``, ``7d`` or ``4w``, in seconds."""
    number, unit = (text[:-1], _UNITS[text[-1]]) if text[-1:] in _UNITS else (text, 1)
    try:
        seconds = float(number) * unit
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= MAX_DURATION:
        raise ArgumentTypeError(f"{text!r} is not a duration: write 90, 45s, 30m, 12h or 7d")
    return seconds


def since(text: str) -> datetime:
    """An age, as ``duration`` reads it, or an ISO time; without an offset it is UTC, as printed times are."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        try:
            return datetime.now(UTC) - timedelta(seconds=duration(text))
        except (ArgumentTypeError, OverflowError):
            raise ArgumentTypeError(
                f"{text!r} is neither an age nor a time; write 30m, 12h, 7d or 2026-01-31T08:00"
            ) from None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def label(text: str) -> tuple[str, str]:
    """``NAME=VALUE``."""
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise ArgumentTypeError(f"{text!r} is not a label: write NAME=VALUE")
    return name, value


# -- runs


async def show_run(args: Namespace) -> int:
    """All that is kept of runs."""
    async with connect(args, read_only=True) as runs:
        found = [await find(runs, run_id) for run_id in await resolve_all(runs, args.run_ids)]
        if args.json:
            print_json(_of_ids(args, [plain_run(run) for run in found]))
            return 0
        home = named_home(args) if isinstance(runs, Durably) else None
        for i, run in enumerate(found):
            if i:
                print()
            _print_run(run, await explain(runs, run, home, args), args)
    return 0


async def find(runs: Runs, run_id: str) -> Run:
    """The run of an id. Raises ``RunNotFoundError``."""
    run = await runs.get_run(run_id)
    if run is None:
        raise RunNotFoundError(run_id)
    return run


def _of_ids(args: Namespace, values: list[Any]) -> Any:
    """The JSON about the runs that were named: of a single one it is no list."""
    return values[0] if len(args.run_ids) == 1 else values


def _print_run(run: Run, reasons: list[str], args: Namespace) -> None:
    found = plain_run(run)
    del found["cursor"], found["error"]
    for name, value in found.items():
        if value not in (None, {}, "") and value is not False:
            print(f"{name:16} {clean(value if isinstance(value, str) else brief(value))}")
        if name == "status":
            for reason in reasons:
                print(f"{'':16} {clean(completed(reason, args))}")
    if run.error is not None:
        print(f"{'error':16} {clean(str(run.error))}")
        print(f"{'failed in step':16} {clean(run.error.step or '-')}")
        print(clean_lines(run.error.traceback or ""))


async def purge(args: Namespace) -> int:
    """Delete the runs that ended long ago."""
    if not (args.db or args.app) and named_url(args):
        raise UsageError("a server purges no runs; pass --db or --app")
    async with connect_database(args) as durably:
        count = await durably.purge_runs(older_than=args.older_than, limit=args.limit)
    if args.json:
        print_json({"purged": count})
    else:
        print(f"{count} runs are deleted")
    return 0


# -- what a run left behind


async def steps(args: Namespace) -> int:
    """The steps of runs that completed or failed."""
    async with connect(args, read_only=True) as runs:
        ids = await resolve_all(runs, args.run_ids)
        found = [await runs.get_steps(run_id) for run_id in ids]
    if args.json:
        print_json(_of_ids(args, [[plain(step) for step in steps] for steps in found]))
        return 0
    for run_id, steps in zip(ids, found, strict=True):
        if len(ids) > 1:
            print(f"run {run_id}")
        _print_steps(steps)
    return 0


def _print_steps(steps: list[StepRecord]) -> None:
    rows = (
        (
            step.index,
            step.name,
            step.status,
            step.attempt,
            f"{(step.completed_at - step.started_at).total_seconds():.3f}",
            step.error or brief(step.output),
        )
        for step in steps
    )
    head = ("#", "STEP", "STATUS", "ATTEMPT", "SECONDS", "RESULT")
    print_table(head, rows, ("STEP", "RESULT"))


async def logs(args: Namespace) -> int:
    """The kept log lines of runs; with ``--follow``, those to come as well."""
    async with connect(args, read_only=True) as runs:
        ids = [(await find(runs, id)).id for id in await resolve_all(runs, args.run_ids)]
        # To tell the lines of several runs apart.
        names = dict(zip(ids, shorten(ids), strict=True)) if len(ids) > 1 else {}
        if args.follow:
            async with asyncio.TaskGroup() as group:
                for run_id in ids:
                    group.create_task(_follow(runs, run_id, names, as_json=args.json))
            return 0
        found = [entry for run_id in ids async for entry in _all_logs(runs, run_id)]
    if args.json:
        print_json([plain(entry) for entry in found])
        return 0
    for entry in found:
        _print_log(entry, names)
    for run_id in ids:
        if not any(entry.run_id == run_id for entry in found):
            which = f"run {run_id}" if names else "this run"
            _say(
                f"no log lines are kept of {which}; durably.use(with_log_persistence()) keeps them"
            )
    return 0


async def _all_logs(runs: Runs, run_id: str) -> AsyncIterator[LogEntry]:
    after = 0
    while page := await runs.get_logs(run_id, after=after, limit=_PAGE):
        for entry in page:
            yield entry
        after = int(page[-1].id.rpartition(":")[2])


async def _follow(runs: Runs, run_id: str, names: Mapping[str, str], *, as_json: bool) -> None:
    async for event in runs.subscribe(run_id):
        if isinstance(event, LogWrite):
            entry = _entry(event)
            if as_json:
                print_json(plain(entry), indent=None)
            else:
                _print_log(entry, names)
    run = await runs.get_run(run_id)
    _say(f"run {run_id} {run.status if run else 'was deleted'}")


def _entry(event: LogWrite) -> LogEntry:
    return LogEntry(
        id=f"{event.run_id}:{event.sequence}",
        run_id=event.run_id,
        step_name=event.step_name,
        level=event.level,
        message=event.message,
        data=event.data,
        timestamp=event.timestamp,
    )


def _print_log(entry: LogEntry, names: Mapping[str, str]) -> None:
    name = f"{names[entry.run_id]} " if names else ""
    where = f" [{clean(entry.step_name)}]" if entry.step_name else ""
    data = "" if entry.data is None else f" {clean(brief(entry.data))}"
    line = f"{name}{when(entry.timestamp)} {entry.level:7}{where} {clean(entry.message)}{data}"
    print(line, flush=True)


def _say(text: str) -> None:
    print(text, file=sys.stderr)


# -- the application, the schema


async def jobs(args: Namespace) -> int:
    """The jobs that an application registers, or that a server knows."""
    url = named_url(args)
    if url is None and not args.durably:
        raise UsageError("pass MODULE:DURABLY, or --url")
    found = _of_app(args.durably) if url is None else await _of_server(url, args)
    found.sort(key=lambda job: str(job["name"]))
    if args.json:
        print_json(found)
    else:
        print_table(
            ("JOB", "KIND", "INPUT", "OUTPUT"), map(_job_row, found), ("JOB", "INPUT", "OUTPUT")
        )
    return 0


def _of_app(spec: str) -> list[dict[str, Any]]:
    return [
        {
            "name": job.name,
            "sync": job.is_sync,
            "takes_input": job.takes_input,
            "input_schema": job.input.schema(),
            "output_schema": job.output.schema(written=True),
        }
        for job in (handle.definition for handle in load_durably(spec).jobs.values())
    ]


async def _of_server(url: str, args: Namespace) -> list[dict[str, Any]]:
    """As of an application, but for what a server does not tell."""
    async with connected(url, args) as client:
        jobs = await client.get_jobs()
    return [
        {
            "name": job.name,
            "sync": None,
            "takes_input": None,
            "input_schema": job.input_schema,
            "output_schema": job.output_schema,
        }
        for job in jobs
    ]


def _job_row(job: dict[str, Any]) -> tuple[str, ...]:
    kind = {True: "def", False: "async def", None: "-"}[job["sync"]]
    input = _type_of(job["input_schema"])
    return job["name"], kind, "-" if input == "null" else input, _type_of(job["output_schema"])


def _type_of(schema: dict[str, Any]) -> str:
    return str(schema.get("title") or schema.get("type") or "any")


async def migrate(args: Namespace) -> int:
    """Bring a database's schema up to date; makes the file if there is none."""
    if args.sql:
        print(_script(args), end="")
        return 0
    home = named_home(args)
    where = home.name
    durably = home.instance()
    await durably.migrate()
    await durably.stop(0)
    if args.json:
        print_json({"database": where, "schema": newest_schema()})
    else:
        print(f"{where} has schema {newest_schema()}")
    return 0


def _script(args: Namespace) -> str:
    """The migrations, for PostgreSQL: nobody has a tool of their own for a file."""
    home = named_home(args) if args.app or args.db else Home(_SOME_SERVER).with_schema(args.schema)
    if not home.is_server:
        raise UsageError(
            f"--sql is for PostgreSQL; 'durably migrate' brings {home.name} up to date"
        )
    need_driver()
    from ..store.postgres.migrate import migration_sql

    return migration_sql(home.options.schema, after=args.after)
