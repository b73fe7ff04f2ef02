"""Opens what a command reads and changes: the runs of a database, or of a server."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeAlias, Union

from ..durably import Durably
from .home import named_home, opened
from .remote import connected, named_url

if TYPE_CHECKING:
    from ..client import DurablyClient

Runs: TypeAlias = Union[Durably, "DurablyClient"]
"""A database's runs, or a server's: both have the same methods."""


@asynccontextmanager
async def connect(args: Namespace, *, read_only: bool = False) -> AsyncGenerator[Runs]:
    """The runs of ``--url``, or of ``--db`` or ``--app``; ``read_only`` leaves no trace in a file."""
    if (url := named_url(args)) is not None:
        async with connected(url, args) as client:
            yield client
        return
    async with connect_database(args, read_only=read_only) as durably:
        yield durably


@asynccontextmanager
async def connect_database(args: Namespace, *, read_only: bool = False) -> AsyncGenerator[Durably]:
    """As ``connect``, for what no server offers."""
    async with opened(named_home(args), read_only=read_only) as durably:
        yield durably
