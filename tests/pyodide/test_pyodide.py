"""The wheel of this tree, installed in Pyodide under Node: what the browser's worker runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page

from tests.browser import node
from tests.browser.fixtures import *  # noqa: F403
from tests.browser_mode import bundle
from tests.browser_mode.site import Site
from tests.pyodide import wheels
from tests.tier import TIER

HERE = Path(__file__).parent
NODE = HERE / "node.mjs"
PATIENCE = 600.0
for_ci = pytest.mark.skipif(TIER == "quick", reason="a minute: the ci tier's")

ONE_JOB = """
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
ran = [done.output, [step.name for step in steps]]
"""

IMPORT_ALL = """
import importlib, pkgutil, durably
missing = {}
for module in pkgutil.walk_packages(durably.__path__, "durably."):
    if module.name.endswith("__main__"):
        continue
    try:
        importlib.import_module(module.name)
    except ImportError as error:
        missing[module.name] = error.name
"""

SUITES = """
import os, sys
os.chdir("/project")
sys.path.insert(0, "/project")
from tests.pyodide.inside.left_out import SUITES
from tests.pyodide.inside.run import run
result = run("-q", "--tb=short", *SUITES)
"""

IN_PAGE = """async ([wheels, code]) => {
  const { loadPyodide } = await import("/pyodide/pyodide.mjs");
  const python = await loadPyodide({ indexURL: "/pyodide/", env: { HOME: "/home" } });
  await python.loadPackage(wheels.map((wheel) => location.origin + wheel));
  const archive = await (await fetch("/tests.zip")).arrayBuffer();
  python.FS.mkdirTree("/project");
  python.unpackArchive(archive, "zip", { extractDir: "/project" });
  await python.runPythonAsync(code);
  return JSON.parse(python.runPython("import json\\njson.dumps(result)"));
}"""


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


@for_ci
def test_what_pages_get_can_be_imported_and_runs_a_job(shipped: list[str]):
    missing, ran = inside(shipped, f"{IMPORT_ALL}{ONE_JOB}result = missing, ran")
    assert missing == {}
    assert ran == [6, ["add 1", "add 2", "add 3"]]


@for_ci
def test_only_the_doors_of_other_places_miss_something(built: list[str]):
    missing = inside(built, f"{IMPORT_ALL}result = missing")
    doors = {"__pyinstaller", "cli", "client", "copying", "demo"}
    others = {name for name in missing if name.split(".")[1] not in doors}
    assert all(name.startswith("durably.store.postgres") for name in others), missing


@for_ci
async def test_the_suites_hold_in_a_page_too(page: Page, built: list[str], tmp_path: Path):
    """On Pyodide's own loop, which goes on while Python waits."""
    wheels.packed_tests(tmp_path / "tests.zip")
    (tmp_path / "page.html").write_text("<title>suites</title><link rel=icon href=data:,>")
    (tmp_path / "pyodide").symlink_to(bundle.made() / "pyodide")
    for wheel in built:
        (tmp_path / Path(wheel).name).symlink_to(wheel)
    site = Site({"/": tmp_path})
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    try:
        await page.goto(site.url)
        told = await page.evaluate(IN_PAGE, [[f"/{Path(wheel).name}" for wheel in built], SUITES])
    finally:
        site.close()
    assert (told["code"], told["problems"]) == (0, []), "\n".join(told["problems"] or said)
    assert told["passed"] > 350, told


@for_ci
def test_the_suites_of_the_store_and_the_engine_hold(built: list[str], tmp_path: Path):
    """What is left out, and why: inside/left_out.py."""
    archive = wheels.packed_tests(tmp_path / "tests.zip")
    told = inside(built, SUITES, archive=str(archive), inTask=False)
    assert (told["code"], told["problems"]) == (0, []), "\n".join(told["problems"])
    assert told["passed"] > 350, told
