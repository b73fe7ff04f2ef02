"""A job that kills or stops its own process half-way through a step, on its first attempt.

As a script: a worker in a process of its own, on the database and the input that it is given.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

from pydantic import BaseModel

from durably import Durably, Step, job


class Import(BaseModel):
    effects: str
    """A file that each effect is appended to: the only truth about what ran."""
    signal: str = "SIGKILL"


class Imported(BaseModel):
    rows: int


def note(path: str, line: str) -> None:
    with Path(path).open("a") as file:
        file.write(f"{line}\n")


def effects(path: Path | str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def wait_until_stopped(child: subprocess.Popen[bytes]) -> None:
    """Until the child has stopped itself with SIGSTOP."""
    _, status = os.waitpid(child.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)


is_mortal = False  # the process of the tests itself is not


@job("import-rows")
async def import_rows(step: Step, input: Import) -> Imported:
    note(input.effects, "body")

    def fetch() -> list[int]:
        note(input.effects, "fetch")
        return [1, 2, 3]

    def save() -> int:
        note(input.effects, "save: first half")
        if step.attempt == 1 and is_mortal:
            os.kill(os.getpid(), getattr(signal, input.signal))
        note(input.effects, "save: second half")
        return 3

    def notify() -> None:
        note(input.effects, "notify")

    rows = await step.run("fetch", fetch)
    await step.run("save", save)
    await step.run("notify", notify)
    return Imported(rows=len(rows))


async def main(database: str, run_input: str) -> None:
    durably = Durably(database, polling_interval=0.05, heartbeat_interval=0.05, stale_threshold=0.3)
    handle = durably.register(import_rows)
    async with durably:
        await handle.trigger_and_wait(Import.model_validate_json(run_input))


if __name__ == "__main__":
    is_mortal = True
    asyncio.run(main(sys.argv[1], sys.argv[2]))
