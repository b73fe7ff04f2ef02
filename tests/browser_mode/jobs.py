"""The jobs of the tests' pages."""

import asyncio
import time
from typing import Any

from js import location
from pydantic import BaseModel
from pyodide.http import pyfetch

from durably import Step, SyncStep, job


class Work(BaseModel):
    steps: int = 10
    seconds: float = 0.1


async def leave_trace(what: str) -> str:
    """Outside of the database: nothing takes it back."""
    await pyfetch(f"{location.origin}/effect", method="POST", body=what)
    return what


@job("work")
async def work(step: Step, input: Work) -> int:
    for number in range(input.steps):
        await step.run(f"step {number}", one, step.run_id, number, input.seconds)
        step.progress(number + 1, input.steps)
    return input.steps


async def one(run_id: str, number: int, seconds: float) -> int:
    await leave_trace(f"{run_id} begin {number}")
    await asyncio.sleep(seconds)
    return number


@job("quick")
async def quick(step: Step, input: Work) -> int:
    for number in range(input.steps):
        await step.run(f"step {number}", int, number)
    return input.steps


@job("block")
async def block(step: Step, input: Work) -> int:
    for number in range(input.steps):
        await step.run(f"step {number}", time.sleep, input.seconds)
    return input.steps


@job("fill")
async def fill(step: Step, input: Work) -> int:
    """Half a megabyte a step."""
    for number in range(input.steps):
        await step.run(f"step {number}", large, number)
    return input.steps


def large(number: int) -> str:
    return str(number) * 500_000


@job("plain")
def plain(step: SyncStep, input: Work) -> int:
    """Without threads; it waits for its commits as the platform can."""
    for number in range(input.steps):
        step.run(f"step {number}", int, number)
    return input.steps


@job("own table")
async def own_table(step: Step, input: Work) -> list[int]:
    await step.transaction("create", create)
    for number in range(input.steps):
        await step.transaction(f"insert {number}", insert, number)
    return await step.transaction("read", read)


def create(connection: Any) -> None:
    connection.execute("create table if not exists numbers (number integer)")


def insert(connection: Any, number: int) -> None:
    connection.execute("insert into numbers values (?)", [number])


def read(connection: Any) -> list[int]:
    return [number for (number,) in connection.execute("select number from numbers order by 1")]


@job("broken")
async def broken(step: Step) -> None:
    raise ValueError("what is wrong")


@job("slow")
async def slow(step: Step, input: Work) -> int:
    """Without a trace: it needs no network."""
    for number in range(input.steps):
        await step.run(f"step {number}", asyncio.sleep, input.seconds)
    return input.steps


@job("measured")
async def measured(step: Step, input: Work) -> list[float]:
    """How long each step took, with its commit: milliseconds."""
    took: list[float] = []
    for number in range(input.steps):
        started = time.perf_counter()
        await step.run(f"step {number}", int, number)
        took.append((time.perf_counter() - started) * 1000)
    return took
