"""Requests to one server: sent, tried again where that is harmless, and answered in JSON or refused."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any, NamedTuple, TypeVar, cast

import httpx2

from ..errors import ClosedError, ConfigurationError, DurablyError
from ..runtime import Runtime
from .errors import ServerError, ServerUnavailableError
from .refusals import Asked, message_of, refusal

T = TypeVar("T")

_AWAY = frozenset({502, 503, 504})  # said by proxies and servers that will be there again
_BUSY = 429  # refused before anything was done
_SILENCE = 45.0  # seconds; a server's streams say something every 15
SHORTEST_BOUND = 0.1  # seconds, whatever a server says
LONGEST_PAUSE = 15.0  # seconds
LONGEST_WISH = 60.0  # seconds that a server may ask us to wait
# A pooled connection is given up before the server may close it (uvicorn: after 5 s), so that no request
# is sent into a connection that is being closed.
_LIMITS = httpx2.Limits(max_connections=None, max_keepalive_connections=20, keepalive_expiry=3.0)
_HOST = re.compile(
    rb"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(%[\w.-]+)?"
)  # or an IPv6 address
_UNSENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)
_HOPELESS = (httpx2.LocalProtocolError, httpx2.UnsupportedProtocol)


class Lost(Exception):  # noqa: N818 - caught by who tries again
    """There was no answer, or it broke off, or it says "not now"."""

    def __init__(
        self, reason: str, *, unsent: bool = False, wish: float = 0.0, status: int | None = None
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.unsent = unsent
        """True when the server certainly did nothing."""
        self.wish = wish
        """Seconds that the server wants us to wait."""
        self.status = status


class Answer(NamedTuple):
    """What a server answered."""

    data: Any
    next_cursor: str | None
    """Where the next page begins, if there is one."""


class Backoff:
    """How long to wait after the n-th failure: anything up to a bound that doubles (full jitter)."""

    def __init__(self, runtime: Runtime, first: float = 0.5) -> None:
        self._runtime, self._first = runtime, first
        self.failures = 0

    def heed(self, hint: int | None) -> None:
        """A server's ``retry:``, in milliseconds. A longer one than we ever wait means: no more to come."""
        if hint is not None and hint <= LONGEST_PAUSE * 1000:
            self._first = max(SHORTEST_BOUND, hint / 1000)

    async def pause(self, wish: float = 0.0) -> None:
        """Wait; not less than what the server wished for."""
        bound = min(LONGEST_PAUSE, self._first * 2.0 ** min(self.failures, 10))
        self.failures += 1
        delay = self._runtime.random.uniform(0.0, bound)
        await self._runtime.sleep(min(wish, LONGEST_WISH) + delay)


