"""The demo's job: index the Python files below a directory, fifty at a time. Take it as a model."""

from pathlib import Path

from pydantic import BaseModel

from durably import Step, job

from . import census

BATCH = 50


class Library(BaseModel):
    """Which files to index, and where the index is kept."""

    root: Path
    index: Path
    limit: int | None = None
    tests: bool = True


class Totals(BaseModel):
    """What the files come to."""

    modules: int
    unparsable: int
    classes: int
    functions: int
    lines: int
    most_imported: dict[str, int]


@job("index-stdlib")
async def index_stdlib(step: Step, library: Library) -> Totals:
    """List the files, index them batch by batch, sum up."""
    files = await step.run(
        "list-files", census.find_files, library.root, library.limit, library.tests
    )
    for start in range(0, len(files), BATCH):
        name, batch = f"index-{start:04}", files[start : start + BATCH]
        await step.run(name, index_batch, library, name, batch)
        step.progress(start + len(batch), len(files), batch[-1])
    totals = await step.run("sum-up", sum_up, library)
    step.log.info("indexed", {"files": len(files), "functions": totals.functions})
    return totals


def index_batch(library: Library, name: str, batch: list[str]) -> int:
    """Index some files. This runs again if it is killed, and then its upserts change nothing."""
    with census.open_index(library.index) as index:
        index.note_begin(name)
        for file in batch:
            index.put(census.examine(library.root, file))
    return len(batch)


def sum_up(library: Library) -> Totals:
    """Read the totals from the index."""
    with census.open_index(library.index) as index:
        return Totals.model_validate(index.totals())
