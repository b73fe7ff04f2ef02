"""A started instance on a real file with jobs of every kind, and one who asks its handler."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import BaseModel

from durably import Durably, Step, with_log_persistence

from .asking import Asker
from .tenants import Tenants, TwoTenants, of


class Order(BaseModel):
    """The input of most jobs here."""

    name: str
    count: int = 1


class Jobs:
    """Jobs that complete, fail, and wait until they are let out."""

    def __init__(self, durably: Durably) -> None:
        self.open = asyncio.Event()

        @durably.job("pack")
        async def pack(step: Step, input: Order) -> Order:
            await step.run("fetch", lambda: {"name": input.name})
            step.log.info("fetched", {"name": input.name})
            step.progress(1, 2, "half")
            await step.run("save", len, input.name)
            return input

        @durably.job("break")
        async def broken(step: Step, input: Order) -> None:
            def parse() -> None:
                raise ValueError(f"{input.name} is no number")

            await step.run("parse", parse)

        @durably.job("hold")
        async def hold(step: Step, input: Order) -> None:
            await self.open.wait()

        @durably.job("echo")
        async def echo(step: Step, input: Any) -> Any:
            return await step.run("echo", lambda: input)

        @durably.job("tick")
        async def tick(step: Step) -> int:
            return 2**60


@pytest.fixture
async def durably(tmp_path):
    durably = Durably(
        tmp_path / "app.db",
        polling_interval=0.05,
        heartbeat_interval=600,  # a running run's row stays as it is
        stale_threshold=3_600,
        durability="process",
    )
    durably.use(with_log_persistence())
    await durably.init()
    yield durably
    await durably.stop(0)


@pytest.fixture
def jobs(durably) -> Jobs:
    return Jobs(durably)


@pytest.fixture
def asker(durably, jobs) -> Asker:
    """Someone on this machine, without ``auth``."""
    return Asker(durably.handler())


@pytest.fixture
async def tenants(durably, jobs) -> TwoTenants:
    handler = durably.handler(auth=Tenants())
    a, b = of("a", handler), of("b", handler)
    runs = {}
    for job, final in (("pack", "completed"), ("break", "failed"), ("hold", "running")):
        run_id = (await a.trigger(job, {"name": "Ada"})).json["runId"]
        runs[final] = run_id
        async for event in durably.subscribe(run_id):
            if event.type == "run:start" and job == "hold":
                break
    return TwoTenants(handler, a, b, runs)
