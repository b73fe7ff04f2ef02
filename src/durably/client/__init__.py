"""Clients of a Durably server: ``DurablyClient``, and ``SyncDurablyClient`` for blocking callers.

sync -> client -> server, subscription -> connection -> refusals -> errors
        waiting   sse
"""

try:
    import httpx2 as _  # noqa: F401 - imported here, so that its absence has one clear message
except ModuleNotFoundError as error:
    if error.name != "httpx2":
        raise
    raise ModuleNotFoundError(
        "durably.client needs httpx2, which is not installed: pip install 'durably[client]'",
        name="httpx2",
    ) from None

from ..wire.events import ListEvent
from ..wire.runs import JobInfo
from .client import DurablyClient
from .errors import RequestRefusedError, ServerError, ServerUnavailableError
from .sync import SyncDurablyClient

__all__ = [
    "DurablyClient",
    "JobInfo",
    "ListEvent",
    "RequestRefusedError",
    "ServerError",
    "ServerUnavailableError",
    "SyncDurablyClient",
]
