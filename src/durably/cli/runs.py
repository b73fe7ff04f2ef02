"""The commands that look at runs and move them: ``runs …``, ``logs``, ``steps``, ``jobs``, ``migrate``."""

from __future__ import annotations

import sys
from argparse import ArgumentTypeError, Namespace
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from ..durably import Durably
from ..errors import RunNotFoundError
from ..events import LogWrite
from ..models import LogEntry, Run
from ..terminal import clean, clean_lines
from .home import Home, named_home, need_driver, newest_schema, opened
from .remote import connected, named_url
from .show import brief, plain, plain_run, print_json, print_table, when
from .target import UsageError, load_durably

if TYPE_CHECKING:
    from ..client import DurablyClient

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_PAGE = 1000
_SOME_SERVER = "postgresql://"


@asynccontextmanager
async def _place(args: Namespace) -> AsyncGenerator[Durably | DurablyClient]:
    """Where the runs are: a database, or a server. Both have the same methods."""
    if (url := named_url(args)) is not None:
        async with connected(url, args) as client:
            yield client
        return
    async with _database(args) as durably:
        yield durably


@asynccontextmanager
async def _database(args: Namespace) -> AsyncGenerator[Durably]:
    async with opened(named_home(args)) as durably:
        yield durably


def duration(text: str) -> float:
    """``90``, ``45s``, ``30m``, ``12h``, ``7d`` or ``4w``, in seconds."""
    number, unit = (text[:-1], _UNITS[text[-1]]) if text[-1:] in _UNITS else (text, 1)
    try:
        seconds = float(number) * unit
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise ArgumentTypeError(f"{text!r} is no duration; write 90, 45s, 30m, 12h or 7d")
    return seconds


def label(text: str) -> tuple[str, str]:
    """``NAME=VALUE``."""
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise ArgumentTypeError(f"{text!r} is no label; write NAME=VALUE")
    return name, value


# -- runs


async def list_runs(args: Namespace) -> int:
    """The newest runs that match."""
    async with _place(args) as durably:
        found = await durably.get_runs(
            job=args.job,
            status=args.status,
            labels=dict(args.label),
            limit=args.limit,
            cursor=args.cursor,
        )
    if args.json:
        print_json([plain_run(run) for run in found])
        return 0
    head = ("ID", "JOB", "STATUS", "PROGRESS", "ATTEMPT", "CREATED", "KEY")
    print_table(head, (_run_row(run) for run in found))
    if len(found) == args.limit:
        print(f"more: --cursor {found[-1].cursor}", file=sys.stderr)
    return 0


def _run_row(run: Run) -> tuple[Any, ...]:
    key = run.idempotency_key
    return (run.id, run.job, run.status, _far(run), run.attempt, when(run.created_at), key)


def _far(run: Run) -> str:
    if run.progress is None:
        return ""
    total = "" if run.progress.total is None else f"/{run.progress.total:g}"
    return f"{run.progress.current:g}{total}"


async def show_run(args: Namespace) -> int:
    """All that is kept of one run."""
    async with _place(args) as durably:
        run = await _find(durably, args.run_id)
    _print_run(run, as_json=args.json)
    return 0


async def _find(durably: Durably | DurablyClient, run_id: str) -> Run:
    run = await durably.get_run(run_id)
    if run is None:
        raise RunNotFoundError(run_id)
    return run


def _print_run(run: Run, *, as_json: bool) -> None:
    found = plain_run(run)
    if as_json:
        print_json(found)
        return
    del found["cursor"], found["error"]
    for name, value in found.items():
        if value not in (None, {}, ""):
            print(f"{name:16} {clean(value if isinstance(value, str) else brief(value))}")
    if run.error is not None:
        print(f"{'error':16} {clean(str(run.error))}")
        print(f"{'failed in step':16} {clean(run.error.step or '-')}")
        print(clean_lines(run.error.traceback or ""))


