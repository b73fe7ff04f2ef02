"""Commands within messages, completed with the ``--db``, ``--app`` or ``--url`` that was given."""

from __future__ import annotations

import re
import shlex
from argparse import Namespace

from ..store.url import without_password

_COMMAND = re.compile(
    r"\bdurably (?:(?:migrate|doctor)\b|(?:runs [a-z]+|steps|logs) [0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})"
)


def completed(text: str, args: Namespace) -> str:
    """The text with every command in it completed, so that it can be pasted."""
    if getattr(args, "app", None):
        text = text.replace("durably worker MODULE:DURABLY", f"durably worker {args.app}")
    options = given(args)
    return _COMMAND.sub(lambda found: found[0] + options, text) if options else text


def given(args: Namespace) -> str:
    """The options that say where the runs are, as they were given; without a password, for which
    there is PGPASSWORD."""
    options = ""
    for name in ("db", "app", "schema", "url"):
        if value := getattr(args, name, None):
            options += f" --{name} {shlex.quote(without_password(value).replace(':***@', '@'))}"
    return options
