"""A nightly script without a service: trigger today's run, work until nothing is due, leave.

Line for a crontab: 0 3 * * *  python 05_cron.py jobs.db
"""

import asyncio
import sys
import tempfile
from datetime import date, timedelta
from pathlib import Path

from durably import Durably, Step, job


async def export(day: date) -> int:
    return day.day * 10


@job("nightly-export")
async def nightly_export(step: Step, day: date) -> int:
    rows = await step.run("export", export, day)
    step.log.info("exported", {"rows": rows})
    return rows


async def tonight(database: str | Path, day: date) -> None:
    durably = Durably(database, retain_runs=timedelta(days=90))
    handle = durably.register(nightly_export)
    await durably.migrate()
    try:
        # Yesterday's run, if it was interrupted, is finished as well.
        await handle.trigger(day, idempotency_key=f"nightly-{day}")
        count = await durably.run_until_idle()
        print(
            f"{day}: {count} executed, {len(await handle.get_runs(status='completed'))} completed"
        )
        failed = await handle.get_runs(status="failed")
    finally:
        await durably.stop()
    if failed:
        raise SystemExit(f"{len(failed)} runs failed: {failed[0].error}")


def rehearse() -> None:
    """Two nights; on the second one cron starts the script twice."""
    with tempfile.TemporaryDirectory() as directory:
        for day in (date(2026, 1, 1), date(2026, 1, 2), date(2026, 1, 2)):
            asyncio.run(tonight(Path(directory) / "jobs.db", day))


if __name__ == "__main__":
    asyncio.run(tonight(sys.argv[1], date.today())) if len(sys.argv) > 1 else rehearse()  # noqa: DTZ011
