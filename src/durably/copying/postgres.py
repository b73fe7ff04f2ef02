"""A PostgreSQL database that is copied from or to."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from ..errors import StorageUnavailableError
from ..store.postgres.connection import NO_URL
from ..store.postgres.driver import BrokenDriverError, DriverError, ServerError, connect
from ..store.postgres.errors import describe
from ..store.postgres.statements import Statements, compiled
from ..store.statements import RETIRED
from .sides import BATCH_ROWS, LOCK_TIMEOUT, CopyError, Holder, Side, is_full
from .tables import JOURNAL, TABLES, Row, Table

_CONNECT_TIMEOUT = 10.0  # seconds
# By way of pg_settings, for not every server knows all of them.
_TIMELESS = """
select set_config(name, '0', true) from pg_settings
 where name in ('statement_timeout', 'idle_in_transaction_session_timeout', 'transaction_timeout')
"""


@contextmanager
def _connected(name: str) -> Generator[None]:
    """What breaks on the way is trouble of the storage, not a fault of ours."""
    try:
        yield
    except (DriverError, BrokenDriverError, OSError) as error:
        raise StorageUnavailableError(
            f"the connection to {name} was lost ({describe(error)}); repeat the command: it finds out "
            "whether all has arrived, and otherwise starts over"
        ) from None
    except ServerError as error:
        raise StorageUnavailableError(f"{name}: {describe(error)}; nothing was copied") from None


class Database(Side):
    """One connection, in one transaction from beginning to end."""

    def __init__(self, url: str, name: str, schema: str) -> None:
        self.name = name
        self._url = url
        self._statements = Statements(schema)
        self._connection: Any = None

    def exists(self) -> bool:
        return True

    async def hold(self) -> None:
        try:
            self._connection = await connect(
                self._url,
                timeout=_CONNECT_TIMEOUT,
                statement_cache_size=0,
                server_settings={"application_name": "durably copy"},
            )
        except (ServerError, DriverError, OSError, ValueError, OverflowError) as error:
            what = NO_URL if isinstance(error, (ValueError, OverflowError)) else describe(error)
            raise CopyError(f"{self.name} cannot be reached: {what}") from None
        # In a snapshot from before the lock was granted, what was committed meanwhile would be left behind.
        self._transaction = self._connection.transaction(isolation="read_committed")
        await self._transaction.start()
        await self._ask(_TIMELESS)
        if await self.schema_version():
            await self._lock()

    async def _lock(self) -> None:
        names = ", ".join(self._statements.qualify(table.name) for table in TABLES)
        try:
            await self._connection.execute(
                "select set_config('lock_timeout', $1, true)", f"{LOCK_TIMEOUT:d}s"
            )
            await self._connection.execute(f"lock table {names} in share row exclusive mode")
        except ServerError as error:
            raise CopyError(
                f"{self.name} cannot be locked ({error}): stop the processes that write to it, and see that it is "
                "not the source and the target at once"
            ) from None

    async def release(self) -> None:
        if self._connection is not None:
            with suppress(ServerError, DriverError, OSError):
                await self._connection.close(timeout=_CONNECT_TIMEOUT)

    async def commit(self) -> None:
        with _connected(self.name):
            await self._transaction.commit()

    async def schema_version(self) -> int:
        table = self._statements.qualify("durably_version")
        exists = "select 1 from pg_class where oid = to_regclass(:name)"
        if not await self._ask(exists, name=table):
            return 0
        newest = "select coalesce(max(version), 0) from durably_version where version < :retired"
        return int((await self._ask(newest, retired=RETIRED))[0][0])

    async def is_retired(self) -> bool:
        retired = "select 1 from durably_version where version = :retired"
        return bool(await self._ask(retired, retired=RETIRED))

    async def holders(self) -> list[Holder]:
        rows = await self._ask(
            "select lease_owner, count(*), max(due_at) from durably_runs"
            " where status = 'running' and due_at > extract(epoch from clock_timestamp()) * 1000"
            " group by lease_owner order by 1"
        )
        return [Holder(*row) for row in rows]

    async def users(self) -> list[str]:
        rows = await self._ask(
            "select pid, coalesce(host(client_addr), 'this machine') from pg_stat_activity"
            " where datname = current_database() and application_name = 'durably' order by pid"
        )
        return [f"session {pid} from {address}" for pid, address in rows]

    async def count(self, table: Table) -> int:
        return int((await self._ask(f"select count(*) from {table.name}"))[0][0])

    async def batches(self, table: Table) -> AsyncGenerator[Sequence[Row]]:
        with _connected(self.name):
            rows = await self._connection.cursor(self._statements.qualify(table.select))
            sizes = await self._connection.cursor(self._statements.qualify(_sizes(table)))
            while ahead := [size for (size,) in await sizes.fetch(BATCH_ROWS)]:
                for count in _batches(ahead):
                    yield [tuple(row) for row in await rows.fetch(count)]

    async def write(self, table: Table, rows: Sequence[Row]) -> None:
        with _connected(self.name):
            await self._connection.copy_records_to_table(
                table.name,
                records=rows,
                columns=table.columns,
                schema_name=self._statements.schema or None,
            )

    async def settle(self) -> None:
        name = self._statements.qualify(JOURNAL.name)
        # nextval, too: a sequence never goes back, whatever the tables were used for before.
        await self._ask(
            "select setval(s.name, greatest((select max(position) from durably_journal), nextval(s.name)))"
            "  from (select cast(pg_get_serial_sequence(:name, 'position') as regclass) as name) as s",
            name=name,
        )
        for table in TABLES:
            with _connected(self.name):
                await self._connection.execute(f"analyze {self._statements.qualify(table.name)}")

    async def retire(self) -> None:
        await self._ask(
            "insert into durably_version (version) values (:retired) on conflict do nothing",
            retired=RETIRED,
        )

    async def _ask(self, text: str, **params: Any) -> list[Row]:
        statement = compiled(self._statements.qualify(text))
        with _connected(self.name):
            rows = await self._connection.fetch(statement.text, *statement.values(params))
        return [tuple(row) for row in rows]


def _sizes(table: Table) -> str:
    """How large each row is, in the order in which they are read; found without reading them."""
    size = " + ".join(f"coalesce(octet_length({column}), 0)" for column in table.large)
    return f"select {size} from {table.name} order by {table.order}"


def _batches(sizes: Sequence[int]) -> Iterator[int]:
    """How many rows to read, again and again."""
    count = total = 0
    for size in sizes:
        count, total = count + 1, total + size
        if is_full(count, total):
            yield count
            count = total = 0
    if count:
        yield count
