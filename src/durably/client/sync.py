"""The client for callers that cannot await: its event loop runs in a thread, as ``durably.sync()``'s."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import (
    AsyncGenerator,
    Callable,
    Coroutine,
    Iterator,
    Mapping,
    Sequence,
)
from concurrent.futures import CancelledError
from contextlib import nullcontext, suppress
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import httpx2

from ..errors import ClosedError, ConfigurationError
from ..events import AnyEvent, Resync
from ..models import CompletedRun, I, O, Run
from ..portal import Portal
from ..runtime import Seconds
from ..state import Status
from ..terminal import Show, open_bar, title_of
from ..wire.events import ListEvent
from .client import DurablyClient

T = TypeVar("T")
P = ParamSpec("P")


def _blocking(
    method: Callable[Concatenate[DurablyClient, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[SyncDurablyClient, P], T]:
    """The method of ``DurablyClient``, with its types, for callers that cannot await."""

    @wraps(method)
    def call(self: SyncDurablyClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self.call(method(self.client, *args, **kwargs))

    return call


class SyncDurablyClient:
    """``DurablyClient``, blocking; may be used from any thread. The options are the same.

    ``with SyncDurablyClient(url) as c:`` closes it at the end, as ``close()`` does.
    """

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        auth: httpx2.Auth | tuple[str, str] | None = None,
        timeout: Seconds = 30.0,
        retries: int = 3,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        self.client = DurablyClient(
            url,
            headers=headers,
            auth=auth,
            timeout=timeout,
            retries=retries,
            transport=transport,
        )
        """The client behind this one, for ``call``."""
        self._calls = threading.Condition()
        self._calling = 0
        self._tasks: set[asyncio.Task[Any] | None] = set()  # of the loop's thread
        self._thread: Portal | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"Sync{self.client!r}"

    def __enter__(self) -> SyncDurablyClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    trigger = _blocking(DurablyClient.trigger)
    trigger_and_wait = _blocking(DurablyClient.trigger_and_wait)
    wait = _blocking(DurablyClient.wait)
    get_run = _blocking(DurablyClient.get_run)
    get_runs = _blocking(DurablyClient.get_runs)
    get_steps = _blocking(DurablyClient.get_steps)
    get_logs = _blocking(DurablyClient.get_logs)
    get_jobs = _blocking(DurablyClient.get_jobs)
    retry = _blocking(DurablyClient.retry)
    retrigger = _blocking(DurablyClient.retrigger)
    cancel = _blocking(DurablyClient.cancel)
    delete_run = _blocking(DurablyClient.delete_run)

    def iter_runs(
        self,
        *,
        job: str | Sequence[str] = (),
        status: Status | str | Sequence[Status | str] = (),
        labels: Mapping[str, str] | None = None,
    ) -> Iterator[Run]:
        """As ``DurablyClient.iter_runs``."""
        return self._iterate(self.client.iter_runs(job=job, status=status, labels=labels))

    def subscribe(self, run_id: str, after: int | None = 0) -> Iterator[AnyEvent]:
        """As ``DurablyClient.subscribe``, blocking between events."""
        return self._iterate(self.client.subscribe(run_id, after))

    def subscribe_runs(
        self, *, job: str | Sequence[str] = (), labels: Mapping[str, str] | None = None
    ) -> Iterator[ListEvent | Resync]:
        """As ``DurablyClient.subscribe_runs``, blocking between events."""
        return self._iterate(self.client.subscribe_runs(job=job, labels=labels))

    def follow(
        self,
        run: Run[I, O] | str,
        timeout: Seconds | None = None,
        *,
        show: Show | None = None,
    ) -> CompletedRun[I, O]:
        """As ``DurablyClient.follow``; ``show`` is called in the loop's thread."""
        # The bar is opened in this thread: it tells a notebook under which cell it belongs.
        with nullcontext(show) if show else open_bar(title_of(run)) as draw:
            return self.call(self.client.follow(run, timeout, show=draw))

    def close(self) -> None:
        """Close all connections; calls that are waiting in other threads raise ``ClosedError``."""
        with self._calls:
            if self._closed:
                return
            self._closed = True
            portal, self._thread = self._thread, None
        if portal is not None:
            while not self._nobody_calls():
                portal.call(self._cancel_calls())
            portal.call(_close_generators())
            portal.call(self.client.close())
            portal.close()

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine of ``client`` on its event loop, and wait for it."""
        try:
            portal = self._enter()
        except ClosedError:
            coroutine.close()
            raise
        try:
            return portal.call(self._called(coroutine))
        except (ClosedError, ConfigurationError):  # it may not have begun
            coroutine.close()
            raise
        except CancelledError:
            raise ClosedError("this client was closed while the call waited") from None
        finally:
            with self._calls:
                self._calling -= 1
                self._calls.notify_all()

    async def _called(self, coroutine: Coroutine[Any, Any, T]) -> T:
        task = asyncio.current_task()
        self._tasks.add(task)
        try:
            return await coroutine
        finally:
            self._tasks.discard(task)

    async def _cancel_calls(self) -> None:
        """The calls alone: what they started ends with them, in an order that is theirs to know."""
        calls = [task for task in self._tasks if task is not None]
        for task in calls:
            task.cancel()
        await asyncio.gather(*calls, return_exceptions=True)

    def _enter(self) -> Portal:
        with self._calls:
            if self._closed:
                raise ClosedError("this client is closed; make another one")
            if self._thread is None:  # not earlier: a thread does not survive a fork
                self._thread = Portal("durably-client")
            self._calling += 1
            return self._thread

    def _nobody_calls(self) -> bool:
        with self._calls:
            return self._calls.wait_for(lambda: self._calling == 0, timeout=0.05)

    def _iterate(self, stream: AsyncGenerator[T]) -> Iterator[T]:
        try:
            while True:
                try:
                    yield self.call(anext(stream))
                except StopAsyncIteration:
                    return
        finally:
            with suppress(ClosedError):
                self.call(stream.aclose())


async def _close_generators() -> None:
    """Of iterations that were left open."""
    await asyncio.get_running_loop().shutdown_asyncgens()
