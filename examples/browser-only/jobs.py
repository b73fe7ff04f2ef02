"""Cleans tables that people send around as CSV. This file runs in the page; it would on a server, too."""

import asyncio
import csv
import io
import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import date
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from durably import Durably, Step

durably = Durably("browser-only.sqlite3")

Kind = Literal["text", "email", "date", "number"]
Mark = Literal["", "mended", "doubtful"]

BATCH = 250  # rows of a step
TABLES = """
create table if not exists parts (file text, number integer, content text, primary key (file, number));
create table if not exists tables (id text primary key, file text, columns text);
create table if not exists raw (id text, line integer, cells text, primary key (id, line));
create table if not exists cleaned (
    id text, line integer, cells text, marks text, identity text,
    primary key (id, line), unique (id, identity)
);
"""

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


# -- a file comes in


class Part(BaseModel):
    """A piece of a file's text: an input is no place for many megabytes."""

    file: Digest
    number: int
    content: Annotated[str, Field(max_length=400_000)]


@durably.job("keep-part")
async def keep_part(step: Step, part: Part) -> None:
    """Keep a piece of a file in this database. Kept twice, it is the same."""
    await step.transaction("keep", insert_part, part)


def insert_part(db: Any, part: Part) -> None:
    create_tables(db)
    row = (part.file, part.number, part.content)
    db.execute("insert or replace into parts values (?, ?, ?)", row)


def create_tables(db: Any) -> None:
    for statement in TABLES.split(";")[:-1]:
        db.execute(statement)


# -- a table is cleaned


class Upload(BaseModel):
    """A file whose parts are kept."""

    name: Annotated[str, Field(max_length=255)]
    file: Digest
    pause: Annotated[float, Field(ge=0, le=5)] = 0
    """Seconds to wait in each step, for there to be something to see."""


class Column(BaseModel):
    name: str
    kind: Kind


class Found(BaseModel):
    """What a file has in it."""

    rows: int
    columns: list[Column]


class Counts(BaseModel):
    """What became of rows and cells."""

    rows: int = 0
    duplicates: int = 0
    mended: int = Field(0, description="Cells that are written differently now.")
    doubtful: int = Field(0, description="Cells that say nothing of their column's kind.")

    def __add__(self, more: "Counts") -> "Counts":
        return Counts(
            rows=self.rows + more.rows,
            duplicates=self.duplicates + more.duplicates,
            mended=self.mended + more.mended,
            doubtful=self.doubtful + more.doubtful,
        )


class Cleaned(BaseModel):
    columns: list[Column]
    counts: Counts


@durably.job("clean-csv")
async def clean_csv(step: Step, input: Upload) -> Cleaned:
    """Clean a table, batch after batch. What a batch writes and that it was written are one commit."""
    if step.attempt > 1:
        step.log.info("going on where it was interrupted", {"attempt": step.attempt})
    found: Found = await step.transaction("read", read_file, step.run_id, input, returns=Found)
    counts = Counts()
    for start in range(0, found.rows, BATCH):
        counts += await step.transaction(
            f"rows {start + 1}+", clean_batch, step.run_id, start, found.columns, returns=Counts
        )
        step.progress(min(start + BATCH, found.rows), found.rows)
        await asyncio.sleep(input.pause)
    step.log.info("done", counts.model_dump())
    return Cleaned(columns=found.columns, counts=counts)


def read_file(db: Any, id: str, input: Upload) -> Found:
    """The rows of the file, each with its number, and what its columns hold."""
    create_tables(db)
    parts = db.execute("select content from parts where file = ? order by number", (input.file,))
    text = "".join(content for (content,) in parts).removeprefix("\ufeff")
    if not text.strip():
        raise ValueError(f"{input.name} is empty")
    header, *rows = [row for row in read_rows(text) if any(cell.strip() for cell in row)]
    rows = [(row + [""] * len(header))[: len(header)] for row in rows]
    columns = [
        Column(name=name.strip() or f"column {number}", kind=kind_of(name, cells))
        for number, (name, cells) in enumerate(
            zip(header, columns_of(rows, header), strict=True), 1
        )
    ]
    as_text = json.dumps([column.model_dump() for column in columns])
    db.execute("insert into tables values (?, ?, ?)", (id, input.file, as_text))
    numbered = ((id, line, json.dumps(row)) for line, row in enumerate(rows))
    db.executemany("insert into raw values (?, ?, ?)", numbered)
    return Found(rows=len(rows), columns=columns)


