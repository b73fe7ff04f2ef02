"""A server instead of a file: ``--url``, ``--header``, and what stands for them in the environment."""

from __future__ import annotations

import os
from argparse import ArgumentTypeError, Namespace
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING

from .home import VARIABLE
from .target import UsageError

if TYPE_CHECKING:
    from ..client import DurablyClient

URL = "DURABLY_URL"
TOKEN = "DURABLY_TOKEN"  # noqa: S105 - its name


class AwayError(Exception):
    """The server cannot be reached, or failed."""


def named_url(args: Namespace) -> str | None:
    """The server of ``--url`` or ``$DURABLY_URL``; None when a file is meant."""
    local = [name for name in ("db", "app", "durably") if getattr(args, name, None)]
    if args.url and local:
        what = "MODULE:DURABLY" if local[0] == "durably" else f"--{local[0]}"
        raise UsageError(f"--url names a server and {what} does not; pass one of them")
    if args.url or local:
        return args.url or None
    url = os.environ.get(URL)
    if url and os.environ.get(VARIABLE):
        raise UsageError(f"both {URL} and {VARIABLE} are set; pass --url or --db")
    return url or None


def header(text: str) -> tuple[str, str]:
    """``NAME: VALUE``."""
    name, separator, value = text.partition(":")
    if not separator or not name.strip():
        raise ArgumentTypeError(f"{text.partition(' ')[0]!r} is not a header: write 'NAME: VALUE'")
    return name.strip(), value.strip()


@asynccontextmanager
async def connected(url: str, args: Namespace) -> AsyncGenerator[DurablyClient]:
    """A client of the server. What is wrong with the server is raised as ``AwayError``."""
    try:
        from ..client import DurablyClient, RequestRefusedError, ServerError
        from ..client.refusals import SIGN_IN
    except ModuleNotFoundError as error:
        if error.name != "httpx2":
            raise
        raise UsageError(str(error)) from None
    try:
        async with DurablyClient(url, headers=_headers(args)) as client:
            yield client
    except RequestRefusedError as refused:
        if refused.status != HTTPStatus.UNAUTHORIZED:
            raise
        raise RequestRefusedError(
            f"{str(refused).removesuffix(SIGN_IN)}; set {TOKEN}, or pass --header 'NAME: VALUE'",
            url=refused.url,
            status=refused.status,
            code=refused.code,
        ) from None
    except ServerError as error:
        raise AwayError(str(error)) from error


def _headers(args: Namespace) -> dict[str, str]:
    headers: dict[str, str] = {}
    if token := os.environ.get(TOKEN, "").strip():  # as a file has it, with its line end
        headers["authorization"] = f"Bearer {token}"
    for name, value in args.header or ():
        headers[name.lower()] = value
    return headers
