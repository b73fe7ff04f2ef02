"""Streams of events that outlive their connections: each continues after the last number it received."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Literal, TypeVar

from ..errors import RunNotFoundError
from ..events import EVENT_TYPES, AnyEvent, LogWrite, Resync, RunDelete, RunProgress
from ..models import Progress
from ..runtime import to_datetime
from ..wire.events import ListEvent, event_from_list, event_from_wire
from ..wire.published import RESYNC
from ..wire.requests import RUN_ID, runs_to_query
from .connection import Backoff, Connection, Disconnected
from .errors import ServerError
from .refusals import RequestSpec
from .sse import Message, Parser, TooLong

logger = logging.getLogger("durably")
T = TypeVar("T")

_LASTING = 30.0  # seconds after which a connection counts as a good one

Mark = Literal["opened", "ended", "disconnected"]
"""A mark between messages: a connection was opened, was ended by the server, broke off."""


class Stream:
    """The messages of one subscription, over as many connections as it takes."""

    def __init__(self, connection: Connection, spec: RequestSpec, last_id: str = "") -> None:
        self._connection, self._spec = connection, spec
        self._last_id = last_id
        self._backoff = Backoff(connection.runtime)

    async def messages(self) -> AsyncGenerator[Message | Mark]:
        """Messages, and marks where connections begin and end. Never ends by itself."""
        while True:
            retry_after = 0.0
            try:
                async with aclosing(self._one_connection()) as messages:
                    async for message in messages:
                        yield message
                yield "ended"
            except Disconnected as error:
                retry_after = self._give_up_or_wait(error)
                yield "disconnected"
            await self._backoff.wait(retry_after)

    async def _one_connection(self) -> AsyncGenerator[Message | Mark]:
        parser = Parser(self._last_id)
        async with self._connection.stream(self._spec, self._last_id) as chunks:
            began = self._connection.runtime.monotonic()
            yield "opened"
            try:
                async for chunk in chunks:
                    for message in parser.feed(chunk):
                        self._backoff.failures = 0
                        if message.event == "message":  # others are of a later version
                            yield message
            except TooLong as error:
                raise self._bad_event(str(error)) from None
            finally:
                self._last_id = parser.last_id
                self._backoff.set_retry(parser.retry)
                if self._connection.runtime.monotonic() - began > _LASTING:
                    self._backoff.failures = 0

    def _give_up_or_wait(self, error: Disconnected) -> float:
        """Raise for a server that was never reached; for another, return its Retry-After."""
        self._connection.require_open()
        failures = self._backoff.failures
        if not self._connection.connected_once and failures >= self._connection.retries:
            raise self._connection.unavailable(self._spec, error, failures + 1) from None
        if (
            self._connection.connected_once and failures == 1
        ):  # the first is nothing unusual, such as a restart
            address = self._connection.address(self._spec)
            logger.warning("lost connection to %s (%s); reconnecting", address, error.reason)
        return error.retry_after

    def read(self, message: Message, make: Callable[[Any], T]) -> T:
        """Decode the data of a message by a function of the wire."""
        try:
            return make(json.loads(message.data))
        except (ValueError, RecursionError, TypeError, LookupError, AttributeError):
            raise self._bad_event(
                "received an event that this version of Durably cannot decode"
            ) from None

    def _bad_event(self, problem: str) -> ServerError:
        address = self._connection.address(self._spec)
        return ServerError(f"GET {address}: {problem}", url=address)


class RunStream:
    """The events of one run until it is over."""

    def __init__(
        self,
        connection: Connection,
        run_id: str,
        after: int | None,
        is_over: Callable[[], Awaitable[bool]],
    ) -> None:
        spec = RequestSpec("GET", "/subscribe", [(RUN_ID, run_id)], action="watch", run_id=run_id)
        self._stream = Stream(connection, spec, "" if after is None else str(after))
        self._now = connection.runtime.now
        self._is_over = is_over
        self._last = -1 if after is None else after
        self._passes_lines = after is None
        """True until the present state is received: log lines before it are old."""
        self._latest: AnyEvent | None = None
        self._progress: Progress | None = None

    async def events(self) -> AsyncGenerator[AnyEvent]:
        """Yield journaled events once each and in order, and live ones as they come, to the final one."""
        try:
            async with aclosing(self._to_the_end()) as events:
                async for event in events:
                    self._latest = event
                    yield event
        except RunNotFoundError:
            if self._latest is None:
                raise
            if not isinstance(self._latest, RunDelete):
                yield self._deletion(self._latest)

    async def _to_the_end(self) -> AsyncGenerator[AnyEvent]:
        final = has_news = was_over = False
        async with aclosing(self._stream.messages()) as messages:
            async for message in messages:
                if isinstance(message, Message):
                    has_news = True
                    if (event := self._read(message)) is not None:
                        final = event.is_final
                        yield event
                elif message == "opened":
                    has_news = False
                elif message == "ended":
                    # A run may be over, retried, and over again; only the server knows the end of its
                    # journal. Where it ends a stream without a final event, it is either closing
                    # down, or the run was over before the request and there is nothing to add.
                    if final or (was_over and not has_news):
                        return
                    was_over = await self._is_over()

    def _read(self, message: Message) -> AnyEvent | None:
        event = self._stream.read(message, event_from_wire)
        if event is None:  # of a later version
            return None
        if isinstance(event, RunProgress):  # it has no number, and is sent again after a reconnect
            if event.progress == self._progress:
                return None
            self._progress = event.progress
        if event.sequence is not None:
            if event.sequence <= self._last:
                return None
            self._last = max(event.sequence, _number(message.last_id))
        self._passes_lines = self._passes_lines and isinstance(event, LogWrite)
        return None if self._passes_lines else event

    def _deletion(self, latest: AnyEvent) -> RunDelete:
        """Build the event of a run that was deleted while no connection was open."""
        return RunDelete(
            run_id=latest.run_id,
            job=latest.job,
            labels=latest.labels,
            timestamp=to_datetime(self._now()),
        )


async def list_events(
    connection: Connection, jobs: Sequence[str], labels: Mapping[str, str]
) -> AsyncGenerator[ListEvent | Resync]:
    """Yield the events of all matching runs, with a ``Resync`` at the start of each connection."""
    spec = RequestSpec("GET", "/runs/subscribe", runs_to_query(jobs, labels=labels), action="watch")
    stream = Stream(connection, spec)
    at_start = False
    async with aclosing(stream.messages()) as messages:
        async for message in messages:
            if message == "opened":
                at_start = True
                yield Resync()
            elif isinstance(message, Message):
                event = stream.read(message, _list_event)
                if event is not None and not (at_start and isinstance(event, Resync)):
                    yield event
                at_start = False


def _list_event(data: Mapping[str, Any]) -> ListEvent | Resync | None:
    if data["type"] == RESYNC:
        return Resync()
    is_of_run = data["type"] in EVENT_TYPES or RUN_ID in data
    return event_from_list(data) if is_of_run else None  # one of a later version


def _number(id: str) -> int:
    return int(id) if id.isascii() and id.isdigit() and len(id) < 19 else 0
