"""What a command works on: an object of the application, named MODULE:NAME."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..durably import Durably
from ..engine.engine import IMPORTING
from ..handle import JobHandle
from ..jobs.job import Job


class UsageError(Exception):
    """The command was not given what it needs; ``details`` are lines to print below the message."""

    def __init__(self, message: str, details: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.details = details


def load(spec: str) -> Any:
    """The object that MODULE:NAME names; the current directory is searched for the module."""
    module, separator, name = spec.partition(":")
    if not separator or not module or not name:
        raise UsageError(f"{spec!r} is not MODULE:NAME, as 'app:durably'")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    importing = IMPORTING.set(module)
    try:
        found = importlib.import_module(module)
    except (Exception, SystemExit) as error:
        raise UsageError(
            f"module {module!r} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    finally:
        IMPORTING.reset(importing)
    for part in name.split("."):
        if not hasattr(found, part):
            raise UsageError(f"module {module!r} has no {name!r}")
        found = getattr(found, part)
    return found


def load_durably(spec: str) -> Durably:
    """The instance that MODULE:NAME names."""
    found = load(spec)
    if not isinstance(found, Durably):
        raise UsageError(f"{spec} is not a Durably instance but a {type(found).__name__}")
    return found


def load_job(spec: str) -> tuple[Job[Any, Any], Durably | None]:
    """The job that MODULE:NAME names; of a handle, also its instance."""
    found: Job[Any, Any] | JobHandle[Any, Any] | None = load(spec)  # most likely
    match found:
        case Job() as job:
            return job, None
        case JobHandle() as handle:
            return handle.definition, _instance_of(handle, sys.modules[spec.partition(":")[0]])
        case other:
            raise UsageError(f"{spec} is not a job but a {type(other).__name__}")


def _instance_of(handle: JobHandle[Any, Any], module: object) -> Durably | None:
    for value in vars(module).values():
        if isinstance(value, Durably) and value.get_job(handle.name) is handle:
            return value
    return None
