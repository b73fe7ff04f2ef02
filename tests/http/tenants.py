"""Two tenants, told apart by a scope."""

from __future__ import annotations

from dataclasses import dataclass

from durably.http import Auth, Handler, Request

from .asking import Asker


@dataclass(frozen=True)
class User:
    name: str
    tenant: str | None


class Tenants(Auth[User]):
    """``Authorization: Bearer NAME@TENANT``; nobody without it."""

    async def authenticate(self, request: Request) -> User | None:
        name, _, tenant = request.headers.get("authorization", "")[7:].partition("@")
        return User(name, tenant or None) if name else None

    def scope(self, principal: User) -> str | None:
        return principal.tenant


def of(tenant: str, handler: Handler) -> Asker:
    """A user of a tenant."""
    return Asker(handler, {"authorization": f"Bearer u@{tenant}"}, "8.8.8.8")


@dataclass
class TwoTenants:
    """Two tenants on one instance, and runs of the first in every status."""

    handler: Handler
    a: Asker
    b: Asker
    runs: dict[str, str]
