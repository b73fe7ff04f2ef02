"""``durably completion``: real shells are asked what they complete."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from durably.cli import main

ASK = """
source ./script
complete -p durably
for line in "$@"; do
  read -ra COMP_WORDS <<< "$line"
  [[ $line == *" " ]] && COMP_WORDS+=("")
  COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
  _durably
  echo "${COMPREPLY[*]}"
done
"""


@pytest.fixture
def script(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    assert main(["completion", "bash"]) == 0
    (tmp_path / "script").write_text(capsys.readouterr().out)
    return tmp_path


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes_commands_options_and_choices(script: Path) -> None:
    lines = {
        "durably do": "doctor",
        "durably runs re": "retry retrigger",
        "durably --url x runs list --sta": "--status",
        "durably runs list --status ": "pending running waiting completed failed cancelled",
        "durably runs list --status failed --dr": "",
        "durably runs cancel --job runs --dr": "--dry-run",
        "durably runs list --job ": "",
        "durably completion z": "zsh",
        "durably codegen ": "-h --help --debug ts",
    }
    asked = subprocess.run(
        ["bash", "--norc", "-c", ASK, "ask", *lines],
        cwd=script,
        capture_output=True,
        text=True,
        check=True,
    )
    assert asked.stderr == ""
    registered, *answers = asked.stdout.splitlines()
    assert registered == "complete -o bashdefault -o default -F _durably durably"
    assert dict(zip(lines, answers, strict=True)) == lines


@pytest.mark.skipif(shutil.which("zsh") is None, reason="there is no zsh")
def test_zsh_takes_its_script(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "zsh"]) == 0
    (tmp_path / "script").write_text(capsys.readouterr().out)
    program = "autoload -U compinit; compinit -D; source ./script; print $_comps[durably]"
    asked = subprocess.run(
        ["zsh", "-f", "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert (asked.stdout, asked.stderr) == ("_durably\n", "")
