"""A job kills its own process in the middle; the next process goes on where it was."""

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from durably import Durably, Step, job

CITIES = ["Oslo", "Lima", "Rome", "Kyiv"]


def look_up(city: str) -> int:
    print("  looking up", city, flush=True)
    return len(city)


@job("look-up-cities")
async def look_up_cities(step: Step, cities: list[str]) -> int:
    print(f"attempt {step.attempt}", flush=True)
    total = 0
    for city in cities:
        if step.attempt == 1 and city == "Rome":
            print("  killed", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)  # no clean-up, no good-bye
        total += await step.run(f"look-up-{city}", look_up, city)
    return total


async def work(database: str) -> None:
    durably = Durably(database)
    handle = durably.register(look_up_cities)
    async with durably:
        run = await handle.trigger_and_wait(CITIES, idempotency_key="cities")
        print(f"{run.status}: {run.output} letters", flush=True)


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        for _ in range(2):  # the same command twice; the first one dies
            command = [sys.executable, __file__, str(Path(directory) / "jobs.db")]
            code = subprocess.run(command, check=False).returncode
            print(f"the process ended with {code}", flush=True)


if __name__ == "__main__":
    asyncio.run(work(sys.argv[1])) if len(sys.argv) > 1 else main()
