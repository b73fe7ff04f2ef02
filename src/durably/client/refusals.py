"""A server's refusals, as the errors that are raised locally for the same reason."""

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

_LONGEST = 500  # characters of a server's message


@dataclass(frozen=True, slots=True)
class RequestSpec:
    """One request, and what is needed for its errors."""

    method: str
    path: str
    query: Sequence[tuple[str, str]] = ()
    body: bytes | None = None
    action: str = "read"
    run_id: str = ""
    repeatable: bool = True
    """True if sending it twice does no more than sending it once."""
    hint: str = ""
    """What to do if it is unknown whether the server acted on it."""
    means_done: Callable[[DurablyError], bool] = lambda _: False
    """Whether a refusal of the second try shows that the first one succeeded."""


def refusal(spec: RequestSpec, response: httpx2.Response, url: str) -> DurablyError:
    """Return the error for an answer that is neither success nor "not now"."""
    body = _body(response)
    status, code = response.status_code, str(body.get("code") or "")
    make = _LOCAL_ERRORS.get(code)
    if make is not None and (error := make(spec, body)) is not None:
        return error
    message = message_of(response)
    where = f"{spec.method} {url}"
    if status >= 500:
        text = f"{where}: the server failed ({status} {message}); its log says why"
        return ServerError(text, url=url, status=status, code=code or None)
    hint = _HINTS.get(status, "")
    text = f"{where} was refused ({status}): {message}{hint}"
    return RequestRefusedError(text, url=url, status=status, code=code or None)


def message_of(response: httpx2.Response) -> str:
    """Return the message of a refusal."""
    return str(_body(response).get("error") or response.reason_phrase)[:_LONGEST]


def _body(response: httpx2.Response) -> Mapping[str, Any]:
    try:
        body = json.loads(response.content)
    except (ValueError, RecursionError):
        return {}
    return cast("dict[str, Any]", body) if isinstance(body, dict) else {}


def _message(body: Mapping[str, Any]) -> str:
    return str(body.get("error") or "refused")[:_LONGEST]


def _conflict(spec: RequestSpec, body: Mapping[str, Any]) -> DurablyError | None:
    if "status" not in body:  # a conflict of something else than the run's status
        return None
    return RunConflictError(spec.run_id, spec.action, str(body["status"]))


def _invalid_input(_: RequestSpec, body: Mapping[str, Any]) -> DurablyError:
    return InvalidInputError(_message(body), path=str(body.get("path") or "$"))


_LOCAL_ERRORS: Mapping[str, Callable[[RequestSpec, Mapping[str, Any]], DurablyError | None]] = {
    "run_not_found": lambda spec, _: RunNotFoundError(spec.run_id),
    "job_not_found": lambda _, body: JobNotFoundError(_message(body)),
    "conflict": _conflict,
    "invalid_input": _invalid_input,
    "too_large": _invalid_input,
    "too_complex": _invalid_input,
    "invalid_request": lambda _, body: ConfigurationError(_message(body)),
}

SIGN_IN = "; pass headers= or auth="
"""What a program does about a 401; the command line replaces it."""
_HINTS = {
    301: "; pass the URL that it redirects to",
    302: "; pass the URL that it redirects to",
    307: "; pass the URL that it redirects to",
    308: "; pass the URL that it redirects to",
    401: SIGN_IN,
    404: "; the URL must be that of the API, as http://127.0.0.1:8000/api/durably",
}
