"""Steps side by side. One of them fails; the retry runs that one, and keeps the others."""

import asyncio
import tempfile
from pathlib import Path

from durably import Durably, Step, errors, job

outages = {"page-3": 1}  # how often the third page is down


async def fetch(name: str) -> int:
    await asyncio.sleep(0.05)
    if outages.get(name):
        outages[name] -= 1
        raise ConnectionError(f"{name} is down")
    print("  fetched", name)
    return len(name)


@job("crawl")
async def crawl(step: Step, pages: int) -> int:
    names = [f"page-{i}" for i in range(pages)]
    async with asyncio.TaskGroup() as group:  # asyncio.gather does as well
        tasks = [group.create_task(settle(step, name)) for name in names]
    sizes = [task.result() for task in tasks]
    if missing := [name for name, size in zip(names, sizes, strict=True) if size is None]:
        raise ConnectionError(f"not fetched: {', '.join(missing)}")
    return await step.run("sum", sum, [size for size in sizes if size is not None])


async def settle(step: Step, name: str) -> int | None:
    """Without this, one failing task would have the group cancel the others."""
    try:
        return await step.run(f"fetch-{name}", fetch, name)
    except ConnectionError:
        return None


async def main(database: Path) -> None:
    durably = Durably(database)
    handle = durably.register(crawl)
    async with durably:
        try:
            await handle.trigger_and_wait(5, timeout=30)
        except errors.RunFailedError as error:
            failed = error.run
            print(f"{failed.status}: {failed.error}")
            await durably.retry(failed.id)
            done = await durably.wait(failed, timeout=30)
            print(f"{done.status}: {done.output} after {done.attempt} attempts")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(main(Path(directory) / "jobs.db"))
