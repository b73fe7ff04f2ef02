"""Started instances on a database whose user has tables and transactions there, too."""

from urllib.parse import urlsplit

import asyncpg
import pytest

from tests.engine.conftest import make as make
from tests.store.conftest import emptied_url as emptied_url
from tests.store.conftest import url_of_module as url_of_module

_TABLES = """
drop table if exists sums, orders;
create table sums (n integer, total integer);
create table orders (n integer);
"""


@pytest.fixture
async def database(emptied_url):
    """The URL of a database with tables of its user's."""
    connection = await asyncpg.connect(emptied_url)
    await connection.execute(_TABLES)
    await connection.execute(f"alter database {urlsplit(emptied_url).path[1:]} reset all")
    await connection.close()
    return emptied_url
