"""The host of the pages: static files on loopback, and a place where jobs leave their traces."""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

HERE = Path(__file__).parent


class Site:
    """Files by the beginning of their address; ``POST /effect`` keeps its body."""

    def __init__(self, folders: Mapping[str, Path], port: int = 0) -> None:
        self.effects: list[str] = []
        """What jobs did, in the order in which it arrived."""
        self.requests: list[str] = []
        self.folders = dict(folders)
        """By the beginning of the address. Another one is a new release."""
        self.caching = "no-cache"
        """The ``Cache-Control`` of all files."""
        self._server = _Server(("127.0.0.1", port), partial(_Handler, site=self))
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return self._server.server_address[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def begun(self, run_id: str) -> list[str]:
        """The steps of a run that began, in order; a step that began twice stands there twice."""
        head = f"{run_id} begin "
        return [
            f"step {effect.removeprefix(head)}"
            for effect in self.effects
            if effect.startswith(head)
        ]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Browsers are killed here in the middle of their requests."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(SimpleHTTPRequestHandler):
    extensions_map = {
        ".css": "text/css",
        ".html": "text/html",
        ".js": "text/javascript",
        ".json": "application/json",
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
        "": "application/octet-stream",
    }

    def __init__(self, *args: object, site: Site) -> None:
        self._site, self._folders = site, site.folders
        super().__init__(*args)

    def translate_path(self, path: str) -> str:
        path = urlsplit(path).path
        start = max((start for start in self._folders if path.startswith(start)), key=len)
        return str(self._folders[start] / (path[len(start) :] or self._index(start)))

    def _index(self, start: str) -> str:
        return next(
            name for name in ("page.html", "index.html") if (self._folders[start] / name).exists()
        )

    def do_GET(self) -> None:
        self._site.requests.append(self.path)
        super().do_GET()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        self._site.effects.append(body.decode())
        self.send_response(204)
        self.end_headers()

    def end_headers(self) -> None:
        self.send_header("cache-control", self._site.caching)
        self.send_header("vary", "Origin")  # as many hosts do, `vite preview` among them
        super().end_headers()

    def log_message(self, *_: object) -> None:
        pass
