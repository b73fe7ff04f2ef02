"""Rows without an engine: what is left when nothing but asyncpg and PostgreSQL cost anything.

A checkpoint and nothing else, into a table with nothing but a primary key: no run, no claim, no fence.
"""

from __future__ import annotations

import asyncpg

from .meter import Meter, Result, drive, percentile

TABLE = "create table raw (run text, seq bigint, step text, data text, primary key (run, seq))"
ONE = "insert into raw values ($1, $2, $3, $4)"
MANY = "insert into raw select * from unnest($1::text[], $2::bigint[], $3::text[], $4::text[])"
BATCH = 100


async def sequential(db: str, steps: int) -> Result:
    """One row a commit."""
    connection = await asyncpg.connect(db)
    await connection.execute(TABLE)
    took: list[float] = []
    meter = Meter()
    for n in range(steps):
        one = Meter()
        await connection.execute(ONE, "run", n, f"step-{n}", str(n))
        took.append(one.stop().wall)
    meter.stop()
    await connection.close()
    return {**meter.per_step(steps), "p50_ms": percentile(took, 50) * 1e3}


async def concurrent(db: str, runs: int, steps: int) -> Result:
    """A hundred rows a statement and commit, by UNNEST."""
    connection = await asyncpg.connect(db)
    await connection.execute(TABLE)
    rows = [(f"{i:026}", n, f"step-{n}", str(n)) for i in range(runs) for n in range(steps)]
    meter = Meter()
    for first in range(0, len(rows), BATCH):
        await connection.execute(MANY, *map(list, zip(*rows[first : first + BATCH], strict=True)))
    meter.stop()
    await connection.close()
    return meter.per_step(runs * steps)


if __name__ == "__main__":
    drive((sequential, concurrent))
