"""Databases of another encoding than UTF8."""

import asyncio
import uuid
from urllib.parse import urlsplit, urlunsplit

import pytest

from durably import Durably, Step
from durably.errors import StorageError
from tests import postgres


@pytest.fixture(params=["LATIN1", "WIN1252", "SQL_ASCII", "EUC_JP"])
async def url(request):
    server, name = postgres.server_url(), f"durably_test_{uuid.uuid4().hex[:16]}"
    await postgres.execute(
        server,
        f"create database {name} template template0 encoding '{request.param}'"
        " lc_collate 'C' lc_ctype 'C'",
    )
    made = urlunsplit(urlsplit(server)._replace(path=f"/{name}"))
    yield made
    await postgres.drop_database(made)


async def test_a_job_whose_name_does_not_fit_stops_no_other(url, caplog):
    durably = Durably(url)

    @durably.job("\N{SNOWMAN}")
    async def snowman(step: Step) -> None: ...

    @durably.job("plain")
    async def plain(step: Step) -> str:
        return await step.run("s", lambda: "\N{SNOWMAN}")  # values are kept as ASCII

    async with asyncio.timeout(60), durably:
        assert (await durably.wait(await plain.trigger())).output == "\N{SNOWMAN}"
        assert await durably.queue_ages() is not None
        if "SQL_ASCII" not in caplog.text:
            with pytest.raises(StorageError, match="SQLSTATE 22P05"):
                await snowman.trigger()
    assert "the database has encoding" in caplog.text


async def test_what_fits_is_a_name(url):
    durably = Durably(url)

    @durably.job("caf\xe9")
    async def cafe(step: Step) -> int:
        return 1

    async with asyncio.timeout(60), durably:
        if durably._engine.store.storable(["caf\xe9"]):
            assert (await durably.wait(await cafe.trigger())).output == 1
