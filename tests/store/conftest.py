"""A database that the tests of a module share, empty for each: to make one takes longer than most of them."""

import asyncpg
import pytest

from tests import postgres

_EMPTY = """
drop function if exists stop cascade;
do $$ begin
  if to_regclass('durably_runs') is not null then
    truncate durably_runs, durably_journal restart identity;
  end if;
end $$;
"""


@pytest.fixture(scope="module")
def url_of_module():
    url = postgres.run(postgres.create_database())
    yield url
    postgres.run(postgres.drop_database(url))


@pytest.fixture
async def emptied_url(url_of_module):
    """The URL of an empty database."""
    await postgres.terminate_backends(url_of_module, but="nobody")  # what a test left that failed
    connection = await asyncpg.connect(url_of_module)
    await connection.execute(_EMPTY)
    await connection.close()
    return url_of_module
