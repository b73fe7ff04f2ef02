"""Who may do what. It fails closed: what no hook allows is refused.

``auth=`` takes any object with these methods, each plain or async; ``Auth`` is a base class for it.
Only ``authenticate`` must be there. With ``scope`` every run belongs to its tenant, and that is all
most applications need; without it the other hooks decide, and an operation whose hook is missing is
refused. A hook allows by returning True: anything else, such as None, does not.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Generic, Literal, TypeVar

from ..errors import ConfigurationError, DurablyError, InvalidInputError, StorageError
from ..jobs.checks import check_scope
from ..store.records import RunFilter, RunRow
from ..store.snapshots import run_from_row
from ..wire.requests import TriggerRequest
from .message import Refusal, Request

P = TypeVar("P")

Operation = Literal["run", "steps", "logs", "subscribe", "retry", "retrigger", "cancel", "delete"]
"""The operations on one run."""

HOOKS = (
    "authenticate", "scope", "on_trigger", "on_run_access", "scope_runs", "scope_runs_subscribe",
    "on_jobs", "on_metrics",
)  # fmt: skip


class Auth(Generic[P]):
    """A base class for ``auth=``: override ``authenticate``, and ``scope`` or the ``on_`` hooks."""

    async def authenticate(self, request: Request) -> P | None:
        """Find the principal of a request; None (401) or a ``Refusal`` if there is none."""
        raise NotImplementedError

    def scope(self, principal: P) -> str | None:
        """Return the tenant of a principal. Its runs get it as their scope, and it sees no others. None:
        runs are not divided, and the other hooks decide."""
        return None


def check_auth(auth: Any) -> None:
    """Check the object given as ``auth=``: a misspelled hook would guard nothing."""
    if not callable(getattr(auth, "authenticate", None)):
        raise ConfigurationError("auth must have a method authenticate(request)")
    for name in dir(auth):
        if name.startswith(("on_", "scope_")) and name not in HOOKS:
            known = ", ".join(HOOKS)
            raise ConfigurationError(f"unknown hook {name!r} in auth; known hooks: {known}")


async def call_hook(hook: Callable[..., Any], *args: Any) -> Any:
    """Call a hook, plain or async. It may raise a ``Refusal`` or return one. An error of this library that
    it runs into is a failure of the server, not an answer to the client."""
    try:
        answer = hook(*args)
        answer = await answer if inspect.isawaitable(answer) else answer
    except StorageError:
        raise
    except DurablyError as error:
        raise RuntimeError("a hook failed") from error
    if isinstance(answer, Refusal):
        raise answer
    return answer


class Caller:
    """The sender of a request, as far as it is known, and what it may do."""

    def __init__(self, auth: Any | None, principal: Any, scope: str | None) -> None:
        self._auth = auth
        self.principal = principal
        self.scope = scope

    async def _call(self, hook: str, *args: Any) -> Any:
        """Call a hook; a missing one refuses."""
        found = getattr(self._auth, hook, None)
        if found is None:
            raise _not_allowed()
        return await call_hook(found, self.principal, *args)

    def _is_free(self, hook: str) -> bool:
        """Whether the scope alone decides."""
        return self._auth is None or (self.scope is not None and not hasattr(self._auth, hook))

    def _is_decided(self, hook: str) -> bool:
        return self._is_free(hook) or getattr(self._auth, hook, None) is not None

    async def may_trigger(self, request: TriggerRequest) -> TriggerRequest:
        """Return what to trigger: the request if ``on_trigger`` returns True, else the request it returns."""
        if self._is_free("on_trigger"):
            return request
        answer = await self._call("on_trigger", request)
        if answer is True:
            return request
        if not isinstance(answer, TriggerRequest):
            raise Refusal(403, "not_allowed", f"not allowed to trigger {request.job[:255]!r}")
        return answer

    def check_access(self) -> None:
        """Refuse where nothing decides about runs, whether or not the run exists."""
        if not self._is_decided("on_run_access"):
            raise _not_allowed()

    async def may_access(self, row: RunRow, operation: Operation) -> bool:
        """Whether the caller may read or change the run. If not, it gets the answer for a missing run."""
        if self.scope is not None and row.scope != self.scope:
            return False
        if self._is_free("on_run_access"):
            return True
        return (await self._call("on_run_access", run_from_row(row), operation)) is True

    async def recognizes(self, row: RunRow) -> bool:
        """Whether a run that was found by its idempotency key may be shown; ``Refusal`` if it is another
        caller's. Callers that may trigger but not read get only its id."""
        if not self._is_decided("on_run_access"):
            return False
        if not await self.may_access(row, "run"):
            raise Refusal(409, "conflict", "idempotency key already in use")
        return True

    async def scoped(self, filter: RunFilter, *, live: bool) -> RunFilter:
        """Restrict a list's filter to what the caller may see."""
        if self.scope is not None:
            filter = replace(filter, scope=self.scope)
        hook = "scope_runs_subscribe" if live else "scope_runs"
        if self._is_free(hook):
            return filter
        answer = await self._call(hook, filter)
        if not isinstance(answer, RunFilter):
            raise _not_allowed()
        return answer if self.scope is None else replace(answer, scope=self.scope)

    async def may_read(self, hook: Literal["on_jobs", "on_metrics"]) -> None:
        """Refuse, with ``auth``, what belongs to no run, unless its hook exists and returns True."""
        if self._auth is not None and (await self._call(hook)) is not True:
            raise _not_allowed()


ANYBODY = Caller(None, None, None)
"""The caller where nothing authenticates."""


async def authenticate(auth: Any | None, request: Request) -> Caller:
    """Find the caller of a request. ``Refusal`` 401 if ``auth`` finds no principal."""
    if auth is None:
        return ANYBODY
    principal = await call_hook(auth.authenticate, request)
    if not principal:
        challenge = [("www-authenticate", "Bearer")]
        raise Refusal(401, "unauthenticated", "authentication required", headers=challenge)
    return Caller(auth, principal, await _scope_of(auth, principal))


async def _scope_of(auth: Any, principal: Any) -> str | None:
    """Call the ``scope`` hook, if there is one, and check its answer."""
    hook = getattr(auth, "scope", None)
    scope = None if hook is None else await call_hook(hook, principal)
    if scope == "":  # an unknown tenant must not become the scope that all others share
        raise ValueError("auth.scope() must return a tenant or None, got ''")
    try:
        return None if scope is None else check_scope(scope)
    except InvalidInputError as error:
        raise ValueError(f"auth.scope(): {error}") from None


def _not_allowed() -> Refusal:
    return Refusal(403, "not_allowed", "not allowed")
