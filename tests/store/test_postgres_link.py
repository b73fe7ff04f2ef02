"""Which connections are used again after an error: those that are as good as before."""

import pytest

from durably.runtime import Runtime
from durably.store.postgres.connection import Link
from durably.store.postgres.driver import ServerError
from durably.store.postgres.store import PostgresStore

RAISE = "do $$ begin raise exception using errcode = '{}'; end $$"


@pytest.mark.parametrize(
    ("state", "goes_on"),
    [("22012", True), ("23505", True), ("40001", True), ("0A000", False), ("57014", False), ("XX000", False)],
)  # fmt: skip
async def test_a_connection_that_met_an_unknown_failure_is_used_no_more(
    emptied_url, state, goes_on
):
    link, backends = Link(PostgresStore(emptied_url, Runtime())._server), []
    try:
        for broken in (True, False):
            async with link.session() as session:
                ((backend,),) = await session.fetch("select pg_backend_pid()", {})
                backends.append(backend)
            if broken:
                with pytest.raises(ServerError):
                    async with link.session() as session:
                        await session.execute(RAISE.format(state))
        assert (backends[0] == backends[1]) is goes_on
    finally:
        await link.close()
