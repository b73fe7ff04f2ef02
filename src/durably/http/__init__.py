"""HTTP and SSE: the protocol without a framework, and adapters of some tens of lines."""

from ..wire.requests import TriggerRequest
from .asgi import AsgiApp
from .auth import Auth
from .handler import Handler
from .message import Refusal, Request, Response
from .streams import Limits
from .wsgi import WsgiApp

__all__ = [
    "AsgiApp",
    "Auth",
    "Handler",
    "Limits",
    "Refusal",
    "Request",
    "Response",
    "TriggerRequest",
    "WsgiApp",
]
