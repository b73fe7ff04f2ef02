"""Listeners: who hears of this instance's events, and that none of them harms a run."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Literal, TypeVar, cast, overload

from .. import events
from ..errors import ConfigurationError
from ..telemetry.logs import logger
from ..telemetry.tracebacks import hide_frames

E = TypeVar("E", bound=events.Event)


class Listeners:
    """Listeners by event type. What one of them raises is logged, and harms no run."""

    def __init__(self) -> None:
        self._listeners: dict[str, list[Callable[[Any], object]]] = {}
        self._error_listeners: list[Callable[[Any], object]] = []
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def has_any(self) -> bool:
        """Whether there are listeners of runs' events."""
        return bool(self._listeners)

    def add(self, name: str, listener: Callable[[Any], object]) -> Callable[[], None]:
        """Add a listener of a type of events; returns what removes it."""
        is_of_errors = name == events.WorkerError.type
        listeners = self._error_listeners if is_of_errors else self._listeners.setdefault(name, [])
        listeners.append(listener)

        def unsubscribe() -> None:
            with suppress(ValueError):
                listeners.remove(listener)

        return unsubscribe

    def emit(self, event: events.AnyEvent) -> None:
        """Call the listeners of an event's type."""
        for listener in tuple(self._listeners.get(event.type, ())):
            self._call(listener, event)

    def report_error(self, where: str, error: BaseException, run_id: str | None = None) -> None:
        """Pass on to listeners of errors what was raised, and logged already; on the loop."""
        for listener in tuple(self._error_listeners):
            self._call(listener, events.WorkerError(where=where, error=error, run_id=run_id))

    def _call(
        self, listener: Callable[[Any], object], event: events.AnyEvent | events.WorkerError
    ) -> None:
        try:
            result = listener(event)
        except Exception as error:  # noqa: BLE001 - a listener harms nothing
            self._log_failure(event, error)
            return
        if inspect.isawaitable(result):
            task = asyncio.ensure_future(result)
            self._tasks.add(task)
            task.add_done_callback(partial(self._task_done, event))

    def _task_done(
        self, event: events.AnyEvent | events.WorkerError, task: asyncio.Future[Any]
    ) -> None:
        self._tasks.discard(cast("asyncio.Task[Any]", task))
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log_failure(event, error)

    def _log_failure(
        self, event: events.AnyEvent | events.WorkerError, error: BaseException
    ) -> None:
        logger.error("a listener of %s failed", event.type, exc_info=hide_frames(error))
        if not isinstance(event, events.WorkerError):  # its own listeners' errors are only logged
            self.report_error("listener", error, event.run_id)

    async def wait(self) -> None:
        """Wait a little for async listeners that are still at it, and for those of their errors."""
        with suppress(TimeoutError):
            async with asyncio.timeout(5.0):
                while self._tasks:
                    await asyncio.wait(self._tasks)


class Emitter:
    """``on``, with the types of events."""

    def __init__(self, listeners: Listeners) -> None:
        self._listeners = listeners

    @overload
    def on(
        self, event: Literal["run:trigger"], listener: Callable[[events.RunTrigger], object], /
    ) -> Callable[[], None]: ...
    @overload
    def on(
        self, event: Literal["run:coalesced"], listener: Callable[[events.RunCoalesced], object], /
    ) -> Callable[[], None]: ...
    @overload
    def on(
        self, event: Literal["run:start"], listener: Callable[[events.RunStart], object], /
    ) -> Callable[[], None]: ...
    @overload
    def on(
        self, event: Literal["run:progress"], listener: Callable[[events.RunProgress], object], /
    ) -> Callable[[], None]: ...
    @overload
    def on(
        self, event: Literal["run:complete"], listener: Callable[[events.RunComplete], object], /
    ) -> Callable[[], None]: ...
    @overload
    def on(
        self, event: Literal["run:fail"], listener: Callable[[events.RunFail], object], /
    ) -> Callable[[], None]: ...
    @overload
    def on(
        self, event: Literal["run:cancel"], listener: Callable[[events.RunCancel], object], /
    ) -> Callable[[], None]: ...
    @overload
    def on(
        self, event: Literal["run:retry"], listener: Callable[[events.RunRetry], object], /
    ) -> Callable[[], None]: ...
    @overload
    def on(
        self, event: Literal["run:delete"], listener: Callable[[events.RunDelete], object], /
    ) -> Callable[[], None]: ...
    @overload
    def on(
        self, event: Literal["run:release"], listener: Callable[[events.RunRelease], object], /
    ) -> Callable[[], None]: ...
    @overload
    def on(
        self, event: Literal["step:start"], listener: Callable[[events.StepStart], object], /
    ) -> Callable[[], None]: ...
    @overload
    def on(
        self, event: Literal["step:complete"], listener: Callable[[events.StepComplete], object], /
    ) -> Callable[[], None]: ...
    @overload
    def on(
        self, event: Literal["step:fail"], listener: Callable[[events.StepFail], object], /
    ) -> Callable[[], None]: ...
    @overload
    def on(
        self, event: Literal["log:write"], listener: Callable[[events.LogWrite], object], /
    ) -> Callable[[], None]: ...
    @overload
    def on(
        self, event: Literal["worker:error"], listener: Callable[[events.WorkerError], object], /
    ) -> Callable[[], None]: ...
    @overload
    def on(
        self, event: type[events.WorkerError], listener: Callable[[events.WorkerError], object], /
    ) -> Callable[[], None]: ...
    @overload
    def on(self, event: type[E], listener: Callable[[E], object], /) -> Callable[[], None]: ...
    @overload
    def on(
        self, event: str | type[events.Event | events.WorkerError], /
    ) -> Callable[[Callable[[Any], Any]], Callable[[Any], Any]]: ...
    def on(self, event: Any, listener: Callable[[Any], object] | None = None, /) -> Any:
        """Call ``listener(event)`` for each event of a type that this instance produces.

        ``event`` is a name (``"run:start"``) or a class (``events.RunStart``). Returns a function that
        ends it; without a listener, ``on`` is a decorator. An async listener is awaited in the
        background. What a listener raises is logged, goes to listeners of ``"worker:error"``, and harms
        nothing. Other processes' events are seen by ``subscribe``.
        """
        name = event if isinstance(event, str) else event.type
        if name not in (*events.EVENT_TYPES, events.WorkerError.type):
            known = ", ".join(sorted([*events.EVENT_TYPES, events.WorkerError.type]))
            raise ConfigurationError(f"there is no event {name!r}; there are: {known}")
        if listener is not None:
            return self._listeners.add(name, listener)

        def decorate(fn: Callable[[Any], Any]) -> Callable[[Any], Any]:
            self._listeners.add(name, fn)
            return fn

        return decorate
