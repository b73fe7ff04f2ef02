"""What is trouble of the server or of the way to it, and passes, and what is somebody's fault."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NoReturn

from ...errors import StorageError
from ...runtime import Runtime
from ...telemetry.logs import logger
from .driver import BrokenDriverError, DriverError, ServerError, state_of

_FIRST_DELAY, _LAST_DELAY = 0.1, 5.0  # seconds between two attempts
_CONFLICT_DELAY = 0.02  # seconds

# Classes of SQLSTATE: the connection, transactions that met, resources, operators, the system, a server
# that lets nobody in, and what servers and poolers have no number for. A worker's write waits for all of
# these to pass.
_CLASSES = frozenset({"08", "28", "40", "53", "57", "58", "XX"})
_STATES = frozenset(
    {
        "25006",  # read-only: the server was demoted; the next connection may find its successor
        "25P03",  # idle in a transaction for too long: this process was stopped
        "25P04",  # the transaction took too long
        "26000",  # a pooler gave us another session than the one that prepared the statement
        "3D000",  # the database is gone, or not there yet
        "3F000",  # the schema, likewise
        "42501",  # permission withdrawn
        "42P01",  # the tables are gone, or not there yet: a restore
        "42P05",  # see 26000
        "55P03",  # a lock was not to be had in time
    }
)
_CONFLICTS = frozenset({"40001", "40P01"})
_CACHED_PLAN = "0A000"  # "cached plan must not change result type": a table was altered under us
_CANCELED = (
    "57014"  # a statement that took longer than statement_timeout, or that somebody cancelled
)
_FROM_DRIVER = (ServerError, DriverError, BrokenDriverError)


class LostConnectionError(OSError):
    """The connection broke; what it was doing may have been done or not."""


class NoConnectionError(OSError):
    """There is no connection at the moment, whatever the server or a pooler gave as the reason."""

    def __init__(self, error: Exception) -> None:
        super().__init__(describe(error))
        self.sqlstate = state_of(error)


class PositionsSetError(OSError):
    """A write met positions that were taken; they are mended, and it is to be made again."""


def is_passing(error: BaseException) -> bool:
    """Trouble that may pass, rather than a fault of a statement."""
    if isinstance(error, ServerError):
        state = state_of(error)
        cached = state == _CACHED_PLAN and "cached plan" in str(error)
        return state[:2] in _CLASSES or state in _STATES or cached
    return isinstance(error, OSError)  # a TimeoutError is one too


def is_slow(error: BaseException) -> bool:
    """The statement took too long; the next one may be answered at once."""
    return state_of(error) == _CANCELED


def translated(error: Exception) -> Exception:
    """What a caller gets for an error that does not pass: nothing of the driver's own."""
    if not isinstance(error, _FROM_DRIVER):
        return error
    state = f" (SQLSTATE {state_of(error)})" if state_of(error) else ""
    found = StorageError(f"the database refused a statement: {describe(error)}{state}")
    found.__cause__ = error
    return found


def is_conflict(error: BaseException) -> bool:
    """Two transactions met, and the server chose this one to be tried again; or the like."""
    return state_of(error) in _CONFLICTS or isinstance(error, PositionsSetError)


def describe(error: BaseException) -> str:
    """The error in a line."""
    if isinstance(error, NoConnectionError):  # it describes another
        return str(error)
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def raise_translated(error: Exception) -> NoReturn:
    """Raise what a caller gets for it."""
    found = translated(error)
    raise found from found.__cause__


class Trouble:
    """Whether the database can be used at the moment, as the connections that share this find it."""

    def __init__(
        self,
        monotonic: Callable[[], float],
        what: str = "the database cannot be used",
        log: Callable[..., None] = logger.log,
    ) -> None:
        self._monotonic = monotonic
        self._what = what
        self._log = log
        self._ended_at = float("-inf")
        self.why: str | None = None
        """Why not, if so."""

    def note(self, error: BaseException) -> None:
        """An attempt failed and will be made again."""
        if not is_conflict(error):
            if self.why is None:
                self._log(logging.WARNING, "%s: %s", self._what, describe(error))
            self.why = describe(error)

    def clear(self) -> None:
        """An attempt succeeded."""
        if self.why is not None:
            self._log(logging.INFO, "over: %s", self._what)
            self.why, self._ended_at = None, self._monotonic()

    @property
    def last_at(self) -> float:
        """When there last was any, on the monotonic clock; -inf for never."""
        return self._ended_at if self.why is None else self._monotonic()


class Backoff:
    """How long to wait before the next attempt: longer each time, and not as the others do."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._delay = _FIRST_DELAY

    async def pause(self, error: BaseException) -> None:
        """After a failed attempt."""
        if is_conflict(error):
            await self._runtime.sleep(self._runtime.random.uniform(0, _CONFLICT_DELAY))
            return
        await self._runtime.sleep(self._runtime.jitter(self._delay, 0.5))
        self._delay = min(2 * self._delay, _LAST_DELAY)
