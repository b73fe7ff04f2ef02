"""A step that charges a card runs twice, and the card is charged once.

The worker dies after the payment provider has charged and before the step is committed: the one moment
that no library can close by itself. The step's idempotency key closes it, because the provider knows
the key when the step comes again.
"""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

from pydantic import BaseModel

from durably import Durably, Step, job


class Payment(BaseModel):
    provider: Path
    customer: str
    cents: int


class Provider:
    """Somebody else's service, with a database of its own: one charge for each key."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def charge(self, key: str, customer: str, cents: int) -> str:
        with closing(sqlite3.connect(self._path)) as connection, connection:
            connection.execute(
                "create table if not exists charges (key primary key, customer, cents)"
            )
            row = (key, customer, cents)
            added = connection.execute(
                "insert or ignore into charges values (?, ?, ?)", row
            ).rowcount
        print("  provider:", "charged" if added else "knows this key, does nothing", flush=True)
        return f"receipt for {cents} cents"

    def total(self) -> int:
        with closing(sqlite3.connect(self._path)) as connection:
            return connection.execute("select sum(cents) from charges").fetchone()[0]


@job("pay")
async def pay(step: Step, payment: Payment) -> str:
    def charge() -> str:
        key = step.idempotency_key("charge")
        receipt = Provider(payment.provider).charge(key, payment.customer, payment.cents)
        if step.attempt == 1:
            print("  the worker dies", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        return receipt

    return await step.run("charge", charge)


async def work(directory: Path) -> None:
    durably = Durably(directory / "jobs.db")
    handle = durably.register(pay)
    payment = Payment(provider=directory / "provider.db", customer="ada", cents=1990)
    async with durably:
        run = await handle.trigger_and_wait(payment, idempotency_key="order-1")
        print(f"attempt {run.attempt} {run.status}: {run.output}", flush=True)


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        for _ in range(2):
            subprocess.run([sys.executable, __file__, directory], check=False)
        print("charged in total:", Provider(Path(directory) / "provider.db").total())


if __name__ == "__main__":
    asyncio.run(work(Path(sys.argv[1]))) if len(sys.argv) > 1 else main()
