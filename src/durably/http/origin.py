"""Which machines and which pages may send requests, apart from who is authenticated.

Browsers send requests for any page, with the user's cookies. Three checks stand against that: pages of
other origins may change nothing (CSRF), may embed nothing, and may read nothing (CORS), unless their
origin is listed. Without authentication only this machine is served.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit

from .message import Refusal, Request

_ELSEWHERE = ("same-site", "cross-site")
_PROXY_HEADERS = frozenset({
    "forwarded", "via", "x-real-ip", "x-client-ip", "x-cluster-client-ip", "true-client-ip",
    "cf-connecting-ip", "fly-client-ip", "x-envoy-external-address", "x-amzn-trace-id",
})  # fmt: skip


class OriginPolicy:
    """Checks the peer and the origin of requests.

    ``local_only``: requests from other machines are refused. ``origins``: other origins whose pages may
    send requests and read the responses.
    """

    def __init__(self, *, local_only: bool, origins: Collection[str]) -> None:
        self._local_only = local_only
        self._origins = frozenset(origins)

    def check_peer(self, request: Request) -> None:
        """Refuse, where only this machine is served, requests from others.

        Behind a proxy on this machine every peer is a loopback address, and a page on another site can
        have its name resolve to this machine; the headers of both show it.
        """
        if not self._local_only:
            return
        proxied = any(_is_proxy_header(name) for name in request.headers)
        host = _hostname(request.headers.get("host", ""))
        if not _is_loopback(request.client) or proxied or not _is_local_name(host):
            raise Refusal(
                403,
                "not_local",
                "only requests from this machine are accepted; pass auth=... to the handler, or "
                "public=True",
            )

    def check_embedding(self, request: Request) -> None:
        """Refuse pages of other origins that load this as an image, a script or the like: they could read
        nothing, but their streams would count as those of the user whose cookies are sent."""
        site = request.headers.get("sec-fetch-site", "none")
        if request.headers.get("sec-fetch-mode") == "no-cors" and site in _ELSEWHERE:
            raise Refusal(403, "cross_origin", "cross-origin requests are not allowed")

    def check_origin(self, request: Request) -> None:
        """Refuse an unsafe request that a form or a page of another site could send (CSRF)."""
        site = request.headers.get("sec-fetch-site")
        origin = request.headers.get("origin")
        listed = origin is not None and origin in self._origins
        # If the browser sends the site of the page, that decides; otherwise the Origin does, if any.
        if site is not None:
            same, allowed = site == "same-origin", site in ("same-origin", "none")
        else:
            same = origin is not None and _is_same(origin, request)
            allowed = same or origin is None
        if not allowed and not listed:
            raise Refusal(403, "cross_origin", "cross-origin requests are not allowed")
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind and kind != "application/json":
            raise Refusal(415, "not_json", "content-type must be application/json")
        # A script of an allowed page, with an empty body: the published client sends such requests.
        if not kind and not (same or listed) and "x-durably" not in request.headers:
            raise Refusal(
                415,
                "not_json",
                "missing content-type: application/json, or the header X-Durably: 1",
            )

    def cors(self, request: Request) -> list[tuple[str, str]]:
        """Return the headers that let a listed origin's page read the response."""
        if not self._origins:
            return []
        origin = request.headers.get("origin")
        if origin is None or origin not in self._origins:
            return [("vary", "Origin")]
        return [
            ("vary", "Origin"),
            ("access-control-allow-origin", origin),
            ("access-control-allow-credentials", "true"),
            ("access-control-expose-headers", "Durably-Next-Cursor, Durably-Page, Retry-After"),
        ]


def _is_proxy_header(header: str) -> bool:
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
