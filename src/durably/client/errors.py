"""What can go wrong between a client and its server. Everything else is raised as it is locally.

DurablyError
  ServerError                   the server failed, or what answered is no Durably server
    ServerUnavailableError      no answer, or one that says "not now"
    RequestRefusedError         the server understood and said no
"""

from __future__ import annotations

from ..errors import DurablyError


class ServerError(DurablyError):
    """The server failed, or what answers at the URL is no Durably server."""

    def __init__(
        self, message: str, *, url: str, status: int | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.url = url
        """What was asked for, without query and password."""
        self.status = status
        """The HTTP status; None when there was no answer."""
        self.code = code
        """The server's stable word for a refusal."""


class ServerUnavailableError(ServerError):
    """The server cannot be reached, or says that it cannot answer now."""


class RequestRefusedError(ServerError):
    """The server refused what was asked: not signed in, not allowed, too large …"""
