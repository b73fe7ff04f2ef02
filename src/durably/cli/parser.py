"""The command line's words: every command, its arguments, its help with an example."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib.metadata import version
from typing import Any, NoReturn

from ..options import MAX_NUMBER
from ..state import Status
from . import bundle, listing, logs, moves, runs, serve, work
from .codegen import codegen
from .completion import completion
from .copy import copy
from .doctor import doctor
from .home import DEFAULT, VARIABLE
from .remote import TOKEN, URL, header
from .target import UsageError

EXIT_CODES = """\
exit codes:
  0    done
  1    the run failed or was cancelled, or a run failed while 'worker --until-idle' worked; what was
       asked cannot be done, for one of several runs at least; doctor found something wrong
  2    bad arguments: an unknown option, MODULE cannot be imported, the input does not fit
  3    the database: missing, older or newer schema, locked, damaged; the server: not reached, failed
  70   a fault in durably itself (--debug shows where)
  130  interrupted by SIGINT (143: by SIGTERM); 'run', 'worker' and 'serve' handed their runs back
"""


_RUN = "a run's id, its first 8 or more characters, or its short form from 'runs list'"


class Parser(argparse.ArgumentParser):
    """Raises what is wrong, for ``main`` to say in one line."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see '{self.prog} --help')")


Commands = Any  # argparse keeps the type of add_subparsers to itself
Group = Any  # and that of its groups


def _add(
    commands: Commands, name: str, command: Callable[..., Any], help: str, example: str
) -> Parser:
    parser: Parser = commands.add_parser(
        name,
        help=help,
        description=f"{help[0].upper()}{help[1:]}.",
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=command)
    parser.add_argument(
        "--debug",
        action="store_true",
        help="show the traceback of an error, with the frames of Durably itself",
    )
    return parser


