"""docs/reference/cli.md is the parser's own help; `python -m tests.docs.test_cli_page` writes it anew."""

import argparse
import os
from pathlib import Path

from durably.cli.parser import EXIT_CODES, build_parser

PAGE = Path(__file__).parents[2] / "docs/reference/cli.md"
HEAD = """\
# The command line

`durably` is installed with the package; with `pip install durably[cli]` it draws with rich. Listings take
`--json`. A mistake gives one line on standard error, beginning `durably: error:`; `--debug` shows where it
was raised, and keeps Durably's own frames in every traceback, as `DURABLY_DEBUG=1` does. `MODULE` is imported with the current directory on the path; `MODULE:JOB` is a `Job` or a
handle, `MODULE:DURABLY` an instance. Where a command takes `--db DB`, which is a file or `postgresql://…`, the default is
`$DURABLY_DB`, else `./durably.db`. With `--app`, the command uses the application's own database settings.

Commands that read or change runs can use a remote server: pass `--url URL`, before or after the command's
name, or set `$DURABLY_URL` and pass neither `--db` nor `--app`. `--header 'NAME: VALUE'` is sent with each request;
`$DURABLY_TOKEN` is sent as a bearer token. That needs `pip install durably[client]`, and `durably serve` needs
`pip install durably[server]`.

`RUN` is a run's id, its first 8 or more characters, or the short form that `runs list` prints on a narrow terminal:
`019ad2f8-3c5e..1f0a` is the run whose id begins and ends so. If several runs match, they are listed and nothing is done. Several ids
may be given. With `--json` a single id gives an object, several give a list.

`runs list`, and with it `runs retry`, `cancel`, `retrigger` and `delete`, choose runs with `--status`, `--job`, `--label`, `--since`
and `--error`. The first three are looked up in the database; `--since` and `--error` read the runs that are left, newest first, in
pages. A command that changes runs considers only those whose status allows it. It lists what its filters match and asks first; where
there is no terminal it refuses unless `--yes` is given. `--dry-run` lists and counts. `purge` deletes by age at once.

In a pipe or a file, and from 120 columns on, `runs list` prints whole ids and times. On a narrower terminal it prints short ids and ages,
and a line for each run.

`runs show` says below the status why a run is not moving: behind which run of which concurrency key, delayed until when, whose
lease it waits for, or that no live worker knows its job. It infers the last from what no worker has taken up, and from the processes that
use a file. Of a server (`--url`) it says only whether the server knows the job.

For completion in bash, put `eval "$(durably completion bash)"` into `~/.bashrc`; in zsh, `eval "$(durably completion zsh)"` into
`~/.zshrc`, after `compinit`.

"""


def page() -> str:
    os.environ["COLUMNS"] = "100"
    codes = f"## Exit codes\n\n```text\n{EXIT_CODES}\n```\n"
    return HEAD + codes + "".join(_sections(build_parser()))


def _sections(parser: argparse.ArgumentParser):
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for sub in action.choices.values():
                if not any(isinstance(a, argparse._SubParsersAction) for a in sub._actions):
                    text = sub.format_help().replace(EXIT_CODES, "").strip()
                    yield f"\n## {sub.prog}\n\n```text\n{text}\n```\n"
                yield from _sections(sub)


def test_the_page_is_the_parsers_help():
    assert PAGE.read_text("utf-8") == page(), "run: python -m tests.docs.test_cli_page"


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
