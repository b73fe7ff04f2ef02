"""Import contacts from a CSV file in steps, and watch it on a page; README.md says how to run it."""

import asyncio
import csv
import hashlib
import os
import sqlite3
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Annotated, NamedTuple

import uvicorn
from fastapi import FastAPI, Header, HTTPException, UploadFile
from fastapi.responses import FileResponse
from pydantic import BaseModel, Field

from durably import Durably, Step, with_log_persistence

HERE = Path(__file__).parent
DATA = Path(os.environ.get("DATA", HERE / "data"))
BATCH = 200  # rows of a step
PAUSE = float(os.environ.get("PAUSE", "0.2"))  # seconds a batch, for there to be something to see
MAX_BYTES = 10_000_000

durably = Durably(DATA / "jobs.db")
durably.use(with_log_persistence())


# -- the job


class Upload(BaseModel):
    """What is imported. Whoever may trigger the job chooses it, so ``digest`` can be no other path."""

    name: Annotated[str, Field(max_length=255)]
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

    @property
    def path(self) -> Path:
        return DATA / f"{self.digest}.csv"


class Counts(BaseModel):
    """What became of some rows."""

    added: int = 0
    updated: int = 0
    left_out: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            added=self.added + other.added,
            updated=self.updated + other.updated,
            left_out=self.left_out + other.left_out,
        )


class Contact(NamedTuple):
    line: int
    email: str
    name: str
    company: str


@durably.job("import-contacts")
async def import_contacts(step: Step, upload: Upload) -> Counts:
    """Each batch is a step: committed, it never runs again, whatever becomes of this process."""
    contacts = await asyncio.to_thread(read_contacts, upload.path)

    async def save(start: int) -> Counts:
        batch = contacts[start : start + BATCH]
        key = step.idempotency_key(f"rows-{start}")
        counts = await asyncio.to_thread(save_batch, key, batch)
        for contact in batch:
            if "@" not in contact.email:
                step.log.warning("no address", {"line": contact.line, "email": contact.email})
        step.log.info("saved", {"rows": f"{start + 1}-{start + len(batch)}"})
        step.progress(start + len(batch), len(contacts))
        await asyncio.sleep(PAUSE)
        return counts

    if step.attempt > 1:
        step.log.info("going on where it was interrupted", {"attempt": step.attempt})
    total = Counts()
    for start in range(0, len(contacts), BATCH):
        total += await step.run(f"rows-{start}", save, start)
    return total


def read_contacts(path: Path) -> list[Contact]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, restval="")
        if "email" not in (reader.fieldnames or ()):
            raise ValueError("the first line names no column 'email'")
        return [
            Contact(reader.line_num, row["email"], row.get("name", ""), row.get("company", ""))
            for row in reader
        ]


# -- our own table


@contextmanager
def transaction() -> Generator[sqlite3.Connection]:
    with closing(sqlite3.connect(DATA / "contacts.db", timeout=30, isolation_level=None)) as db:
        db.execute("begin immediate")
        with db:
            yield db


def create_tables() -> None:
    DATA.mkdir(parents=True, exist_ok=True)
    with transaction() as db:
        db.execute("create table if not exists contacts (email text primary key, name, company)")
        db.execute("create table if not exists batches (key text primary key, counts text)")


def save_batch(key: str, batch: list[Contact]) -> Counts:
    """Save contacts, and that this batch is saved, in one transaction.

    A process may die after it and before the step is committed. Then the step runs again, and the
    key tells that nothing is left to do.
    """
    with transaction() as db:
        if done := db.execute("select counts from batches where key = ?", (key,)).fetchone():
            return Counts.model_validate_json(done[0])
        counts = Counts()
        for _, email, name, company in batch:
            if "@" not in email:
                counts.left_out += 1
            elif db.execute(
                "insert or ignore into contacts values (?, ?, ?)", (email, name, company)
            ).rowcount:
                counts.added += 1
            else:
                db.execute(
                    "update contacts set name = ?, company = ? where email = ?",
                    (name, company, email),
                )
                counts.updated += 1
        db.execute("insert into batches values (?, ?)", (key, counts.model_dump_json()))
    return counts


# -- the web


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
    create_tables()
    await durably.init()
    yield
    await durably.stop(grace=1)  # what still runs is handed back, and resumed at the next start


app = FastAPI(title="Import contacts", lifespan=lifespan)
app.mount("/api/durably", durably.asgi())


@app.get("/")
def page() -> FileResponse:
    return FileResponse(HERE / "index.html")


@app.post("/imports", status_code=202)
async def start_import(
    file: UploadFile, idempotency_key: Annotated[str, Header(max_length=255)]
) -> dict[str, str]:
    """Keep a file and start its import. Sent twice under one key it is imported once.

    A header of our own is also what no other site's form can send.
    """
    content = await file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise HTTPException(413, f"the file has more than {MAX_BYTES:,} bytes")
    upload = Upload(name=(file.filename or "")[:255], digest=hashlib.sha256(content).hexdigest())
    await asyncio.to_thread(keep, content, upload.path)
    run = await import_contacts.trigger(upload, idempotency_key=idempotency_key)
    return {"runId": run.id}


def keep(content: bytes, path: Path) -> None:
    """Write a file whole or not at all."""
    part = path.with_name(f"{path.name}.{os.urandom(8).hex()}")
    part.write_bytes(content)
    part.replace(path)


@app.get("/contacts")
def count_contacts() -> dict[str, int]:
    with closing(sqlite3.connect(DATA / "contacts.db")) as db:
        return {"count": db.execute("select count(*) from contacts").fetchone()[0]}


if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ.get("PORT", "8000")))
