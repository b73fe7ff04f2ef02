"""``durably.lifespan``, in each form that frameworks take."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from fastapi import FastAPI
from litestar import Litestar
from starlette.applications import Starlette

from durably import Durably, Step
from durably.errors import ConfigurationError


@pytest.fixture
def durably(tmp_path: Any) -> Durably:
    return Durably(tmp_path / "a.db")


@pytest.mark.parametrize("form", ["bare", "with a grace", "called with the application"])
@pytest.mark.parametrize("framework", [FastAPI, Starlette, Litestar])
async def test_frameworks_take_it(durably: Durably, framework: Any, form: str) -> None:
    lifespan: Any = {
        "bare": durably.lifespan,
        "with a grace": durably.lifespan(grace=1),
        "called with the application": lambda app: durably.lifespan(app, grace=1),
    }[form]
    for _ in range(2):  # an application may be started again
        if framework is Litestar:
            around: Any = Litestar(lifespan=[lifespan], logging_config=None).lifespan()
        else:
            app = framework(lifespan=lifespan)
            around = app.router.lifespan_context(app)
        async with around:
            assert durably.is_working
        assert not durably.is_open


async def test_its_grace_is_how_long_runs_may_go_on(durably: Durably) -> None:
    begun = asyncio.Event()

    @durably.job("nap")
    async def nap(step: Step) -> None:
        begun.set()
        await asyncio.sleep(3600 if step.attempt == 1 else 0)

    async with durably.lifespan(grace=0):
        run = await nap.trigger()
        await begun.wait()
    async with durably:
        assert (await durably.wait(run)).attempt == 2


def test_a_grace_that_is_no_duration_is_refused(durably: Durably) -> None:
    with pytest.raises(ConfigurationError, match="grace"):
        durably.lifespan(grace=-1)


@pytest.mark.parametrize(
    ("variable", "argv", "reloads"),
    [
        ("WERKZEUG_RUN_MAIN", ["flask"], True),
        ("RUN_MAIN", ["manage.py", "runserver"], True),
        (None, ["/venv/bin/hypercorn", "app:app", "--reload"], True),
        (None, ["/venv/lib/hypercorn/__main__.py", "app:app", "--reload"], True),
        (None, ["/venv/bin/hypercorn", "app:app"], False),
        (None, ["script.py", "--reload"], False),
    ],
)
def test_a_development_server_is_known(
    variable: str | None, argv: list[str], reloads: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from durably.lifespan import is_reloaded

    if variable:
        monkeypatch.setenv(variable, "true")
    monkeypatch.setattr("sys.argv", argv)
    assert is_reloaded() is reloads
