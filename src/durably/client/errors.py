"""Errors between a client and its server. All others are raised as they are locally.

DurablyError
  ServerError                   the server failed, or is not a Durably server
    ServerUnavailableError      no answer, or "not now"
    RequestRefusedError         the server refused the request
"""

from __future__ import annotations

from ..errors import DurablyError


class ServerError(DurablyError):
    """The server failed, or the URL is not that of a Durably server."""

    def __init__(
        self, message: str, *, url: str, status: int | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.url = url
        """The URL of the request, without query and password."""
        self.status = status
        """The HTTP status; None if there was no answer."""
        self.code = code
        """The server's stable code of a refusal."""


class ServerUnavailableError(ServerError):
    """The server cannot be reached, or cannot answer now."""


class RequestRefusedError(ServerError):
    """The server refused the request: not authenticated, not allowed, too large …"""
