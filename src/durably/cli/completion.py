"""``durably completion``: a script by which a shell completes commands, options and their choices."""

from __future__ import annotations

import argparse
import shlex
from argparse import Namespace
from collections.abc import Iterator
from typing import Any, cast

# ``at`` is the command that the words before the cursor lead to, as " runs list". What begins with (
# in a case is understood by both shells.
_BODY = """\
  for word in {before}; do
    case "$at $word" in
      ({commands}) at="$at $word" ;;
    esac
  done
  case "$at $previous" in
{values}
    (*)
      case "$at" in
{words}
      esac ;;
  esac
"""
_BASH = """\
_durably() {{
  local at= word list= previous="${{COMP_WORDS[COMP_CWORD-1]}}"
{body}\
  COMPREPLY=($(compgen -W "$list" -- "${{COMP_WORDS[COMP_CWORD]}}"))
}}
complete -o bashdefault -o default -F _durably durably
"""
_ZSH = """\
#compdef durably
_durably() {{
  local at= word list= previous="${{words[CURRENT-1]}}"
{body}\
  if [[ -n "$list" ]]; then
    compadd -- ${{=list}}
  else
    _files
  fi
}}
compdef _durably durably
"""
_SHELLS = {
    "bash": (_BASH, '"${COMP_WORDS[@]:1:COMP_CWORD-1}"'),
    "zsh": (_ZSH, '"${(@)words[2,CURRENT-1]}"'),
}

Command = tuple[str, argparse.ArgumentParser]


def completion(args: Namespace) -> int:
    """Print the script."""
    template, before = _SHELLS[args.shell]
    commands = list(_commands("", args.parser))
    body = _BODY.format(
        before=before,
        commands="|".join(shlex.quote(name) for name, _ in commands if name),
        values="\n".join(line for command in commands for line in _values(*command)),
        words="\n".join(
            f"        ({shlex.quote(name)}) list={_words(p)} ;;" for name, p in commands
        ),
    )
    print(template.format(body=body), end="")
    return 0


def _commands(name: str, parser: argparse.ArgumentParser) -> Iterator[Command]:
    """The parser and all below it, by the words that lead there."""
    yield name, parser
    for word, below in _below(parser).items():
        yield from _commands(f"{name} {word}", below)


def _below(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    found: dict[str, argparse.ArgumentParser] = {}
    for action in _actions(parser):
        choices: Any = action.choices
        if isinstance(choices, dict):
            found |= cast("dict[str, argparse.ArgumentParser]", choices)
    return found


def _words(parser: argparse.ArgumentParser) -> str:
    """The commands, choices and options that may follow."""
    words = list(_below(parser))
    for action in _actions(parser):
        if action.help != argparse.SUPPRESS:
            words += action.option_strings
        choices: Any = action.choices
        if not action.option_strings and isinstance(choices, list):
            words += cast("list[str]", choices)
    return shlex.quote(" ".join(words))


def _values(name: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    """What may follow an option that takes a value: its choices, or files."""
    for action in _actions(parser):
        if action.option_strings and action.nargs != 0:
            patterns = "|".join(shlex.quote(f"{name} {option}") for option in action.option_strings)
            yield f"    ({patterns}) list={shlex.quote(' '.join(action.choices or ()))} ;;"


def _actions(parser: argparse.ArgumentParser) -> list[Any]:
    return parser._actions  # pyright: ignore[reportPrivateUsage] - it has no other way
