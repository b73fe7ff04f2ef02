"""An event loop on virtual time that interleaves several simulated processes.

Every handle belongs to the process in whose context it was scheduled. Within a process the order is
asyncio's own; between processes a seed decides. A dead process's handles are dropped, as the kernel
drops them; a paused one's wait.
"""

import asyncio
import heapq
import random
import selectors
from contextvars import ContextVar


class Process:
    """One simulated operating-system process."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.paused_until = 0.0


PROCESS: ContextVar[Process | None] = ContextVar("process", default=None)


class _NoSelector(selectors.SelectSelector):
    def select(self, timeout=None):
        return []


class SimulatedLoop(asyncio.SelectorEventLoop):
    def __init__(self, rng: random.Random) -> None:
        self._virtual = 0.0
        self._rng = rng
        super().__init__(_NoSelector())
        self.errors: list[dict] = []
        self.set_exception_handler(lambda _, context: self.errors.append(context))

    def time(self) -> float:
        return self._virtual

    def _run_once(self) -> None:
        self._advance()
        queues: dict[Process | None, list[asyncio.Handle]] = {}
        for handle in self._ready:
            queues.setdefault(handle._context.get(PROCESS), []).append(handle)
        self._ready.clear()
        while queues:
            process = self._rng.choice(list(queues))
            handle = queues[process].pop(0)
            if not queues[process]:
                del queues[process]
            self._run_handle(process, handle)

    def _run_handle(self, process: Process | None, handle: asyncio.Handle) -> None:
        if handle._cancelled or (process is not None and not process.alive):
            return
        if process is not None and process.paused_until > self._virtual:
            timer = asyncio.TimerHandle(
                process.paused_until, self._ready.append, (handle,), self, _NOBODY
            )
            # Deferred handles of one moment must keep their order: heapq is not stable, so nudge.
            self._nudge = getattr(self, "_nudge", 0) + 1
            timer._when += self._nudge * 1e-9
            heapq.heappush(self._scheduled, timer)
            timer._scheduled = True
            return
        handle._run()

    def _advance(self) -> None:
        while self._scheduled and self._scheduled[0]._cancelled:
            heapq.heappop(self._scheduled)._scheduled = False
        if not self._ready:
            if not self._scheduled:
                raise RuntimeError("deadlock: nothing is ready and no timer is set")
            self._virtual = max(self._virtual, self._scheduled[0]._when)
        while self._scheduled and self._scheduled[0]._when <= self._virtual:
            timer = heapq.heappop(self._scheduled)
            timer._scheduled = False
            if not timer._cancelled:
                self._ready.append(timer)


def _nobody():
    import contextvars

    context = contextvars.copy_context()
    context.run(PROCESS.set, None)
    return context


_NOBODY = _nobody()
