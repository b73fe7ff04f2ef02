"""What an instance is to servers: HTTP applications and a lifespan.

``durably.http`` is loaded when the first of them is made: scripts and workers do without it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from typing_extensions import Unpack

from .engine.engine import Engine
from .lifespan import Lifespan
from .runtime import Seconds
from .sync import SyncDurably

if TYPE_CHECKING:
    from . import http
else:

    class _Http:
        """``durably.http``, loaded by the first use; annotations find its names, too."""

        def __getattr__(self, name: str) -> Any:
            return getattr(import_module("durably.http"), name)

    http = _Http()


class Serving:
    """The applications that serve an instance."""

    def __init__(self, engine: Engine, sync: SyncDurably) -> None:
        self._engine = engine
        self._sync = sync

    def handler(self, **options: Unpack[http.handler.HandlerOptions]) -> http.Handler:
        """The HTTP and SSE protocol without a framework: ``await handler.handle(request)``.

        Options as ``durably.http.Handler``.
        """
        return http.Handler(self._engine, **options)

    def asgi(
        self, *, base_path: str = "/api/durably", **options: Unpack[http.handler.HandlerOptions]
    ) -> http.AsgiApp:
        """An ASGI application that speaks the protocol; mount it in FastAPI, Starlette, Django ...

        ``base_path`` is taken off paths that begin with it, for where nothing mounts it. Served by
        itself, it starts and stops this instance; where no lifespan opens it, as in a serverless
        process, the first request does. Options as ``durably.http.Handler``.
        """
        return http.AsgiApp(self._engine, http.Handler(self._engine, **options), base_path)

    def wsgi(
        self, *, base_path: str = "/api/durably", **options: Unpack[http.handler.HandlerOptions]
    ) -> http.WsgiApp:
        """A WSGI application that speaks the protocol, for Flask, Django and their like.

        As ``asgi``; the first request opens this instance unless ``durably.sync()`` is open. Each
        stream holds a thread of the server: without ``limits`` there are 12, and 6 of one principal.
        """
        options["limits"] = http.wsgi.limits_of_threads(options.get("limits"))
        return http.WsgiApp(self._sync, http.Handler(self._engine, **options), base_path)

    def lifespan(self, app: object = None, *, grace: Seconds | None = None) -> Lifespan:
        """``init()`` and ``stop()`` around an application: ``FastAPI(lifespan=durably.lifespan)``.

        ``grace``: seconds that runs have to end when the server stops, as ``lifespan=durably.lifespan(grace=1)``.
        By default 25, and none where a development server reloads the code. A second signal ends it.
        Raises ``ConfigurationError`` for a grace that is not a duration.
        """
        return Lifespan(self._engine.init, self._engine.stop_within, grace)

    def sync(self) -> SyncDurably:
        """The same for callers that cannot await: ``with durably.sync() as d: d.trigger(...)``."""

        return self._sync
