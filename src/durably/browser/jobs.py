"""The jobs of a page: those at the top level of its modules."""

from __future__ import annotations

from importlib import import_module
from typing import Any, cast

from ..durably import Durably
from ..errors import ConfigurationError
from ..handle import JobHandle
from ..jobs.job import Job


def jobs_of(module: str) -> list[Job[Any, Any]]:
    """Return the jobs of a module: its ``Job``s, handles of jobs, and those of each ``Durably`` in it.

    So a file that works on a server works here, too; of the instances in it only the jobs are used.
    Raises ``ConfigurationError`` for a module without any.
    """
    found: dict[str, Job[Any, Any]] = {}
    for value in vars(import_module(module)).values():
        for job in _jobs_in(value):
            found.setdefault(job.name, job)
    if not found:
        raise ConfigurationError(
            f"{module} has no job at its top: decorate a function with @job(...)"
        )
    return list(found.values())


def _jobs_in(value: object) -> list[Job[Any, Any]]:
    match value:
        case Job():
            return [cast("Job[Any, Any]", value)]
        case JobHandle():
            return [cast("JobHandle[Any, Any]", value).definition]
        case Durably():
            return [handle.definition for handle in value.jobs.values()]
        case _:
            return []
