"""What a server says no with, as the errors that are raised locally for the same reason."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import httpx2

from ..errors import (
    ConfigurationError,
    DurablyError,
    InvalidInputError,
    JobNotFoundError,
    RunConflictError,
    RunNotFoundError,
)
from .errors import RequestRefusedError, ServerError

_LONGEST = 500  # characters of what a server says


@dataclass(frozen=True, slots=True)
class Asked:
    """One request, and what its errors need to know."""

    method: str
    path: str
    query: Sequence[tuple[str, str]] = ()
    body: bytes | None = None
    action: str = "read"
    run_id: str = ""
    repeatable: bool = True
    """True when sending it twice does no more than sending it once."""
    hint: str = ""
    """What to do when it is not known whether it was done."""
    means_done: Callable[[DurablyError], bool] = lambda _: False
    """Whether a refusal of the second try says that the first was done."""


def refusal(asked: Asked, response: httpx2.Response, url: str) -> DurablyError:
    """The error that an answer means which is neither success nor "not now"."""
    said = _said(response)
    status, code = response.status_code, str(said.get("code") or "")
    make = _LOCALLY.get(code)
    if make is not None and (error := make(asked, said)) is not None:
        return error
    message = message_of(response)
    where = f"{asked.method} {url}"
    if status >= 500:
        text = f"{where}: the server failed ({status} {message}); its log says why"
        return ServerError(text, url=url, status=status, code=code or None)
    hint = _HINTS.get(status, "")
    text = f"{where} was refused ({status}): {message}{hint}"
    return RequestRefusedError(text, url=url, status=status, code=code or None)


def message_of(response: httpx2.Response) -> str:
    """What a server says about a refusal."""
    return str(_said(response).get("error") or response.reason_phrase)[:_LONGEST]


def _said(response: httpx2.Response) -> Mapping[str, Any]:
    try:
        said = json.loads(response.content)
    except (ValueError, RecursionError):
        return {}
    return cast("dict[str, Any]", said) if isinstance(said, dict) else {}


def _message(said: Mapping[str, Any]) -> str:
    return str(said.get("error") or "refused")[:_LONGEST]


def _conflict(asked: Asked, said: Mapping[str, Any]) -> DurablyError | None:
    if "status" not in said:  # of something else than a run's status
        return None
    return RunConflictError(asked.run_id, asked.action, str(said["status"]))


def _invalid_input(_: Asked, said: Mapping[str, Any]) -> DurablyError:
    return InvalidInputError(_message(said), path=str(said.get("path") or "$"))


_LOCALLY: Mapping[str, Callable[[Asked, Mapping[str, Any]], DurablyError | None]] = {
    "run_not_found": lambda asked, _: RunNotFoundError(asked.run_id),
    "job_not_found": lambda _, said: JobNotFoundError(_message(said)),
    "conflict": _conflict,
    "invalid_input": _invalid_input,
    "too_large": _invalid_input,
    "too_complex": _invalid_input,
    "invalid_request": lambda _, said: ConfigurationError(_message(said)),
}

SIGN_IN = "; pass headers= or auth= to say who you are"
"""What a program does about a 401; the command line has other words for it."""
_HINTS = {
    301: "; pass the URL that it leads to",
    302: "; pass the URL that it leads to",
    307: "; pass the URL that it leads to",
    308: "; pass the URL that it leads to",
    401: SIGN_IN,
    404: "; the URL must be that of the API, as http://127.0.0.1:8000/api/durably",
}
