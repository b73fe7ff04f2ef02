"""The body of a run: the job's function and everything it started.

The function runs in the execution's own task, or in a thread. Its steps may run in tasks that the job
made, and a plain job's steps in tasks that we make for it. Cancelling stops the tasks; nothing stops a
function in a thread, so a body can outlive its attempt. ``is_running`` is true while it does.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from types import CoroutineType
from typing import Any, cast

from ..errors import Interrupt
from ..jobs.job import Job
from ..jobs.runner import StepRunner
from ..jobs.step import Step, SyncStep
from ..threads import Running, run_body
from .attempt import Attempt


class Body:
    """The tasks, threads and pending calls of one attempt."""

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[Any] | None = None
        self._calls: list[tuple[str, CoroutineType[Any, Any, Any]]] = []
        """Calls of steps in an async job, by name; the last, and those before it that are not over."""
        self._step_tasks: set[asyncio.Task[Any]] = set()
        """Tasks other than the job's own that are within a step of it."""
        self.threads = Running()
        """The functions of this run that are in threads."""

    def begin(self) -> None:
        """Make the current task the body's own."""
        self._task = asyncio.current_task()

    def call(self, job: Job[Any, Any], runner: StepRunner, value: Any) -> Awaitable[Any]:
        """Call the job's function where it belongs."""
        args = (value,) if job.takes_input else ()
        if not job.is_sync:
            return run_body(job.fn, (Step(runner), *args), None, self.threads)
        step = SyncStep(runner, self._loop)
        threads = self._attempt.context.job_threads
        if threads is not None:
            return threads.call(self.threads, job.fn, step, *args)
        return run_body(job.fn, (step, *args), None, self.threads)

    # -- stopping

    @property
    def is_own_task(self) -> bool:
        """Whether the current task is the body's own."""
        return current_task() is self._task

    @property
    def is_cancelled(self) -> bool:
        """Whether the body's own task is being cancelled."""
        return self._task is not None and self._task.cancelling() > 0

    def stop(self, interrupt: Interrupt) -> None:
        """Interrupt the run: what it awaits is cancelled, and no further step begins."""
        if self._attempt.is_ours:
            self._attempt.interrupt = interrupt
            self.cancel_steps()
            if self._task is not None and self._task is not current_task():
                self._task.cancel()

    def cancel_steps(self) -> None:
        """Cancel the other tasks that are within a step."""
        for task in self._step_tasks:
            if task is not current_task():
                task.cancel()

    @property
    def is_running(self) -> bool:
        """Whether functions of the run still run, in threads that nothing can stop or in tasks."""
        return bool(self.threads or self._step_tasks)

    async def wait_until_ended(self) -> None:
        """Wait for the functions that still run."""
        while self.is_running:
            if self._step_tasks:
                await asyncio.wait(self._step_tasks)
            await self.threads.wait()

    # -- tasks of steps

    def start_task(
        self, coroutine: Coroutine[Any, Any, None], on_end: Callable[[object], None]
    ) -> None:
        """Run a plain job's step on the loop; ``on_end`` is called however it ends."""
        task = self._loop.create_task(coroutine)
        self._step_tasks.add(task)
        task.add_done_callback(self._step_tasks.discard)
        task.add_done_callback(on_end)

    def enter_step(self, task: asyncio.Task[Any] | None) -> bool:
        """Count a task that the job made, while it is within a step; True if it was not counted yet."""
        if task is None or task is self._task or task in self._step_tasks:
            return False
        self._step_tasks.add(task)
        return True

    def leave_step(self, task: asyncio.Task[Any] | None) -> None:
        """The task for which ``enter_step`` was True has left its step."""
        self._step_tasks.discard(cast("asyncio.Task[Any]", task))

    # -- calls that are never awaited

    def track(self, name: str, call: Coroutine[Any, Any, Any]) -> Coroutine[Any, Any, Any]:
        """Remember the call of a step, so that one that is never awaited is reported."""
        calls = self._calls
        while calls and calls[-1][1].cr_frame is None:  # it is over
            calls.pop()
        calls.append((name, cast("CoroutineType[Any, Any, Any]", call)))
        return call

    def discard_unawaited(self) -> str | None:
        """The job is over: close the calls that it never awaited; return the name of the first."""
        unawaited = [
            (name, call)
            for name, call in self._calls
            if inspect.getcoroutinestate(call) == inspect.CORO_CREATED
        ]
        self._calls.clear()
        if not unawaited:
            return None
        tasks: dict[Any, asyncio.Task[Any]] = {
            task.get_coro(): task for task in asyncio.all_tasks()
        }
        names: list[str] = []
        for name, call in unawaited:
            task = tasks.get(call)
            if task is None:
                call.close()
            if task is None or not task.cancelling():
                names.append(name)
        return names[0] if names else None


def current_task() -> asyncio.Task[Any] | None:
    """The task that runs now; None also where no event loop runs."""
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None
