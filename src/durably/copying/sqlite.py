"""A SQLite file that is copied from or to."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

from ..runtime import Runtime
from ..store.sqlite import file
from ..store.sqlite.notifier import Presence, presence
from ..store.sqlite.writer import is_passing
from ..store.statements import RETIRED
from .sides import LOCK_TIMEOUT, CopyError, Holder, Side, is_full, size_of
from .tables import Row, Table

_MOMENT = 1.0  # seconds: somebody may be looking


class File(Side):
    """It reads and writes on the calling thread: nothing else happens in its process meanwhile."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._path = path
        self._bells = file.companion_of(path)
        self._connection = sqlite3.connect(":memory:")  # until it is held
        self._alone = False

    def exists(self) -> bool:
        return self._path.exists()

    async def hold(self) -> None:
        if not self.exists():
            raise CopyError(f"there is no database {self.name}")
        file.check_single_name(file.real_path(self._path))
        try:
            self._alone = self._begin(alone=True, timeout=_MOMENT)
            if not self._alone and not self._begin(alone=False, timeout=LOCK_TIMEOUT):
                raise CopyError(
                    f"{self.name} cannot be locked: stop the processes that write to it, and see that it is not "
                    "the source and the target at once"
                )
        except sqlite3.Error as error:
            raise file.damaged(self._path, error) from None

    def _begin(self, *, alone: bool, timeout: float) -> bool:
        """Keep writers out; ``alone``, keep everybody out. False if that is not to be had."""
        self._connection.close()
        self._connection = sqlite3.connect(self._path, isolation_level=None, timeout=timeout)
        self._connection.execute("pragma temp_store = memory")
        if alone:
            self._connection.execute("pragma locking_mode = exclusive")
        try:
            self._connection.execute("begin immediate")
        except sqlite3.OperationalError as error:
            if is_passing(error):
                return False
            raise
        return True

    async def release(self) -> None:
        self._connection.close()

    async def commit(self) -> None:
        self._connection.execute("commit")

    async def schema_version(self) -> int:
        exists = "select 1 from sqlite_master where name = 'durably_version'"
        if not self._ask(exists):
            return 0
        newest = "select coalesce(max(version), 0) from durably_version where version < ?"
        return int(self._ask(newest, RETIRED)[0][0])

    async def is_retired(self) -> bool:
        return bool(self._ask("select 1 from durably_version where version = ?", RETIRED))

    async def holders(self) -> list[Holder]:
        rows = self._ask(
            "select lease_owner, count(*), max(due_at) from durably_runs"
            " where status = 'running' and due_at > ? group by lease_owner",
            Runtime().now(),
        )
        found = [Holder(*row) for row in rows]
        return [holder for holder in found if self._presence(holder.owner) is not Presence.DEAD]

    async def users(self) -> list[str]:
        names = sorted(bell.name for bell in self._bells.glob("*.bell"))
        alive = [name for name in names if self._presence(name) is Presence.ALIVE]
        named = [f"process {name.partition('-')[0]}" for name in alive]
        return named or ([] if self._alone else ["another process"])

    def _presence(self, owner: str) -> Presence:
        return presence(self._bells / owner)

    async def count(self, table: Table) -> int:
        return int(self._ask(f"select count(*) from {table.name}")[0][0])

    async def batches(self, table: Table) -> AsyncGenerator[Sequence[Row]]:
        batch: list[Row] = []
        size = 0
        for row in self._connection.execute(table.select):
            batch.append(row)
            size += size_of(row)
            if is_full(len(batch), size):
                yield batch
                batch, size = [], 0
        if batch:
            yield batch

    async def write(self, table: Table, rows: Sequence[Row]) -> None:
        marks = ", ".join("?" for _ in table.columns)
        columns = ", ".join(table.columns)
        self._connection.executemany(f"insert into {table.name} ({columns}) values ({marks})", rows)

    async def settle(self) -> None:
        pass  # the next position is the one after the highest

    async def retire(self) -> None:
        self._ask(
            "insert into durably_version (version) values (?) on conflict do nothing", RETIRED
        )

    def _ask(self, text: str, *params: Any) -> list[Row]:
        return self._connection.execute(text, params).fetchall()
