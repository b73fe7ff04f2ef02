"""Who may do what. It fails closed: what no hook allows is refused.

``auth=`` takes any object with these methods, each plain or async; ``Auth`` is a base class for it.
Only ``authenticate`` must be there. With ``scope`` every run belongs to its tenant, and that is all
most applications need; without it the other hooks decide, and an operation whose hook is missing is
refused. A hook allows by saying so: what it gives instead of True, None above all, does not.
"""

from __future__ import annotations

import inspect
import ipaddress
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any, Generic, Literal, TypeVar
from urllib.parse import urlsplit

from ..errors import ConfigurationError, DurablyError, InvalidInputError, StorageError
from ..jobs.checks import check_scope
from ..store.records import RunFilter, RunRow
from ..store.snapshots import run_from_row
from ..wire.requests import TriggerRequest
from .messages import Refusal, Request

P = TypeVar("P")

Operation = Literal["run", "steps", "logs", "subscribe", "retry", "retrigger", "cancel", "delete"]
"""What is asked of one run."""

HOOKS = (
    "authenticate", "scope", "on_trigger", "on_run_access", "scope_runs", "scope_runs_subscribe",
    "on_jobs", "on_metrics",
)  # fmt: skip

_ELSEWHERE = ("same-site", "cross-site")
_PROXY_HEADERS = frozenset({
    "forwarded", "via", "x-real-ip", "x-client-ip", "x-cluster-client-ip", "true-client-ip",
    "cf-connecting-ip", "fly-client-ip", "x-envoy-external-address", "x-amzn-trace-id",
})  # fmt: skip


class Auth(Generic[P]):
    """A base class for ``auth=``: override ``authenticate``, and ``scope`` or the ``on_`` hooks."""

    async def authenticate(self, request: Request) -> P | None:
        """Who asks; None (401) or a ``Refusal`` when that is nobody."""
        raise NotImplementedError

    def scope(self, principal: P) -> str | None:
        """The tenant whose runs the principal has: stamped on each run that it triggers, asked of each
        that it reads. None: runs are not divided, and the other hooks decide."""
        return None


def check_auth(auth: Any) -> None:
    """``ConfigurationError`` for what cannot be ``auth=``: a misspelled hook would guard nothing."""
    if not callable(getattr(auth, "authenticate", None)):
        raise ConfigurationError("auth has no method authenticate(request)")
    for name in dir(auth):
        if name.startswith(("on_", "scope_")) and name not in HOOKS:
            known = ", ".join(HOOKS)
            raise ConfigurationError(f"auth has {name}, which is no hook; there are: {known}")


async def hear(hook: Callable[..., Any], *args: Any) -> Any:
    """What a hook says; it may raise a ``Refusal`` or return one. An error of ours that it runs into is
    the server's failure, not an answer to the client's request."""
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
    """Who asks, as far as it is known, and what that allows."""

    def __init__(self, auth: Any | None, principal: Any, scope: str | None) -> None:
        self._auth = auth
        self.principal = principal
        self.scope = scope

    async def _ask(self, hook: str, *args: Any) -> Any:
        """What a hook says; a missing one refuses."""
        found = getattr(self._auth, hook, None)
        if found is None:
            raise _not_allowed()
        return await hear(found, self.principal, *args)

    def _is_free(self, hook: str) -> bool:
        """Whether nothing but the scope decides."""
        return self._auth is None or (self.scope is not None and not hasattr(self._auth, hook))

    def _can_be_asked(self, hook: str) -> bool:
        return self._is_free(hook) or getattr(self._auth, hook, None) is not None

    async def may_trigger(self, request: TriggerRequest) -> TriggerRequest:
        """What to trigger: as it was asked for when ``on_trigger`` gives True, or what that gives."""
        if self._is_free("on_trigger"):
            return request
        answer = await self._ask("on_trigger", request)
        if answer is True:
            return request
        if not isinstance(answer, TriggerRequest):
            raise Refusal(403, "not_allowed", f"you may not trigger {request.job[:255]!r}")
        return answer

    def check_access(self) -> None:
        """Refuse where nothing decides about runs: alike for runs that there are and that there are not."""
        if not self._can_be_asked("on_run_access"):
            raise _not_allowed()

    async def may_access(self, row: RunRow, operation: Operation) -> bool:
        """Whether the run is this caller's to see or to move. Elsewhere it does not exist."""
        if self.scope is not None and row.scope != self.scope:
            return False
        if self._is_free("on_run_access"):
            return True
        return (await self._ask("on_run_access", run_from_row(row), operation)) is True

    async def recognizes(self, row: RunRow) -> bool:
        """Whether a run whose idempotency key was said again may be shown; ``Refusal`` when it is
        another's. Who may trigger but not read is told the id, and no more."""
        if not self._can_be_asked("on_run_access"):
            return False
        if not await self.may_access(row, "run"):
            raise Refusal(409, "conflict", "this idempotency key is taken")
        return True

    async def scoped(self, filter: RunFilter, *, live: bool) -> RunFilter:
        """A listing's filter, confined to what the caller may see."""
        if self.scope is not None:
            filter = replace(filter, scope=self.scope)
        hook = "scope_runs_subscribe" if live else "scope_runs"
        if self._is_free(hook):
            return filter
        answer = await self._ask(hook, filter)
        if not isinstance(answer, RunFilter):
            raise _not_allowed()
        return answer if self.scope is None else replace(answer, scope=self.scope)

    async def may_read(self, hook: Literal["on_jobs", "on_metrics"]) -> None:
        """What belongs to no run: refused with ``auth`` unless its hook is there and lets it pass."""
        if self._auth is not None and (await self._ask(hook)) is not True:
            raise _not_allowed()


