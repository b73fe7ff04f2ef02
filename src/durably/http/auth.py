"""Who may do what. It fails closed: what no hook allows is refused.

``auth=`` takes any object with these methods, each plain or async; ``Auth`` is a base class for it.
Only ``authenticate`` must be there. With ``scope`` every run belongs to its tenant, and that is all
most applications need; without it the other hooks decide, and an operation whose hook is missing is
refused.
"""

from __future__ import annotations

import inspect
import ipaddress
from collections.abc import Collection
from dataclasses import replace
from typing import Any, Generic, Literal, TypeVar
from urllib.parse import urlsplit

from ..models import Run
from ..store.base import RunFilter
from .message import Refusal, Request
from .wire import TriggerRequest

P = TypeVar("P")

Operation = Literal["run", "steps", "logs", "subscribe", "retry", "retrigger", "cancel", "delete"]
"""What is asked of one run."""

_PROXY_HEADERS = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")


class Auth(Generic[P]):
    """A base class for ``auth=``: override ``authenticate``, and ``scope`` or the ``on_`` hooks."""

    async def authenticate(self, request: Request) -> P | None:
        """Who asks; None (401) or a ``Refusal`` when that is nobody."""
        raise NotImplementedError

    def scope(self, principal: P) -> str | None:
        """The tenant whose runs the principal has: stamped on each run that it triggers, asked of each
        that it reads. None: runs are not divided, and the other hooks decide."""
        return None


class Caller:
    """Who asks, as far as it is known, and what that allows."""

    def __init__(self, auth: Any | None, principal: Any, scope: str | None) -> None:
        self._auth = auth
        self.principal = principal
        self.scope = scope

    async def _ask(self, hook: str, *args: Any) -> Any:
        """What a hook says; a missing one refuses, unless the scope decides."""
        found = getattr(self._auth, hook, None)
        if found is None:
            raise Refusal(403, "not_allowed", "this is not allowed here")
        result = found(self.principal, *args)
        return await result if inspect.isawaitable(result) else result

    def _is_free(self, hook: str) -> bool:
        """Whether nothing but the scope decides."""
        return self._auth is None or (self.scope is not None and not hasattr(self._auth, hook))

    async def may_trigger(self, request: TriggerRequest) -> TriggerRequest:
        """``on_trigger`` may return a changed request, or raise a ``Refusal``; False refuses."""
        if self._is_free("on_trigger"):
            return request
        answer = await self._ask("on_trigger", request)
        if answer is False:
            raise Refusal(403, "not_allowed", f"you may not trigger {request.job!r}")
        return answer if isinstance(answer, TriggerRequest) else request

    async def may_access(self, run: Run, operation: Operation) -> bool:
        """Whether the run is this caller's to see or to move. Elsewhere it does not exist."""
        if self.scope is not None and run.scope != self.scope:
            return False
        if self._is_free("on_run_access"):
            return True
        return (await self._ask("on_run_access", run, operation)) is not False

    async def scoped(self, filter: RunFilter, *, live: bool) -> RunFilter:
        """A listing's filter, confined to what the caller may see."""
        if self.scope is not None:
            filter = replace(filter, scope=self.scope)
        hook = "scope_runs_subscribe" if live else "scope_runs"
        if self._is_free(hook):
            return filter
        answer = await self._ask(hook, filter)
        if not isinstance(answer, RunFilter):
            raise Refusal(403, "not_allowed", "this is not allowed here")
        return answer if self.scope is None else replace(answer, scope=self.scope)

    async def may_read(self, hook: Literal["on_jobs", "on_metrics"]) -> None:
        """What belongs to no run: refused with ``auth`` unless its hook is there and lets it pass."""
        if self._auth is None:
            return
        if (await self._ask(hook)) is False:
            raise Refusal(403, "not_allowed", "this is not allowed here")


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
        proxied = any(name in request.headers for name in _PROXY_HEADERS)
        host = _hostname(request.headers.get("host", ""))
        if not _is_loopback(request.client) or proxied or not _is_local_name(host):
            raise Refusal(
                403,
                "not_local",
                "this server answers only requests from its own machine; give it auth=..., or say "
                "public=True",
            )

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
        answer = self.auth.authenticate(request)
        principal = await answer if inspect.isawaitable(answer) else answer
        if principal is None:
            raise Refusal(
                401, "unauthenticated", "say who you are", headers=[("www-authenticate", "Bearer")]
            )
        scope = None
        if (scope_of := getattr(self.auth, "scope", None)) is not None:
            scope = scope_of(principal)
            if inspect.isawaitable(scope):
                scope = await scope
        return Caller(self.auth, principal, scope)

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
            ("access-control-expose-headers", "Durably-Next-Cursor, Retry-After"),
        ]


def _is_loopback(address: str | None) -> bool:
    try:
        return address is not None and ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


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
