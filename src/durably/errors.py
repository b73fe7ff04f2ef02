"""Every error Durably raises, in one tree.

DurablyError
  ConfigurationError            an option, a URL or a job definition that cannot work
  JobNotFoundError              no job of that name is registered here
  RunNotFoundError              no such run
  RunConflictError              the run's status does not allow it
  InvalidValueError             an input, an output or a step's value cannot be kept
    InvalidInputError
    InvalidOutputError
    StepValueError
  DuplicateStepError            one step name used twice in one attempt
  UnawaitedStepError            a job returned without awaiting a step
  StepTimeoutError              a step took longer than its timeout=
  StepFailedError               a step raised something no job can catch (SystemExit, ...)
  RunFailedError  RunCancelledError  WaitTimeoutError     what ``wait`` raises
  StorageError                  the database
    StorageUnavailableError  SchemaError  ForkedError  DatabaseReplacedError  ClosedError

Interrupt (BaseException)       a job's own ``except Exception`` must not swallow these
  LeaseLost  RunCancelled  HandedBack
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .models import Run


class DurablyError(Exception):
    """The base of every error that Durably raises."""


class ConfigurationError(DurablyError, ValueError):
    """An option, a database URL or a job definition that cannot work."""


class JobNotFoundError(DurablyError, LookupError):
    """No job of that name is registered with this instance."""


class RunNotFoundError(DurablyError, LookupError):
    """No run with that id exists; it may have been deleted or purged."""

    def __init__(self, run_id: str) -> None:
        super().__init__(f"run {run_id!r} does not exist; it may have been deleted or purged")
        self.run_id = run_id


class RunConflictError(DurablyError):
    """The run's present status does not allow the request."""

    def __init__(self, run_id: str, action: str, status: str, reason: str | None = None) -> None:
        because = f"; {reason}" if reason else ""
        super().__init__(f"cannot {action} run {run_id}: it is {status}{because}")
        self.run_id, self.action, self.status = run_id, action, status


class InvalidValueError(DurablyError, ValueError):
    """A value that cannot be kept. ``path`` says where in it, as ``$.rows[3]``."""

    path: str = "$"

    def __init__(self, message: str, *, path: str = "$") -> None:
        super().__init__(message)
        self.path = path


class InvalidInputError(InvalidValueError):
    """A run's input does not fit its job; nothing was stored."""


class InvalidOutputError(InvalidValueError):
    """What a job returned does not fit its return annotation."""


class StepValueError(InvalidValueError, TypeError):
    """What a step returned cannot be kept as it is."""


class DuplicateStepError(DurablyError):
    """One step name was used twice in one attempt; a step's name is its identity."""


class UnawaitedStepError(DurablyError):
    """A job returned, and a step that it called was never awaited, so that it did not run."""


class StepTimeoutError(DurablyError, TimeoutError):
    """A step took longer than its ``timeout=``."""


class StepFailedError(DurablyError):
    """A step failed with something that the job cannot be given: it is no ``Exception`` (SystemExit, a
    stray CancelledError), or it was raised in an earlier attempt and its class cannot be made again."""

    type: str | None = None
    """The name of the class of what an earlier attempt raised."""


class _RunEndedError(DurablyError):
    def __init__(self, message: str, run: Run[Any, Any]) -> None:
        super().__init__(message)
        self.run = run


class RunFailedError(_RunEndedError):
    """The awaited run failed; ``run.error`` says why."""


class RunCancelledError(_RunEndedError):
    """The awaited run was cancelled."""


class WaitTimeoutError(_RunEndedError, TimeoutError):
    """The awaited run was not over in time; it goes on regardless."""


class StorageError(DurablyError):
    """Something is wrong with the database."""


class StorageUnavailableError(StorageError):
    """The database could not be written for a while (locked, full, read-only, ...)."""


class SchemaError(StorageError):
    """The database's schema is missing, older or newer than this version of Durably needs."""


class ForkedError(StorageError):
    """An instance opened before a fork was used in the child process."""


class DatabaseReplacedError(StorageError):
    """The database file was deleted or replaced while it was open."""


class CorruptDatabaseError(StorageError):
    """The file is not a database, or is damaged."""


class ClosedError(StorageError):
    """The instance is not open: call ``init()`` first, or use ``async with durably``."""


class Interrupt(BaseException):
    """Why a run must stop executing here. Not an ``Exception``: let it pass."""


class LeaseLost(Interrupt):
    """Another worker holds this run now; nothing this one writes is accepted any more."""


class RunCancelled(Interrupt):
    """Somebody cancelled the run."""


class HandedBack(Interrupt):
    """This worker is stopping; the run goes back for another to take."""
