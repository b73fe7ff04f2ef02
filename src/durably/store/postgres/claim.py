"""Claiming: most runs are taken by the statement that finds them, the others one by one.

Each is a transaction of its own: if one fails, a replay finds what the others took by the token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...state import Status
from .. import claiming, records, statements
from ..records import SUSPECT, Claimed, Claims, RunRow
from .connection import Session
from .driver import UNIQUE_VIOLATION, ServerError, state_of
from .positions import is_taken

_ROUNDS = 16  # how often a claim looks for more
_LOOK = 500  # how many due runs are parked at once when keys are busy
_TRIES = 3  # to take runs that somebody else moves at that moment
_DUE = len(records.Due._fields)


async def claim(session: Session, ask: records.ClaimRequest, *, replay: bool = False) -> Claims:
    """``claiming.claim``, in few round trips."""
    claimed: list[Claimed] = []
    suspects = ask.suspects
    if replay:
        mine = await session.fetch("claimed", {"token": ask.token, "owner": ask.owner})
        claimed = [claiming.as_claimed(RunRow._make(row), ask, resumed=True) for row in mine]
    some_parked = False
    for _ in range(_ROUNDS):
        free = ask.limit - len(claimed)
        if free <= 0:
            return Claims(claimed, True)
        skipped = claiming.skipped(ask, suspects)
        common = {"jobs": list(ask.jobs), "skipped": skipped, "now": ask.now}
        if some_parked:
            await session.fetch("park_all", {**common, "look": _LOOK})
        lease = {"owner": ask.owner, "token": ask.token, "lease": ask.lease}
        rows = await _claim_due(session, {**common, **lease, "limit": free})
        for row in rows:
            due, seq = records.Due._make(row[:_DUE]), row[_DUE]
            if seq is not None:
                taken = RunRow._make(row[_DUE + 1 :])
                resumed = taken.generation > 1
                claimed.append(claiming.as_claimed(taken, ask, seq=seq, resumed=resumed))
                continue
            lapsed = due.status == Status.RUNNING
            if lapsed and due.recoveries >= SUSPECT - 1 and not suspects:
                continue
            if got := await _take(session, ask, due):
                claimed.append(got)
                suspects = suspects and got.row.recoveries < SUSPECT
            else:
                some_parked = True
        if len(rows) < free:
            return Claims(claimed, False)
    return Claims(claimed, True)


async def _claim_due(session: Session, params: Mapping[str, Any]) -> Sequence[statements.Row]:
    for _ in range(_TRIES - 1):
        try:
            return await session.fetch("claim_due", params)
        except ServerError as error:
            if state_of(error) != UNIQUE_VIOLATION:
                raise
            # A run was handed back while we looked at it: its journal has a line more than we saw.
    return await session.fetch("claim_due", params)


async def _take(session: Session, ask: records.ClaimRequest, due: records.Due) -> Claimed | None:
    for _ in range(_TRIES):
        try:
            async with session.transaction():
                return await session.run(claiming.take(ask, due))
        except ServerError as error:
            if state_of(error) != UNIQUE_VIOLATION or is_taken(error):
                raise
            # Another worker just took a run with this key: behind it, then.
    return None
