"""Two jobs: contacts from a CSV file, batch after batch; thumbnails of photos, side by side."""

import asyncio
import csv
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Annotated, NamedTuple

from PIL import Image, ImageOps
from pydantic import BaseModel, Field

from durably import Durably, Step, with_log_persistence

DATA = Path(os.environ.get("DATA", Path(__file__).with_name("data")))
PAUSE = float(os.environ.get("PAUSE", "0.2"))  # seconds a step, for there to be something to see
BATCH = 200  # rows of a step
AT_ONCE = 4  # photos of a run
EDGE = 320  # pixels of a thumbnail

durably = Durably(DATA / "jobs.db", max_concurrent_runs=20)
durably.use(with_log_persistence())


class Upload(BaseModel):
    """A file that was uploaded. Whoever may trigger a job chooses it, so ``digest`` can be no path."""

    name: Annotated[str, Field(max_length=255)]
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

    @property
    def path(self) -> Path:
        return DATA / "files" / self.digest

    @property
    def thumbnail(self) -> Path:
        return DATA / "thumbnails" / f"{self.digest}.webp"


# -- contacts


class Imported(BaseModel):
    """What became of the rows."""

    saved: int = 0
    left_out: int = Field(0, description="Rows without an e-mail address.")


class Contact(NamedTuple):
    line: int
    email: str
    name: str
    company: str


@durably.job("import-csv")
async def import_csv(step: Step, file: Upload) -> Imported:
    """Import contacts. Each batch is a step: committed, it never runs again, whatever is killed."""
    if step.attempt > 1:
        step.log.info("going on where it was interrupted", {"attempt": step.attempt})
    contacts = await asyncio.to_thread(read_contacts, file.path)

    async def save(start: int) -> Imported:
        """What is told inside a step is told once."""
        batch = contacts[start : start + BATCH]
        good = [contact for contact in batch if "@" in contact.email]
        await asyncio.to_thread(save_contacts, good)
        for contact in batch:
            if contact not in good:
                step.log.warning("no address", {"line": contact.line, "email": contact.email})
        step.log.info("saved", {"rows": f"{start + 1}-{start + len(batch)}"})
        step.progress(start + len(batch), len(contacts))
        await asyncio.sleep(PAUSE)
        return Imported(saved=len(good), left_out=len(batch) - len(good))

    starts = range(0, len(contacts), BATCH)
    parts = [await step.run(f"rows {start + 1}+", save, start) for start in starts]
    return Imported(
        saved=sum(part.saved for part in parts), left_out=sum(part.left_out for part in parts)
    )


def read_contacts(path: Path) -> list[Contact]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, restval="")
        if "email" not in (reader.fieldnames or ()):
            raise ValueError("the first line names no column 'email'")
        return [
            Contact(reader.line_num, row["email"], row.get("name", ""), row.get("company", ""))
            for row in reader
        ]


def open_contacts() -> sqlite3.Connection:
    return sqlite3.connect(DATA / "contacts.db", timeout=30)


def create_tables() -> None:
    for folder in ("files", "thumbnails"):
        (DATA / folder).mkdir(parents=True, exist_ok=True)
    with closing(open_contacts()) as db:
        db.execute("create table if not exists contacts (email text primary key, name, company)")


def save_contacts(contacts: list[Contact]) -> None:
    """A process may die after this and before the step is committed: done twice, it is the same."""
    rows = [(contact.email, contact.name, contact.company) for contact in contacts]
    with closing(open_contacts()) as db, db:
        db.executemany("insert or replace into contacts values (?, ?, ?)", rows)


def count_contacts() -> int:
    with closing(open_contacts()) as db:
        return db.execute("select count(*) from contacts").fetchone()[0]


# -- thumbnails


class Photos(BaseModel):
    photos: Annotated[list[Upload], Field(min_length=1, max_length=200)]


class Thumbnail(BaseModel):
    """A small picture: ``GET /api/thumbnails/{digest}``."""

    name: str
    digest: str
    width: int
    height: int


@durably.job("make-thumbnails")
async def make_thumbnails(step: Step, input: Photos) -> list[Thumbnail]:
    """Make thumbnails, some side by side. One that fails leaves the others; a retry makes that one."""
    total = len(input.photos)
    slots = asyncio.Semaphore(AT_ONCE)
    made: dict[int, Thumbnail] = {}
    failed: list[str] = []

    async def make(number: int, photo: Upload) -> Thumbnail:
        thumbnail = await asyncio.to_thread(shrink, photo)
        await asyncio.sleep(2 * PAUSE)
        made[number] = thumbnail
        step.log.info(
            "made", {"photo": photo.name, "size": f"{thumbnail.width}×{thumbnail.height}"}
        )
        step.progress(len(made), total)
        return thumbnail

    async def settle(number: int, photo: Upload) -> None:
        async with slots:
            try:
                made[number] = await step.run(f"photo {number}", make, number, photo)
            except (OSError, ValueError, Image.DecompressionBombError) as error:
                step.log.error(str(error), {"photo": photo.name})
                failed.append(photo.name)

    async with asyncio.TaskGroup() as group:
        for number, photo in enumerate(input.photos, 1):
            group.create_task(settle(number, photo))
    if failed:
        raise ValueError(f"no pictures: {', '.join(failed)}")
    return [made[number] for number in sorted(made)]


def shrink(photo: Upload) -> Thumbnail:
    """Written whole or not at all, and the same each time."""
    try:
        with Image.open(photo.path) as image:
            image.draft("RGB", (2 * EDGE, 2 * EDGE))
            small = ImageOps.exif_transpose(image).convert("RGB")
    except OSError as error:
        raise ValueError("Pillow cannot read it") from error
    small.thumbnail((EDGE, EDGE))
    part = photo.thumbnail.with_suffix(f".{os.urandom(8).hex()}")
    small.save(part, "WEBP", quality=80)
    part.replace(photo.thumbnail)
    return Thumbnail(name=photo.name, digest=photo.digest, width=small.width, height=small.height)
