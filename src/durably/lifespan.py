"""``durably.lifespan``: an instance around an application, and how it ends with its server."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Generator
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from .options import duration
from .runtime import Seconds

GRACE = 25.0  # seconds
_AT_ONCE = 0.5  # seconds that a step has to end before its process is reloaded
_RELOADERS = frozenset({"granian", "gunicorn", "hypercorn"})
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Lifespan(AbstractAsyncContextManager[None]):
    """``init()`` and ``stop()`` around an application. Made by ``durably.lifespan``.

    It is the context manager itself, and what makes one for an application, so that frameworks take
    ``durably.lifespan`` as well as ``durably.lifespan(grace=1)``.
    """

    def __init__(
        self,
        init: Callable[[], Coroutine[Any, Any, None]],
        stop: Callable[..., Coroutine[Any, Any, None]],
        grace: Seconds | None,
    ) -> None:
        self._init, self._stop = init, stop
        self._grace = None if grace is None else duration("grace", grace)

    def __call__(self, app: object = None) -> Lifespan:
        """The same, for a framework that passes its application."""
        return self

    async def __aenter__(self) -> None:
        await self._init()

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Stop: without a grace if this is cancelled, or by Ctrl-C; a signal meanwhile ends the grace."""
        if kind is not None and not issubclass(kind, Exception):
            limits: tuple[float, ...] = (0,)
        elif self._grace is None and is_reloaded():
            limits = (0, _AT_ONCE)
        else:
            limits = (GRACE if self._grace is None else self._grace,)
        caller = asyncio.current_task()
        before = caller.cancelling() if caller is not None else 0
        stopping = asyncio.create_task(self._stop(*limits), name="durably-stop")
        loop, signals = asyncio.get_running_loop(), 0

        def end_grace() -> None:
            nonlocal signals
            signals += 1
            if stopping.cancelling() < signals:  # else the handler of the signal has cancelled us
                stopping.cancel()

        with _listening(lambda: loop.call_soon_threadsafe(end_grace)):
            try:
                await stopping
            except asyncio.CancelledError:  # by a signal: the runs were handed back all the same
                if caller is not None and caller.cancelling() > before:
                    raise


@contextmanager
def _listening(on_signal: Callable[[], object]) -> Generator[None]:
    """Call ``on_signal`` for each signal to stop, after the handler of the server or of ``asyncio.run``.

    A signal without a handler keeps its default, and so do all of them outside of the main thread.
    """
    previous: dict[signal.Signals, Callable[[int, FrameType | None], Any]] = {}
    if threading.current_thread() is threading.main_thread():
        for number in _SIGNALS:
            handler = signal.getsignal(number)
            if callable(handler) and handler is not signal.default_int_handler:
                previous[number] = handler

    def hear(number: int, frame: FrameType | None) -> None:
        previous[signal.Signals(number)](number, frame)
        on_signal()

    for number in previous:
        signal.signal(number, hear)
    try:
        yield
    finally:
        for number, handler in previous.items():
            if signal.getsignal(number) is hear:
                signal.signal(number, handler)


def is_reloaded() -> bool:
    """Whether a development server restarts this process when code changes."""
    if os.environ.get("WERKZEUG_RUN_MAIN") or os.environ.get("RUN_MAIN"):  # Flask, Django
        return True
    # uvicorn's server hears the signals, and knows; also of "fastapi dev" and uvicorn.run(reload=True).
    server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    if getattr(getattr(server, "config", None), "should_reload", False) is True:
        return True
    return "--reload" in sys.argv and not _RELOADERS.isdisjoint(Path(sys.argv[0]).parts)
