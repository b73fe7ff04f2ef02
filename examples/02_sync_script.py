"""No await anywhere: a plain function as the job, a blocking caller."""

import tempfile
from pathlib import Path

from pydantic import BaseModel

from durably import Durably, SyncStep, errors, job


class Report(BaseModel):
    month: str
    total: int


def fetch(month: str) -> list[int]:
    return [12, 7, 23]


@job("monthly-report")
def monthly_report(step: SyncStep, month: str) -> Report:
    rows = step.run("fetch", fetch, month)
    for i, row in enumerate(rows, start=1):
        step.run(f"check-{i}", check, row)
        step.progress(i, len(rows))
    return Report(month=month, total=sum(rows))


def check(row: int) -> None:
    if row < 0:
        raise ValueError(f"a negative row: {row}")


def main(database: Path) -> None:
    durably = Durably(database)
    with durably.sync() as d:
        report = d.register(monthly_report)
        done = report.trigger_and_wait("2026-01", timeout=30)
        print(f"{done.job} {done.status}: {done.output}")
        for record in d.get_steps(done.id):
            print(f"  {record.index} {record.name}: {record.output}")
        try:
            d.cancel(done.id)
        except errors.RunConflictError as error:
            print(f"too late to {error.action}: it is {error.status}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        main(Path(directory) / "jobs.db")
