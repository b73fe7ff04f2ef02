"""Run a test's Node script: parameters in, a JSON value out, and nothing left running."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import uuid
from pathlib import Path
from typing import Any

from . import npm, processes


class NodeError(AssertionError):
    """The script failed; the message is what it wrote to stderr."""


def run(script: Path, parameters: Any = None, *, timeout: float = 60.0) -> Any:
    """What ``script`` answers to ``parameters``: the JSON of the last line that it prints.

    It gets them as JSON in ``process.argv[2]``, and finds the project's packages through
    ``NODE_MODULES`` (the folder) wherever the script lies. After ``timeout`` seconds, and in any
    case at the end, the script and all that it started are killed.
    """
    modules = npm.installed()
    mark = uuid.uuid4().hex
    with subprocess.Popen(
        [npm.node(), str(script), json.dumps(parameters)],
        cwd=script.parent,
        env={**os.environ, "NODE_MODULES": str(modules), processes.MARK: mark},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as child:
        try:
            out, err = child.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            processes.end(mark)
            out, err = child.communicate()
            raise NodeError(
                f"{script.name} did not end within {timeout:g} s:\n{out}{err}"
            ) from None
        finally:
            processes.end(mark)
    if child.returncode != 0:
        raise NodeError(f"{script.name} exited with {child.returncode}:\n{out}{err}")
    return json.loads(out.strip().rpartition("\n")[2] or "null")