class Connection:
    """A server's address and how to speak to it. Opens connections when they are needed."""

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str],
        auth: httpx2.Auth | tuple[str, str] | None,
        timeout: float,
        retries: int,
        transport: httpx2.AsyncBaseTransport | None,
        runtime: Runtime,
    ) -> None:
        self.url, named = _checked(url)
        """The server's URL, without a name and a password."""
        self.runtime = runtime
        self.met = False
        """True once the server answered: what is lost from then on will come back."""
        self.lost = False
        """True when the latest request got no answer."""
        self.retries = retries
        self._options: dict[str, Any] = {"auth": auth or named, "transport": transport}
        self._headers = _checked_headers(headers)
        self._timeout = timeout
        self._http: httpx2.AsyncClient | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    async def close(self) -> None:
        """Close what is open; nothing can be asked any more."""
        self._closed = True
        http, self._http = self._http, None
        if http is not None:
            await http.aclose()

    async def ask(
        self, asked: Asked, make: Callable[[Answer], T], *, patient: bool = False
    ) -> T | None:
        """What is made of the answer; None for what an earlier try did whose answer was lost.

        ``patient``: try again for as long as it takes.
        """
        backoff = Backoff(self.runtime)
        unknown = False
        while True:
            try:
                return await self._try(asked, make)
            except Lost as lost:
                unknown = unknown or not lost.unsent
                again = asked.repeatable or not unknown
                if not again or (backoff.failures >= self.retries and not patient):
                    raise self.unavailable(asked, lost, backoff.failures + 1) from None
                self.require_open()
                await backoff.pause(lost.wish)
            except DurablyError as refused:
                if unknown and asked.means_done(refused):
                    return None
                raise

    async def _try(self, asked: Asked, make: Callable[[Answer], T]) -> T:
        try:
            response = await self._open().send(self._request(asked, self._timeout))
        except httpx2.HTTPError as error:
            raise self._lost(asked, error) from None
        self._check(asked, response)
        self.met = True
        try:
            cursor = response.headers.get("durably-next-cursor")
            return make(Answer(json.loads(response.content), cursor))
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            if isinstance(error, DurablyError):
                raise
            raise self._stranger(asked, response) from None

    @asynccontextmanager
    async def stream(self, asked: Asked, last_id: str) -> AsyncGenerator[AsyncGenerator[bytes]]:
        """The bytes of a stream of events, as they come. Raises ``Lost``, in the block too."""
        request = self._request(asked, httpx2.Timeout(self._timeout, read=_SILENCE))
        request.headers.update({"accept": "text/event-stream", "accept-encoding": "identity"})
        if last_id:
            request.headers["last-event-id"] = last_id
        try:
            response = await self._open().send(request, stream=True)
            try:
                if not response.is_success:
                    await response.aread()
                self._check(asked, response)
                if "text/event-stream" not in response.headers.get("content-type", ""):
                    raise self._stranger(asked, response)
                self.met = True
                yield _chunks(response)
            finally:
                await response.aclose()
        except (httpx2.HTTPError, httpx2.StreamError) as error:
            raise self._lost(asked, error) from None

    def _request(self, asked: Asked, timeout: Any) -> httpx2.Request:
        unsafe = {
            "x-durably": "1",
            "content-type": "application/json",
            "prefer": "return=representation",
        }
        return self._open().build_request(
            asked.method,
            self.url + asked.path,
            params=list(asked.query),
            content=asked.body,
            headers={} if asked.method == "GET" else unsafe,
            timeout=timeout,
        )

    def require_open(self) -> None:
        """Raise ``ClosedError`` after ``close()``."""
        if self._closed:
            raise ClosedError("this client is closed; make another one")

    def _open(self) -> httpx2.AsyncClient:
        self.require_open()
        loop = asyncio.get_running_loop()
        if self._http is None:
            self._loop = loop
            self._http = httpx2.AsyncClient(headers=self._headers, limits=_LIMITS, **self._options)
        if loop is not self._loop:
            raise ConfigurationError(
                "this client was first used on another event loop; make one for each loop, or use "
                "SyncDurablyClient from other threads"
            )
        return self._http

    def _check(self, asked: Asked, response: httpx2.Response) -> None:
        self.lost = False
        if response.is_success:
            return
        status = response.status_code
        wish = _seconds(response.headers.get("retry-after", ""))
        if status in _AWAY or status == _BUSY:
            reason = f"it says {status}: {message_of(response)}"
            raise Lost(reason, unsent=status == _BUSY, wish=wish, status=status)
        raise refusal(asked, response, self.address(asked))

    def _lost(self, asked: Asked, error: Exception) -> Exception:
        if isinstance(error, _HOPELESS):
            # What is wrong with a header is said with its value, which may be a secret.
            is_header = "header" in str(error).lower()
            reason = "a header holds what none can, such as a line break" if is_header else error
            return ConfigurationError(f"{asked.method} {self.address(asked)}: {reason}")
        if not isinstance(error, httpx2.TransportError | httpx2.StreamError):
            return ServerError(f"{self.address(asked)}: {error}", url=self.address(asked))
        self.lost = True
        said = f"{type(error).__name__}: {error}".removesuffix(": ")
        return Lost(said, unsent=isinstance(error, _UNSENT))

    # -- what to tell the user

    def address(self, asked: Asked) -> str:
        """The URL of a request, without its query."""
        return self.url + asked.path

    def unavailable(self, asked: Asked, lost: Lost, tries: int) -> ServerUnavailableError:
        """The error for a server that did not answer."""
        url = self.address(asked)
        often = "" if tries == 1 else f", tried {tries} times"
        known = asked.repeatable or lost.unsent
        hint = (
            "is a server running there, and is the URL right?"
            if known
            else f"whether it was done is not known; {asked.hint}"
        )
        text = f"{asked.method} {url}: no answer ({lost.reason}{often}): {hint}"
        return ServerUnavailableError(text, url=url, status=lost.status)

    def _stranger(self, asked: Asked, response: httpx2.Response) -> ServerError:
        """The error for an answer that no Durably server gives."""
        url = self.address(asked)
        kind = response.headers.get("content-type", "no content type")
        return ServerError(
            f"{asked.method} {url} was answered with {kind}, as no Durably server does; the URL must "
            "be that of the API, as http://127.0.0.1:8000/api/durably",
            url=url,
            status=response.status_code,
        )


async def _chunks(response: httpx2.Response) -> AsyncGenerator[bytes]:
    async for chunk in response.aiter_bytes():
        yield chunk


def _seconds(text: str) -> float:
    return float(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0.0


def _checked(url: str) -> tuple[str, tuple[str, str] | None]:
    """A server's URL, and the name and password that it held."""
    try:
        parsed = httpx2.URL(url)
    except (httpx2.InvalidURL, TypeError) as error:
        raise ConfigurationError(f"the server's URL is none: {error}") from None
    named = (parsed.username, parsed.password) if parsed.username else None
    shown = str(parsed.copy_with(username=None, password=None))
    is_port = parsed.port is None or 0 < parsed.port < 65_536
    is_address = is_port and _HOST.fullmatch(parsed.raw_host)
    if parsed.scheme not in ("http", "https") or not is_address:
        raise ConfigurationError(f"{shown!r} is no URL of a server; write http://host:port/path")
    if parsed.query or parsed.fragment:
        raise ConfigurationError("the server's URL has no query and no fragment; pass headers=")
    return shown.rstrip("/"), named


def _checked_headers(headers: Mapping[str, str]) -> httpx2.Headers:
    for name, value in cast("Mapping[str, Any]", headers).items():
        if not isinstance(value, str) or not value.isascii():  # not shown: it may be a secret
            raise ConfigurationError(
                f"headers= holds what no header can, as {name!r}: it must be a str of ASCII"
            )
    try:
        return httpx2.Headers({"user-agent": f"durably/{version('durably')}", **headers})
    except (UnicodeError, TypeError, AttributeError) as error:
        raise ConfigurationError(f"headers= has a name that no header has: {error}") from None
