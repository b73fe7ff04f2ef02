"""The filter of a listing, checked."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set
from typing import Any, cast

from ..errors import ConfigurationError
from ..options import whole
from ..state import Status
from ..store.records import RunFilter
from .checks import check_given_name, check_labels, check_scope

MAX_LIMIT = 1000


CURSOR = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
"""A page's cursor: the id of the run that the page before ended with."""


def make_filter(
    job: str | Sequence[str],
    status: Status | str | Sequence[Status | str],
    labels: Mapping[str, str] | None,
    limit: int,
    offset: int,
    cursor: str | None,
    scope: str | None = None,
) -> RunFilter:
    """A listing's filter, checked."""
    return RunFilter(
        jobs=tuple(check_given_name("job", name) for name in _several("job", job)),
        statuses=tuple(_status(value) for value in _several("status", status)),
        labels={} if labels is None else check_labels(labels),
        limit=whole("limit", limit, 1, MAX_LIMIT),
        offset=whole("offset", offset),
        after=None if cursor is None else check_cursor(cursor),
        scope=None if scope is None else check_scope(scope),
    )


def check_cursor(cursor: Any) -> str:
    """A page's cursor, checked: any other text would give the newest page again, or none."""
    if not isinstance(cursor, str) or re.fullmatch(CURSOR, cursor) is None:
        raise ConfigurationError(f"cursor must be the .cursor of a run, not {cursor!r:.100}")
    return cursor


def _several(name: str, value: Any) -> Sequence[Any]:
    if isinstance(value, str):
        return (value,)
    if isinstance(value, Sequence | Set) and not isinstance(value, bytes):
        return tuple(cast("Sequence[Any]", value))
    raise ConfigurationError(f"{name} must be a str or several, not {value!r}")


def _status(value: Status | str) -> Status:
    try:
        return Status(value)
    except ValueError:
        known = ", ".join(Status)
        raise ConfigurationError(f"status must be one of {known}; not {value!r}") from None