def _json(parser: Parser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON, with stable keys")


def _database(parser: Parser, *, or_server: bool = True) -> None:
    """Where the runs are. Without ``or_server`` only in a database."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--db", metavar="DB",
                       help=f"the database: a file or postgresql://… (${VARIABLE}, ./{DEFAULT})")  # fmt: skip
    _app(group)
    _schema(parser)
    if or_server:
        _server(parser, group)


def _schema(parser: Parser) -> None:
    parser.add_argument("--schema", default="", metavar="NAME",
                        help="PostgreSQL schema that holds Durably's tables (default: the role's search_path)")  # fmt: skip


def _app(group: Group) -> None:
    group.add_argument("--app", metavar="MODULE:DURABLY", help="the instance whose database it is")


def _server(parser: Parser, group: Group) -> None:
    # SUPPRESS: options before the command's name are kept.
    group.add_argument("--url", metavar="URL", default=argparse.SUPPRESS,
                       help=f"the server to ask instead (${URL})")  # fmt: skip
    parser.add_argument("--header", metavar="'NAME: VALUE'", action="append", type=header,
                        default=argparse.SUPPRESS,
                        help=f"sent to the server (${TOKEN}: a bearer token)")  # fmt: skip
    parser.set_defaults(asks_servers=True)


def _number(text: str, least: int, most: int = MAX_NUMBER) -> int | None:
    digits = text.isascii() and text.isdigit() and len(text) <= len(str(MAX_NUMBER))
    return int(text) if digits and least <= int(text) <= most else None


def _positive(text: str) -> int:
    if (number := _number(text, 1)) is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return number


def _natural(text: str) -> int:
    if (number := _number(text, 0)) is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 0 or more")
    return number


def _port(text: str) -> int:
    if (number := _number(text, 0, 65535)) is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: write a number from 0 to 65535")
    return number


def build_parser() -> Parser:
    """The parser of everything; each command's function is in ``args.command``."""
    parser = Parser(
        prog="durably",
        description="Long jobs in durable, resumable steps, on one SQLite file or on PostgreSQL.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"durably {version('durably')}")
    parser.add_argument("--url", metavar="URL", help=argparse.SUPPRESS)
    parser.add_argument("--header", action="append", type=header, help=argparse.SUPPRESS)
    parser.set_defaults(asks_servers=False)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_demo(commands)
    _add_run(commands)
    _add_worker(commands)
    _add_serve(commands)
    _add_codegen(commands)
    _add_bundle(commands)
    _add_runs(commands)
    _add_history(commands)
    _add_upkeep(commands)
    _add_copy(commands)
    _add_completion(commands, parser)
    return parser


def _add_demo(commands: Commands) -> None:
    what = "index Python's standard library, kill the worker in the middle, resume, check"
    demo = _add(commands, "demo", work.demo, what, "durably demo --fresh")
    demo.add_argument("--fresh", action="store_true", help="forget an interrupted demo first")
    demo.add_argument("--all", action="store_true", help="index the library's own tests as well")
    demo.add_argument("--limit", type=_positive, metavar="N", help="index the first N files only")


def _add_run(commands: Commands) -> None:
    what = "trigger a run and work until it is over; its result goes to stdout as JSON"
    example = 'durably run app:sync_users \'{"org_id": "org_1"}\' --key webhook-456'
    run = _add(commands, "run", work.run, what, example)
    run.add_argument("job", metavar="MODULE:JOB", help="a Job, or a handle of one")
    run.add_argument("input", metavar="JSON", nargs="?", help="the input; - reads it from stdin")
    run.add_argument(
        "--key", metavar="K", help="idempotency key: the same key resumes the same run"
    )
    run.add_argument("--db", metavar="DB",
                     help=f"the database (the handle's, ${VARIABLE}, ./{DEFAULT})")  # fmt: skip
    _schema(run)
    run.add_argument("--json", action="store_true", help="print the whole run, not only its result")
    logs.add_arguments(run, "warning")
    run.epilog = (
        f"{run.epilog}\n\nCtrl-C hands the run back; the same --key resumes it.\n\n{EXIT_CODES}"
    )


def _add_worker(commands: Commands) -> None:
    what = "execute runs until SIGTERM or SIGINT; a second signal hands them back at once"
    worker = _add(commands, "worker", work.worker, what, "durably worker app:durably -c 4")
    worker.add_argument("durably", metavar="MODULE:DURABLY", help="the instance with the jobs")
    worker.add_argument(
        "-c", "--concurrency", type=_positive, metavar="N", help="runs at once (the instance's)"
    )
    worker.add_argument(
        "--grace",
        type=runs.duration,
        default=25.0,
        metavar="S",
        help="how long runs may go on after the first signal (25 s)",
    )
    worker.add_argument(
        "--until-idle", action="store_true", help="leave when nothing is due, as for cron"
    )
    worker.add_argument(
        "--max-runs", type=_positive, metavar="N", help="with --until-idle, or after N runs"
    )
    logs.add_arguments(worker, "info")
    worker.epilog = f"{worker.epilog}\n\n{EXIT_CODES}"


def _add_serve(commands: Commands) -> None:
    what = "answer over HTTP, and execute runs, until SIGTERM or SIGINT"
    example = "durably serve app:durably --port 8000"
    server = _add(commands, "serve", serve.serve, what, example)
    server.add_argument("durably", metavar="MODULE:DURABLY", help="the instance with the jobs")
    server.add_argument("--host", default="127.0.0.1", metavar="H", help="listen here (127.0.0.1)")
    server.add_argument(
        "--port",
        type=_port,
        default=8000,
        metavar="N",
        help="and on this port (8000; 0: a free one)",
    )
    server.add_argument("--path", default="/api/durably", metavar="P",
                        help="where the API is (/api/durably)")  # fmt: skip
    server.add_argument("--no-worker", action="store_true", help="execute nothing here")
    server.add_argument("--auth", metavar="MODULE:NAME",
                        help="who may do what: an object with authenticate(request)")  # fmt: skip
    server.add_argument("--public", action="store_true", help="let everybody do everything")
    server.add_argument("--cors", action="append", default=[], metavar="ORIGIN",
                        help="pages of this origin may ask")  # fmt: skip
    server.add_argument("--grace", type=runs.duration, default=1.0, metavar="S",
                        help="how long runs may go on after the first signal (1 s)")  # fmt: skip
    logs.add_arguments(server, "info")
    server.epilog = (
        f"{server.epilog}\n\nA second signal hands the runs back at once. /healthz, /readyz and /metrics "
        f"are also at the root.\n\n{EXIT_CODES}"
    )


def _add_codegen(commands: Commands) -> None:
    what = "write the types of an application's jobs for a page in TypeScript"
    example = "durably codegen ts app:durably > src/jobs.ts"
    parser = _add(commands, "codegen", codegen, what, example)
    parser.add_argument("language", choices=["ts"], help="TypeScript")
    parser.add_argument("durably", metavar="MODULE:DURABLY", help="the instance with the jobs")


def _add_bundle(commands: Commands) -> None:
    what = "write all that a page needs to run jobs in the browser: Pyodide, the wheels, the worker"
    example = "durably browser-bundle public/durably"
    bundle.add_arguments(_add(commands, "browser-bundle", bundle.browser_bundle, what, example))


def _add_runs(commands: Commands) -> None:
    group = commands.add_parser(
        "runs",
        help="list, show, move and delete runs",
        epilog="example:\n  durably runs list --status failed",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    group.add_argument("--debug", action="store_true", help=argparse.SUPPRESS)
    of_runs = group.add_subparsers(metavar="COMMAND", required=True)
    _add_list(of_runs)
    _run_ids(
        _add(of_runs, "show", runs.show_run, "all that is kept of a run", "durably runs show RUN")
    )
    for name, command, help in (
        ("retry", moves.retry, "resume failed or cancelled runs from their checkpoints"),
        ("cancel", moves.cancel, "stop runs"),
        ("delete", moves.delete, "delete runs that are over, with their steps and logs"),
    ):
        _add_move(_add(of_runs, name, command, help, f"durably runs {name} RUN"))
    what = (
        "new runs with the inputs of old ones; the application or the server must know their jobs"
    )
    example = "durably runs retrigger RUN --app app:durably"
    retrigger = _add(of_runs, "retrigger", moves.retrigger, what, example)
    retrigger.set_defaults(db=None, schema="")
    _add_move(retrigger, or_database=False)
    what = "delete the runs that ended long ago"
    purge = _add(of_runs, "purge", runs.purge, what, "durably runs purge --older-than 30d")
    purge.add_argument("--older-than", type=runs.duration, required=True, metavar="AGE",
                       help="90, 45s, 30m, 12h or 7d")  # fmt: skip
    purge.add_argument("--limit", type=_positive, metavar="N",
                       help="at most N, those that ended first")  # fmt: skip
    _database(purge, or_server=False)
    _json(purge)


def _add_list(commands: Commands) -> None:
    example = "durably runs list --status failed --since 1d --error timeout"
    parser = _add(commands, "list", listing.list_runs, "the newest runs", example)
    _filters(parser)
    parser.add_argument("--limit", type=_positive, default=50, metavar="N", help="at most N (50)")
    parser.add_argument("--cursor", metavar="C", help="go on after the run with this cursor")
    _database(parser)
    _json(parser)


def _filters(parser: Parser) -> None:
    parser.add_argument("--job", action="append", default=[], metavar="NAME", help="of this job")
    parser.add_argument("--status", action="append", default=[], choices=[status.value for status in Status], metavar="S",
                        help=", ".join(Status))  # fmt: skip
    parser.add_argument("--label", action="append", default=[], type=runs.label,
                        metavar="NAME=VALUE", help="with this label")  # fmt: skip
    parser.add_argument("--since", type=runs.since, metavar="WHEN",
                        help="created since then: an age, as 90s, 30m, 12h or 7d, or a time, as 2026-01-31T08:00Z")  # fmt: skip
    parser.add_argument("--error", metavar="TEXT",
                        help="with this text in their error, in upper or lower case")  # fmt: skip


def _add_move(parser: Parser, *, or_database: bool = True) -> None:
    """Runs by id or by filters, for a command that changes them."""
    parser.add_argument("run_ids", metavar="RUN", nargs="*", help=_RUN)
    _filters(parser)
    parser.add_argument("--limit", type=_positive, metavar="N", help="with filters, at most N")
    parser.add_argument("--dry-run", action="store_true", help="list and count the runs instead")
    parser.add_argument("--yes", action="store_true", help="do not ask before many are changed")
    if or_database:
        _database(parser)
    else:
        group = parser.add_mutually_exclusive_group()
        _app(group)
        _server(parser, group)
    _json(parser)
    parser.epilog = (
        f"{parser.epilog}\n\nName the runs, or choose them with filters. Those that filters match are listed, and changed once "
        "you\nconfirm it; a script passes --yes."
    )


def _run_ids(parser: Parser) -> None:
    parser.add_argument("run_ids", metavar="RUN", nargs="+", help=_RUN)
    _database(parser)
    _json(parser)


def _add_history(commands: Commands) -> None:
    logs = _add(commands, "logs", runs.logs, "the kept log lines of a run", "durably logs RUN -f")
    logs.add_argument("-f", "--follow", action="store_true",
                      help="go on until the run is over; with --json, one object a line")  # fmt: skip
    _run_ids(logs)
    what = "the steps of a run that completed or failed"
    _run_ids(_add(commands, "steps", runs.steps, what, "durably steps RUN"))
    what = "the jobs that an application registers, or that a server knows"
    jobs = _add(commands, "jobs", runs.jobs, what, "durably jobs app:durably --json")
    jobs.add_argument("durably", nargs="?", metavar="MODULE:DURABLY",
                      help="the instance with the jobs")  # fmt: skip
    _server(jobs, jobs)
    _json(jobs)


def _add_copy(commands: Commands) -> None:
    what = "copy all runs and their journals into a new database, while nobody works on either"
    example = "durably copy jobs.db postgresql://app@db.internal/app --retire"
    parser = _add(commands, "copy", copy, what, example)
    for name in ("source", "target"):
        parser.add_argument(name, metavar=name.upper(), help="a file or postgresql://…")
        parser.add_argument(f"--{name}-schema", default="", metavar="NAME",
                            help=f"on PostgreSQL, where the {name}'s tables are")  # fmt: skip
    parser.add_argument("--retire", action="store_true",
                        help="mark the source, so that no Durably opens it any more")  # fmt: skip
    parser.add_argument("--force", action="store_true",
                        help="although other processes have the source open")  # fmt: skip
    _json(parser)
    parser.epilog = (
        f"{parser.epilog}\n\nAll or nothing: what was interrupted is repeated. Unfinished runs go on from their "
        "checkpoints.\nBoth sides' counts and checksums are printed."
    )


def _add_completion(commands: Commands, parser: Parser) -> None:
    what = "print a script by which the shell completes commands and options"
    command = _add(commands, "completion", completion, what, "durably completion bash")
    command.add_argument("shell", choices=["bash", "zsh"])
    command.set_defaults(parser=parser)
    command.epilog = (
        f'{command.epilog}\n\nIn ~/.bashrc: eval "$(durably completion bash)"\n'
        'In ~/.zshrc, after compinit: eval "$(durably completion zsh)"'
    )


def _add_upkeep(commands: Commands) -> None:
    what = "bring a database up to date; makes the file if there is none"
    migrate = _add(commands, "migrate", runs.migrate, what, "durably migrate --db jobs.db")
    migrate.add_argument("--sql", action="store_true",
                         help="print PostgreSQL's migrations instead, for a tool of your own")  # fmt: skip
    migrate.add_argument("--after", type=_natural, default=0, metavar="N",
                         help="with --sql, only those after number N")  # fmt: skip
    what = (
        "look for what is wrong with a database and its runs, and say what to do; changes nothing"
    )
    check = _add(commands, "doctor", doctor, what, "durably doctor --db jobs.db")
    for parser in (migrate, check):
        _database(parser, or_server=False)
        _json(parser)
