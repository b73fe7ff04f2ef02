"""The driver, asyncpg, as far as it is used; it brings no types of its own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg as _asyncpg  # type: ignore[import-untyped,unused-ignore]  # pyright: ignore[reportMissingTypeStubs]

_driver: Any = _asyncpg

ServerError: type[Exception] = _driver.PostgresError
"""What the server answered instead of a result."""
DriverError: type[Exception] = _driver.InterfaceError
"""What the driver refused to do, as to use a connection that is closed."""

BrokenDriverError: type[Exception] = _driver.InternalClientError
"""What the driver says when the server's last words met it unprepared."""

connect: Callable[..., Awaitable[Any]] = _driver.connect
create_pool: Callable[..., Any] = _driver.create_pool

UNIQUE_VIOLATION = "23505"
PROTOCOL_VIOLATION = "08P01"


def state_of(error: BaseException) -> str:
    """The SQLSTATE of what the server answered; "" of anything else."""
    return getattr(error, "sqlstate", None) or ""
