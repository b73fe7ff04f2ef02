"""Async tests and fixtures without threads: what pytest-asyncio does elsewhere; and what is left out."""

from __future__ import annotations

import inspect
import re
from collections.abc import Generator
from functools import partial, wraps
from typing import Any

import pytest

from .left_out import LEFT_OUT, SUITES
from .loops import Driver

_DRIVER = pytest.StashKey[Driver]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, Any, Any]:
    item.stash[_DRIVER] = driver = Driver()
    try:
        return (yield)
    finally:
        driver.close()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    arguments = {name: pyfuncitem.funcargs[name] for name in names}
    pyfuncitem.stash[_DRIVER].run(pyfuncitem.obj(**arguments))
    return True


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: Any, request: Any) -> Generator[None, Any, Any]:
    made = fixturedef.func
    if inspect.isasyncgenfunction(made):
        fixturedef.func = _drawn(made, request)
    elif inspect.iscoroutinefunction(made):
        fixturedef.func = _awaited(made, request)
    try:
        return (yield)
    finally:
        fixturedef.func = made


def _awaited(made: Any, request: Any) -> Any:
    @wraps(made)
    def fixture(**values: Any) -> Any:
        return request.node.stash[_DRIVER].run(made(**values))

    return fixture


def _drawn(made: Any, request: Any) -> Any:
    @wraps(made)
    def fixture(**values: Any) -> Any:
        run = request.node.stash[_DRIVER].run
        generator = made(**values)
        value = run(_next(generator))
        request.addfinalizer(partial(_finish, run, generator))
        return value

    return fixture


def _finish(run: Any, generator: Any) -> None:
    with pytest.raises(StopAsyncIteration):
        run(_next(generator))


async def _next(generator: Any) -> Any:
    return await anext(generator)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what ``left_out`` names, and let nothing there be out of date."""
    reasons = {item: _pattern(item.nodeid) for item in items}
    stale = LEFT_OUT.keys() - reasons.values()
    if stale and config.args == SUITES:
        raise pytest.UsageError(f"left_out.py names tests that there are not: {sorted(stale)}")
    config.hook.pytest_deselected(items=[item for item in items if reasons[item]])
    items[:] = [item for item in items if not reasons[item]]


def _pattern(nodeid: str) -> str | None:
    return next((pattern for pattern in LEFT_OUT if re.search(pattern, nodeid)), None)
