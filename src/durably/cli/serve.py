"""``durably serve``: the API and a worker in one process, until a signal."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import socket
from argparse import Namespace
from collections.abc import Generator
from contextlib import closing, contextmanager
from errno import EADDRINUSE
from typing import TYPE_CHECKING, Any

from ..durably import Durably, engine_of
from ..errors import DurablyError, StorageError
from ..http import AsgiApp
from .logs import set_up
from .signals import STOPPING, Signals, unless
from .target import UsageError, load, load_durably

if TYPE_CHECKING:
    import uvicorn

logger = logging.getLogger("durably")

_LOOK = 1.0  # seconds between two looks at whether the worker still works
_FIRST = asyncio.FIRST_COMPLETED
_WAITING = 2048  # connections that wait to be accepted
_STREAM = socket.SOCK_STREAM
_LAST_REQUESTS = 1  # seconds for requests that are being answered when a signal comes


class ListenError(DurablyError):
    """The address cannot be listened on."""


async def serve(args: Namespace) -> int:
    """Answer requests, and work, until a signal."""
    set_up(args)
    durably = _instance(args)
    auth = _auth(args.auth)
    app = durably.asgi(base_path=args.path, auth=auth, public=args.public, origins=args.cors)
    server = _make_server(app)
    with closing(_listen(args, open_to_all=auth is not None or args.public)) as listener:
        signals = Signals(durably.expect_stop)
        try:
            await durably.init()
            _say_where(listener, durably, args)
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            try:
                await _until_stopped(serving, durably, signals, works=not args.no_worker)
                logger.info(STOPPING, args.grace)
            finally:
                app.handler.close_streams()  # first: the server waits for what is open
                await _stop(server, serving, signals)
        except BaseException:
            await durably.stop(0)
            raise
        if await unless(signals.second, durably.stop(args.grace)):
            return 0
    return signals.exit_code


async def _until_stopped(
    serving: asyncio.Task[None], durably: Durably, signals: Signals, *, works: bool
) -> None:
    stopped = asyncio.create_task(signals.first.wait())
    try:
        while not stopped.done():
            await asyncio.wait({serving, stopped}, timeout=_LOOK, return_when=_FIRST)
            if serving.done():
                serving.result()
                raise ListenError("the server ended by itself; its log says why")
            if works and not durably.is_working:
                raise StorageError(
                    f"the worker on {durably.shown_database} had to stop; its log says why"
                )
    finally:
        stopped.cancel()


async def _stop(server: uvicorn.Server, serving: asyncio.Task[None], signals: Signals) -> None:
    server.should_exit = True

    async def ended() -> None:
        await asyncio.wait({serving})

    if not await unless(signals.second, ended()):
        server.force_exit = True
        await ended()


def _make_server(app: AsgiApp) -> uvicorn.Server:
    try:
        import uvicorn
    except ModuleNotFoundError:
        raise UsageError("serve needs uvicorn: pip install 'durably[server]'") from None

    class Server(uvicorn.Server):
        @contextmanager
        def capture_signals(self) -> Generator[None]:
            yield  # our handlers are in place

    config = uvicorn.Config(
        app,
        lifespan="off",
        ws="none",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_LAST_REQUESTS,
    )
    return Server(config)


def _instance(args: Namespace) -> Durably:
    durably = load_durably(args.durably)
    engine_of(durably).set_worker(works=not args.no_worker)
    if not args.no_worker and not durably.jobs:
        raise UsageError(
            f"{args.durably} has no jobs; import the modules that register them, or pass --no-worker"
        )
    return durably


def _auth(spec: str | None) -> Any | None:
    if spec is None:
        return None
    found = load(spec)
    auth = found() if isinstance(found, type) else found
    if not callable(getattr(auth, "authenticate", None)):
        raise UsageError(f"{spec} has no method authenticate(request)")
    return auth


def _listen(args: Namespace, *, open_to_all: bool) -> socket.socket:
    """A socket on the first address of the host."""
    host, port = args.host, args.port
    try:
        found = socket.getaddrinfo(host or None, port, type=_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise UsageError(f"host {host!r} is not known: {error.strerror}") from None
    family, kind, protocol, _, address = found[0]
    if not open_to_all and not ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback:
        raise UsageError(
            f"{host or 'every address'} can be reached from other machines, and anybody there could "
            "do everything; pass --auth MODULE:NAME, or --public if that is meant"
        )
    # Not socket.create_server: it leaves the protocol open, and asyncio turns off Nagle's algorithm
    # (40 ms an answer) only for what says that it is TCP.
    listener = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_WAITING)
        return listener
    except OSError as error:
        listener.close()
        what = "is in use" if error.errno == EADDRINUSE else f"cannot be listened on: {error}"
        raise ListenError(f"port {port} of {host} {what}; pass another --port") from None


def _say_where(listener: socket.socket, durably: Durably, args: Namespace) -> None:
    host = f"[{args.host}]" if ":" in args.host else args.host or "localhost"
    url = f"http://{host}:{listener.getsockname()[1]}/{args.path.strip('/')}".rstrip("/")
    work = "without a worker" if args.no_worker else f"with a worker for {', '.join(durably.jobs)}"
    print(f"Durably at {url} {work}; Ctrl-C stops it", flush=True)
