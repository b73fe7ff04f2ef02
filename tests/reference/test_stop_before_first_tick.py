"""A run that is stopped between its claim and its task's first tick never begins."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from durably import Durably, Step
from durably.errors import HandedBack, Interrupt, RunCancelled
from durably.worker.execution import Execution


@pytest.mark.parametrize(
    ("interrupt", "status"),
    [(RunCancelled("cancelled"), "running"), (HandedBack("stop"), "pending")],
)
async def test_the_body_is_not_called(
    make: Callable[..., Durably], interrupt: Interrupt, status: str
) -> None:
    called: list[str] = []
    async with make(worker=False) as durably:

        @durably.job("endless")
        async def endless(step: Step) -> None:
            called.append(step.run_id)
            await asyncio.Event().wait()

        run = await endless.trigger()
        store, engine = durably._engine.store, durably._engine._context
        claims = await store.claim(
            ["endless"], "me", durably._engine.runtime.now(), 60_000, 1, takeover=True
        )
        execution = Execution(engine, endless.definition, claims.taken[0])
        execution.stop(interrupt)
        async with asyncio.timeout(20):
            await execution.execute(lambda: None)
        assert called == []
        found = await durably.get_run(run.id)
        assert found is not None
        assert found.status == status, "handed back if it is ours; else nothing is written"
