"""The life of a run, whole, in one table.

    PENDING ──claim──▶ RUNNING ──complete──▶ COMPLETED
      ▲  ▲              │ │ └────fail──────▶ FAILED ────┐
      │  └───release────┘ └─wait─▶ WAITING              │
      │                     claim ◀──┘                  │
      │        cancel: from PENDING, RUNNING, WAITING ──▶ CANCELLED
      └───────────────────────retry─────────────────────┘

Three rules, and the rest of the house leans on them.

1. Nothing but a row of this table changes a run's status. The store turns a row into one guarded
   UPDATE (``where id = … and status in (<sources>)``); no row back means that the move was refused.
2. A *fenced* row is for the worker that holds the run's lease, and for nobody else: its UPDATE also
   asks for the lease's token. A worker that lost its lease can change nothing.
3. There is one clock, ``due_at``: when the run next wants a worker. Pending: now, or later. Running:
   the end of its lease - if nobody is heard from by then, another worker is wanted. Waiting: when to
   wake. Final: never (null). So new, waiting and orphaned runs are found by one question,
   ``due_at <= now``, and there is no sweeper. CLAIM therefore starts from RUNNING too.

A pending run whose concurrency key is held by another is *parked*: it waits for the key and not for the
clock (its due_at is NEVER), until the holder hands the key on. ``key_slot`` tells who holds it: 0 for
the holder, -1 for a parked run, null for a run that has nothing to do with it at the moment.

A run that leaves RUNNING while its body still runs - it was cancelled, it failed, or it was handed back,
and a thread does not end at once - is over for everybody who waits for it, but it is *held*: until
``held_until``, which the holder's heartbeat prolongs as it does a lease, neither the run nor its key
goes to another. The holder lets go when the body has ended.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

NEVER = 9_007_199_254_740_991
"""The due_at of a run that waits for something else than the clock: 2**53 - 1, exact in every language."""
PARKED = -1
"""The key_slot of a run that waits behind its concurrency key."""


class Status(StrEnum):
    """Where a run stands."""

    PENDING = "pending"
    """Waiting for a worker."""
    RUNNING = "running"
    """A worker holds the lease and executes it."""
    WAITING = "waiting"
    """Asleep until its time comes; no worker holds it."""
    COMPLETED = "completed"
    """Its job returned; the output is kept."""
    FAILED = "failed"
    """Its job raised; the error is kept. ``retry`` resumes it."""
    CANCELLED = "cancelled"
    """Somebody stopped it. ``retry`` resumes it."""

    @property
    def is_final(self) -> bool:
        """True when nothing but ``retry`` moves it on."""
        return self in FINAL


ACTIVE = frozenset({Status.PENDING, Status.RUNNING, Status.WAITING})
FINAL = frozenset(Status) - ACTIVE


@dataclass(frozen=True, slots=True)
class Transition:
    """A row of the state machine."""

    name: str
    sources: frozenset[Status]
    target: Status
    event: str
    fenced: bool
    frees_key: bool
    """True when the run stops standing in the way of others with its concurrency key."""


def _row(
    name: str,
    sources: set[Status] | frozenset[Status],
    target: Status,
    event: str,
    *,
    fenced: bool = False,
    frees_key: bool = False,
) -> Transition:
    return Transition(name, frozenset(sources), target, event, fenced, frees_key)


_S = Status
CLAIM = _row("claim", ACTIVE, _S.RUNNING, "run:start")
COMPLETE = _row("complete", {_S.RUNNING}, _S.COMPLETED, "run:complete", fenced=True, frees_key=True)
FAIL = _row("fail", {_S.RUNNING}, _S.FAILED, "run:fail", fenced=True, frees_key=True)
WAIT = _row("wait", {_S.RUNNING}, _S.WAITING, "run:wait", fenced=True, frees_key=True)
RELEASE = _row("release", {_S.RUNNING}, _S.PENDING, "run:release", fenced=True)
CANCEL = _row("cancel", ACTIVE, _S.CANCELLED, "run:cancel", frees_key=True)
RETRY = _row("retry", {_S.FAILED, _S.CANCELLED}, _S.PENDING, "run:retry")

TRANSITIONS = (CLAIM, COMPLETE, FAIL, WAIT, RELEASE, CANCEL, RETRY)