def read_rows(text: str) -> list[list[str]]:
    first = text[: text.find("\n") + 1 or None]
    delimiter = max(",;\t|", key=first.count)
    return list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))


def columns_of(rows: list[list[str]], header: list[str]) -> Iterable[list[str]]:
    return ([row[number] for row in rows] for number in range(len(header)))


def clean_batch(db: Any, id: str, start: int, columns: list[Column]) -> Counts:
    """Clean some rows. A row whose address (or, without one, whose every cell) was there is left out."""
    counts = Counts()
    query = "select line, cells from raw where id = ? and line >= ? and line < ?"
    for line, text in db.execute(query, (id, start, start + BATCH)).fetchall():
        cells, marks = clean_row(json.loads(text), columns)
        row = (id, line, json.dumps(cells), json.dumps(marks), identity(cells, marks, columns))
        kept = db.execute("insert or ignore into cleaned values (?, ?, ?, ?, ?)", row).rowcount
        counts += Counts(
            rows=kept,
            duplicates=1 - kept,
            mended=kept * marks.count("mended"),
            doubtful=kept * marks.count("doubtful"),
        )
    return counts


def clean_row(cells: list[str], columns: list[Column]) -> tuple[list[str], list[Mark]]:
    cleaned = [clean(cell, column.kind) for cell, column in zip(cells, columns, strict=True)]
    return [cell for cell, _ in cleaned], [mark for _, mark in cleaned]


def identity(cells: list[str], marks: list[Mark], columns: list[Column]) -> str:
    """What two rows of one person or thing have in common."""
    for cell, mark, column in zip(cells, marks, columns, strict=True):
        if column.kind == "email" and cell and mark != "doubtful":
            return cell
    return json.dumps(cells).casefold()


# -- and is shown


class Page(BaseModel):
    """Which rows of a table to show."""

    table: str
    offset: Annotated[int, Field(ge=0)] = 0
    limit: Annotated[int, Field(ge=1, le=500)] = 20
    show: Literal["all", "mended", "doubtful"] = "all"


class Row(BaseModel):
    line: int
    cells: list[str]
    marks: list[Mark]


class Rows(BaseModel):
    total: int
    rows: list[Row]


@durably.job("show-rows")
async def show_rows(step: Step, page: Page) -> Rows:
    """Some rows of a cleaned table."""
    return await step.transaction("select", select_rows, page, returns=Rows)


def select_rows(db: Any, page: Page) -> Rows:
    create_tables(db)
    pattern = "%" if page.show == "all" else f'%"{page.show}"%'
    where = "from cleaned where id = ? and marks like ?"
    (total,) = db.execute(f"select count(*) {where}", (page.table, pattern)).fetchone()
    rows = db.execute(
        f"select line, cells, marks {where} order by line limit ? offset ?",
        (page.table, pattern, page.limit, page.offset),
    )
    return Rows(
        total=total,
        rows=[
            Row(line=line, cells=json.loads(cells), marks=json.loads(marks))
            for line, cells, marks in rows
        ],
    )


class Table(BaseModel):
    table: str


@durably.job("write-csv")
async def write_csv(step: Step, input: Table) -> str:
    """A cleaned table as CSV."""
    return await step.transaction("write", written, input.table, returns=str)


def written(db: Any, table: str) -> str:
    (columns,) = db.execute("select columns from tables where id = ?", (table,)).fetchone()
    rows = db.execute("select cells from cleaned where id = ? order by line", (table,))
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(column["name"] for column in json.loads(columns))
    writer.writerows(json.loads(cells) for (cells,) in rows)
    return text.getvalue()


@durably.job("forget-table")
async def forget_table(step: Step, input: Table) -> None:
    """Delete a table, and its file unless another table is made of it."""
    await step.transaction("delete", delete_table, input.table)


