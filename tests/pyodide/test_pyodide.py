"""The wheel of this tree, installed in Pyodide under Node: what the browser's worker runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.browser import node
from tests.browser.fixtures import node_modules as node_modules
from tests.browser_mode import bundle
from tests.pyodide import wheels
from tests.tier import TIER

HERE = Path(__file__).parent
NODE = HERE / "node.mjs"
PATIENCE = 600.0
for_ci = pytest.mark.skipif(TIER == "quick", reason="a minute: the ci tier's")

ONE_JOB = """
import asyncio, durably
from pathlib import Path
from durably import Durably, Step

durably = Durably("/jobs.db")

@durably.job("add")
async def add(step: Step, numbers: list[int]) -> int:
    total = 0
    for number in numbers:
        total += await step.run(f"add {number}", lambda: number)
        step.progress(number, len(numbers))
    return total

async with durably:
    done = await durably.wait(await add.trigger([1, 2, 3]), timeout=60)
    steps = await durably.get_steps(done.id)
result = [done.output, [step.name for step in steps]]
"""

IMPORT_ALL = """
import importlib, pkgutil, sys, durably
result = {}
for module in pkgutil.walk_packages(durably.__path__, "durably."):
    if module.name.endswith("__main__"):
        continue
    try:
        importlib.import_module(module.name)
    except ImportError as error:
        result[module.name] = error.name
"""

SUITES = """
import os, sys
os.chdir("/project")
sys.path.insert(0, "/project")
from tests.pyodide.inside.left_out import SUITES
from tests.pyodide.inside.run import run
result = run("-q", "--tb=short", *SUITES)
"""


@pytest.fixture(scope="module")
def shipped(node_modules: None) -> list[str]:
    """The wheels that pages get."""
    return sorted(str(path) for path in (bundle.made() / "wheels").glob("*.whl"))


@pytest.fixture(scope="module")
def built(shipped: list[str], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The same, but with all of Durably: its wheel as it is published."""
    whole = wheels.built(tmp_path_factory.mktemp("wheel"))
    return [*(path for path in shipped if "/durably-" not in path), str(whole)]


def inside(wheels: list[str], code: str, **more: Any) -> Any:
    """What ``code`` calls ``result``."""
    parameters = {"wheels": wheels, "env": {"HOME": "/home"}, "code": code, **more}
    return node.run(NODE, parameters, timeout=PATIENCE)


def test_a_job_runs_step_after_step(shipped: list[str]):
    assert inside(shipped, ONE_JOB) == [6, ["add 1", "add 2", "add 3"]]


def test_every_module_that_pages_get_can_be_imported(shipped: list[str]):
    assert inside(shipped, IMPORT_ALL) == {}


@for_ci
def test_only_the_doors_of_other_places_miss_something(built: list[str]):
    missing = inside(built, IMPORT_ALL)
    assert {name.split(".")[1] for name in missing} <= {"cli", "client", "demo", "store"}, missing
    assert all(name.startswith("durably.store.postgres") for name in missing if ".store" in name)


@for_ci
def test_the_suites_of_the_store_and_the_engine_hold(built: list[str], tmp_path: Path):
    """What is left out, and why: inside/left_out.py."""
    archive = wheels.packed_tests(tmp_path / "tests.zip")
    told = inside(built, SUITES, archive=str(archive), inTask=False)
    assert (told["code"], told["problems"]) == (0, []), "\n".join(told["problems"])
    assert told["passed"] > 350, told
