"""Triggering within a transaction of the user's: the runs are there exactly if that commits.

Nothing is tried again here and no error is translated: the transaction is the user's, and so is
whatever the driver says about it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from ...errors import ConfigurationError
from .. import enqueuing, statements
from ..records import Enqueued, NewRun, RunRow
from .adapters import Adapter, adapt
from .statements import Statements
from .writes import new_runs, portions

T = TypeVar("T")


class Joined:
    """The user's transaction, with our statements."""

    def __init__(self, adapter: Adapter, statements: Statements) -> None:
        self._adapter = adapter
        self._statements = statements

    async def run(self, transaction: statements.Transaction[T]) -> T:
        """Drive a transaction of ``store/transactions.py`` as a part of it."""
        try:
            name, params = next(transaction)
            while True:
                assert isinstance(name, str)  # users' functions have no business here
                rows = await self._adapter.run(self._statements[name], params)
                name, params = transaction.send(rows)
        except StopIteration as stop:
            result: T = stop.value
            return result


async def join(connection: Any, statements: Statements) -> Joined:
    """Of a connection of any driver that is known; ``ConfigurationError`` for all else."""
    return Joined(await adapt(connection), statements)


def place() -> statements.Transaction[str]:
    """Which tables a connection leads to: of which server, in which database and schema."""
    rows = yield "place", {}
    return str(rows[0][0])


def enqueue(
    runs: Sequence[NewRun], now: int, channel: str, payload: str
) -> statements.Transaction[list[Enqueued]]:
    """Store new runs, and say so to all workers if it is committed."""
    if names := enqueuing.keys_to_lock(runs):
        yield "lock_keys", {"names": names}
        found = yield from enqueuing.enqueue(runs, now)
        yield "notify", {"channel": channel, "payload": payload}
        return found
    new: dict[str, Enqueued] = {}
    for portion in portions(runs):
        rows = yield "enqueue_all", new_runs(portion, now)
        new |= {row[0]: Enqueued(RunRow._make(row), True) for row in rows}
    for run in runs:
        if run.id not in new:  # its key is known
            new[run.id] = yield from enqueuing.enqueue_one(run, now)
    yield "notify", {"channel": channel, "payload": payload}
    return [new[run.id] for run in runs]


def elsewhere() -> ConfigurationError:
    """The error for a connection to other tables than the instance's."""
    return ConfigurationError(
        "the connection leads to another server, database or schema than this Durably's, whose "
        "runs could not be part of its transaction"
    )