def delete_table(db: Any, table: str) -> None:
    create_tables(db)
    for name in ("raw", "cleaned", "tables"):
        db.execute(f"delete from {name} where id = ?", (table,))
    db.execute("delete from parts where file not in (select file from tables)")


# -- how a cell is cleaned: what it says stays, how it is written changes

EMAIL = re.compile(r"[^@\s,;]+@[^@\s,;]+\.[^@\s,;.]{2,}")
NUMBER = re.compile(r"[-+]?\d+(\.\d+)?")
DATES = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"(?P<y>\d{4})([-/.])(?P<m>\d{1,2})\2(?P<d>\d{1,2})",
        r"(?P<d>\d{1,2})([-/.])(?P<m>\d{1,2})\2(?P<y>\d{4})",
        r"(?P<m>\d{1,2})/(?P<d>\d{1,2})/(?P<y>\d{4})",
        r"(?P<d>\d{1,2})\.? (?P<m>[a-z]{3})[a-z]*\.? (?P<y>\d{4})",
        r"(?P<m>[a-z]{3})[a-z]*\.? (?P<d>\d{1,2}), (?P<y>\d{4})",
    )
)
MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
ENOUGH = 0.6  # of a column's cells


def kind_of(name: str, cells: Sequence[str]) -> Kind:
    """What a column holds: what most of its cells are."""
    filled = [text for cell in cells[:500] if (text := tidy(cell))]
    if not filled:
        return "text"
    shares = {
        "email": sum("@" in cell or "(at)" in cell for cell in filled),
        "date": sum(as_date(cell) is not None for cell in filled),
        "number": 0 if is_code(name, filled) else sum(has_number(cell) for cell in filled),
    }
    kind = max(shares, key=shares.__getitem__)
    return kind if shares[kind] >= ENOUGH * len(filled) else "text"  # type: ignore[return-value]


def clean(cell: str, kind: Kind) -> tuple[str, Mark]:
    """The cell as it should be written, and what that took."""
    text = tidy(cell)
    made = {"email": as_email, "date": as_date, "number": as_number}.get(kind, str)(text)
    if text and made is None:
        return text, "doubtful"
    made = made or ""
    return made, "mended" if made != cell else ""


def tidy(cell: str) -> str:
    """One way to write each letter, no space that nobody sees."""
    return " ".join(unicodedata.normalize("NFC", cell).replace("\u200b", "").split())


def as_email(text: str) -> str | None:
    found = (
        re.sub(r"\s*(\(at\)|\[at\]|\bat\b(?=.*\.))\s*", "@", text.lower())
        if "@" not in text
        else text
    )
    found = found.lower().removeprefix("mailto:").replace(" ", "").strip("<>.,;")
    return found if EMAIL.fullmatch(found) else None


def as_date(text: str) -> str | None:
    """Of 3/4/2026 nobody knows what it is; here the day comes first."""
    for pattern in DATES:
        if found := pattern.fullmatch(text):
            month = found["m"].lower()
            number = MONTHS.index(month) + 1 if month in MONTHS else month
            with suppress(ValueError):
                return date(int(found["y"]), int(number), int(found["d"])).isoformat()
    return None


def as_number(text: str) -> str | None:
    found = re.sub(r"[\s'\u2019€$£%]|EUR|USD|CHF", "", text).replace("\u2212", "-")
    if "," in found and "." in found:
        thousands = "," if found.rfind(".") > found.rfind(",") else "."
        found = found.replace(thousands, "")
    elif re.fullmatch(r"[-+]?\d{1,3}(,\d{3})+", found):
        found = found.replace(",", "")
    elif re.fullmatch(r"[-+]?\d{1,3}(\.\d{3}){2,}", found):
        found = found.replace(".", "")
    found = found.replace(",", ".")
    return found.removeprefix("+") if NUMBER.fullmatch(found) else None


def has_number(cell: str) -> bool:
    return as_number(cell) is not None


def is_code(name: str, filled: Sequence[str]) -> bool:
    """Numbers whose zeros matter: postcodes, telephones, articles."""
    zeros = any(re.fullmatch(r"0\d+", cell) for cell in filled)
    return zeros or re.search(r"phone|mobile|zip|post|code|\bid\b|tel", name.lower()) is not None