class Gate:
    """Lets requests in: by their peer, their origin, their principal."""

    def __init__(self, auth: Any | None, *, public: bool, origins: Collection[str]) -> None:
        self.auth = auth
        self._public = public
        self.origins = frozenset(origins)

    def check_peer(self, request: Request) -> None:
        """Without ``auth`` only this machine is answered, unless ``public=True`` was said.

        A proxy on this machine makes everybody a loopback peer, and a page on another site can have
        its name resolve to this machine; both are told by their headers.
        """
        if self.auth is not None or self._public:
            return
        proxied = any(_is_of_proxies(name) for name in request.headers)
        host = _hostname(request.headers.get("host", ""))
        if not _is_loopback(request.client) or proxied or not _is_local_name(host):
            raise Refusal(
                403,
                "not_local",
                "this server answers only requests from its own machine; give it auth=..., or say "
                "public=True",
            )

    def check_embedding(self, request: Request) -> None:
        """No page of another origin may load this as an image, a script or the like: it could read
        nothing, but its streams would count as those of a user whose cookies come along."""
        site = request.headers.get("sec-fetch-site", "none")
        if request.headers.get("sec-fetch-mode") == "no-cors" and site in _ELSEWHERE:
            raise Refusal(403, "cross_origin", "requests from pages of other origins are refused")

    def check_origin(self, request: Request) -> None:
        """Unsafe requests: no form and no other site's page can send them (CSRF)."""
        site = request.headers.get("sec-fetch-site")
        origin = request.headers.get("origin")
        listed = origin is not None and origin in self.origins
        # Where the browser says what the page's site is, that decides; else the Origin does, if any.
        if site is not None:
            same, ours = site == "same-origin", site in ("same-origin", "none")
        else:
            same = origin is not None and _is_same(origin, request)
            ours = same or origin is None
        if not ours and not listed:
            raise Refusal(403, "cross_origin", "requests from pages of other origins are refused")
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind and kind != "application/json":
            raise Refusal(415, "not_json", "send content-type: application/json")
        # A script of a page that may ask, with an empty body: the published client asks like this.
        if not kind and not (same or listed) and "x-durably" not in request.headers:
            raise Refusal(
                415, "not_json", "send content-type: application/json, or the header X-Durably: 1"
            )

    async def admit(self, request: Request) -> Caller:
        """Who asks; 401 for nobody."""
        if self.auth is None:
            return Caller(None, None, None)
        principal = await hear(self.auth.authenticate, request)
        if not principal:
            raise Refusal(
                401, "unauthenticated", "say who you are", headers=[("www-authenticate", "Bearer")]
            )
        return Caller(self.auth, principal, await self._scope_of(principal))

    async def _scope_of(self, principal: Any) -> str | None:
        hook = getattr(self.auth, "scope", None)
        scope = None if hook is None else await hear(hook, principal)
        if scope == "":  # a tenant that is not known must not be the one that all others share
            raise ValueError("auth.scope() gave '', which is no tenant")
        try:
            return None if scope is None else check_scope(scope)
        except InvalidInputError as error:
            raise ValueError(f"auth.scope(): {error}") from None

    def cors(self, request: Request) -> list[tuple[str, str]]:
        """The headers that let a listed origin's page read the answer."""
        if not self.origins:
            return []
        origin = request.headers.get("origin")
        if origin is None or origin not in self.origins:
            return [("vary", "Origin")]
        return [
            ("vary", "Origin"),
            ("access-control-allow-origin", origin),
            ("access-control-allow-credentials", "true"),
            ("access-control-expose-headers", "Durably-Next-Cursor, Durably-Page, Retry-After"),
        ]


def _not_allowed() -> Refusal:
    return Refusal(403, "not_allowed", "this is not allowed here")


def _is_of_proxies(header: str) -> bool:
    return header in _PROXY_HEADERS or header.startswith("x-forwarded-")


def _is_loopback(address: str | None) -> bool:
    try:
        found = ipaddress.ip_address(address or "")
    except ValueError:
        return False
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return (mapped or found).is_loopback


def _is_local_name(host: str) -> bool:
    return host == "localhost" or host.endswith(".localhost") or _is_loopback(host)


def _hostname(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _is_same(origin: str, request: Request) -> bool:
    host = request.headers.get("host", "").lower()
    return bool(host) and origin.partition("://")[2].lower() == host
