"""Real servers on loopback sockets, in this process and on this event loop or a thread."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import uvicorn
from werkzeug.serving import make_server


@asynccontextmanager
async def serve(app: Any, **options: Any) -> AsyncGenerator[str, None]:
    """uvicorn, with the application's lifespan; gives its address."""
    listener = _listen()
    config = uvicorn.Config(
        app, **{"log_config": None, "lifespan": "on", "timeout_graceful_shutdown": 5, **options}
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve([listener]))
    try:
        async with asyncio.timeout(30):
            while not server.started:
                assert not serving.done(), "the server did not start"
                await asyncio.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving
        listener.close()


@contextmanager
def serve_in_thread(app: Any) -> Generator[str, None, None]:
    """``serve``, for those who do not await."""
    listener = _listen()
    config = uvicorn.Config(app, log_config=None, lifespan="on", timeout_graceful_shutdown=5)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


def _listen() -> socket.socket:
    """As uvicorn would by itself. ``socket.create_server`` does not say that it is TCP: asyncio then leaves
    Nagle's algorithm on, and each answer waits 40 ms for the client's delayed acknowledgement."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    return listener


@contextmanager
def serve_wsgi(app: Any) -> Generator[str, None, None]:
    """werkzeug's server, a thread for each request; gives its address."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def talk(address: str, request: bytes, timeout: float = 30) -> bytes:
    """Send bytes to a server, and read until it closes; a ``connection: close`` belongs into them."""
    host, _, port = address.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=timeout) as connection:
        with suppress(BrokenPipeError, ConnectionResetError):  # it may answer before it read all
            connection.sendall(request)
        told = b""
        with suppress(ConnectionResetError):
            while chunk := connection.recv(65_536):
                told += chunk
        return told


async def talk_to(address: str, request: bytes) -> bytes:
    """``talk``, for those who await."""
    return await asyncio.to_thread(talk, address, request)
