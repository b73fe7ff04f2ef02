"""Admits requests: by their peer, their origin, and their principal, in this order."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from .auth import ANYBODY, Caller, authenticate
from .message import Request
from .origin import OriginPolicy
from .routes import Route


class Guard:
    """Decides which requests reach the operations, and for whom."""

    def __init__(self, auth: Any | None, *, public: bool, origins: Collection[str]) -> None:
        self._auth = auth
        self._origins = OriginPolicy(local_only=auth is None and not public, origins=origins)

    async def admit(self, request: Request, route: Route) -> Caller:
        """Return who sent the request; ``Refusal`` 401, 403 or 415."""
        self._origins.check_peer(request)
        self._origins.check_embedding(request)
        if route.is_unsafe:
            self._origins.check_origin(request)
        return ANYBODY if route.open else await self.authenticate(request)

    async def authenticate(self, request: Request) -> Caller:
        """Find the caller of a request that was admitted before; ``Refusal`` 401."""
        return await authenticate(self._auth, request)

    def cors(self, request: Request) -> list[tuple[str, str]]:
        """Return the headers that let a listed origin's page read the response."""
        return self._origins.cors(request)