async def retry(args: Namespace) -> int:
    """Resume a failed or cancelled run."""
    async with _place(args) as durably:
        run = await durably.retry(args.run_id)
    return _moved(args, run, "is pending again; a worker resumes it from its checkpoints")


async def retrigger(args: Namespace) -> int:
    """Start a run over, as a new one."""
    if args.app is None and named_url(args) is None:
        raise UsageError("pass --app MODULE:DURABLY, which knows the job, or --url")
    async with _place(args) as durably:
        run = await durably.retrigger(args.run_id)
    return _moved(args, run, f"is pending: {args.run_id} over again")


async def cancel(args: Namespace) -> int:
    """Stop a run."""
    async with _place(args) as durably:
        run = await durably.cancel(args.run_id)
    return _moved(args, run, "is cancelled")


def _moved(args: Namespace, run: Run, what: str) -> int:
    if args.json:
        print_json(plain_run(run))
    else:
        print(f"run {run.id} {what}")
    return 0


async def delete(args: Namespace) -> int:
    """Delete a run that is over."""
    async with _place(args) as durably:
        await durably.delete_run(args.run_id)
    if args.json:
        print_json({"deleted": args.run_id})
    else:
        print(f"run {args.run_id} is deleted")
    return 0


async def purge(args: Namespace) -> int:
    """Delete the runs that ended long ago."""
    if not (args.db or args.app) and named_url(args):
        raise UsageError("a server purges no runs; pass --db or --app")
    async with _database(args) as durably:
        count = await durably.purge_runs(older_than=args.older_than)
    if args.json:
        print_json({"purged": count})
    else:
        print(f"{count} runs are deleted")
    return 0


# -- what a run left behind


async def steps(args: Namespace) -> int:
    """The steps of a run that completed or failed."""
    async with _place(args) as durably:
        found = await durably.get_steps(args.run_id)
    if args.json:
        print_json([plain(step) for step in found])
        return 0
    rows = (
        (
            step.index,
            step.name,
            step.status,
            step.attempt,
            f"{(step.completed_at - step.started_at).total_seconds():.3f}",
            step.error or brief(step.output),
        )
        for step in found
    )
    print_table(("#", "STEP", "STATUS", "ATTEMPT", "SECONDS", "RESULT"), rows)
    return 0


async def logs(args: Namespace) -> int:
    """The kept log lines of a run; with ``--follow``, those to come as well."""
    async with _place(args) as durably:
        run = await _find(durably, args.run_id)
        if args.follow:
            return await _follow(durably, args)
        found = [entry async for entry in _all_logs(durably, run.id)]
    if args.json:
        print_json([plain(entry) for entry in found])
    else:
        for entry in found:
            _print_log(entry)
        if not found:
            _say(
                "no log lines are kept of this run; durably.use(with_log_persistence()) keeps them"
            )
    return 0


async def _all_logs(durably: Durably | DurablyClient, run_id: str) -> AsyncIterator[LogEntry]:
    after = 0
    while page := await durably.get_logs(run_id, after=after, limit=_PAGE):
        for entry in page:
            yield entry
        after = int(page[-1].id.rpartition(":")[2])


async def _follow(durably: Durably | DurablyClient, args: Namespace) -> int:
    async for event in durably.subscribe(args.run_id):
        if isinstance(event, LogWrite):
            entry = _entry(event)
            if args.json:
                print_json(plain(entry), indent=None)
            else:
                _print_log(entry)
    run = await durably.get_run(args.run_id)
    _say(f"run {args.run_id} {run.status if run else 'was deleted'}")
    return 0


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


def _print_log(entry: LogEntry) -> None:
    where = f" [{clean(entry.step_name)}]" if entry.step_name else ""
    data = "" if entry.data is None else f" {clean(brief(entry.data))}"
    print(
        f"{when(entry.timestamp)} {entry.level:7}{where} {clean(entry.message)}{data}", flush=True
    )


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
        print_table(("JOB", "KIND", "INPUT", "OUTPUT"), map(_job_row, found))
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
    from ..store.postgres.migrating import migration_sql

    return migration_sql(home.options.schema, after=args.after)
