"""Requests to one server: sent, retried where that is harmless, and answered in JSON or refused."""

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
from .refusals import RequestSpec, message_of, refusal

T = TypeVar("T")

_AWAY = frozenset({502, 503, 504})  # from proxies and servers that are expected to come back
_BUSY = 429  # refused before anything was done
_SILENCE = 45.0  # seconds; a server's streams send something every 15
SHORTEST_BOUND = 0.1  # seconds, whatever a server requests
LONGEST_PAUSE = 15.0  # seconds
LONGEST_RETRY_AFTER = 60.0  # seconds that a server may make the client wait
# A pooled connection is given up before the server may close it (uvicorn: after 5 s), so that no request
# is sent into a connection that is being closed.
_LIMITS = httpx2.Limits(max_connections=None, max_keepalive_connections=20, keepalive_expiry=3.0)
_HOST = re.compile(
    rb"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(%[\w.-]+)?"
)  # or an IPv6 address
_UNSENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)
_NOT_RETRYABLE = (httpx2.LocalProtocolError, httpx2.UnsupportedProtocol)


class Disconnected(Exception):  # noqa: N818 - caught where requests are retried
    """There was no answer, or it broke off, or it was "not now"."""

    def __init__(
        self,
        reason: str,
        *,
        unsent: bool = False,
        retry_after: float = 0.0,
        status: int | None = None,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.unsent = unsent
        """True if the server certainly did nothing."""
        self.retry_after = retry_after
        """Seconds to wait, by the server's Retry-After."""
        self.status = status


class Answer(NamedTuple):
    """A successful answer."""

    data: Any
    next_cursor: str | None
    """Where the next page begins, if there is one."""


class Backoff:
    """Waits after failures: a random time up to a bound that doubles each time (full jitter)."""

    def __init__(self, runtime: Runtime, first: float = 0.5) -> None:
        self._runtime, self._first = runtime, first
        self.failures = 0

    def set_retry(self, hint: int | None) -> None:
        """Set the first bound by a server's ``retry:``, in milliseconds. One that is longer than the client
        ever waits means that no more will come, and is ignored."""
        if hint is not None and hint <= LONGEST_PAUSE * 1000:
            self._first = max(SHORTEST_BOUND, hint / 1000)

    async def wait(self, retry_after: float = 0.0) -> None:
        """Wait, at least as long as the server requested."""
        bound = min(LONGEST_PAUSE, self._first * 2.0 ** min(self.failures, 10))
        self.failures += 1
        delay = self._runtime.random.uniform(0.0, bound)
        await self._runtime.sleep(min(retry_after, LONGEST_RETRY_AFTER) + delay)


class Connection:
    """A server's address, and how to send it requests. Opens connections when they are needed."""

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
        self.url, credentials = _parse_url(url)
        """The server's URL, without a name and a password."""
        self.runtime = runtime
        self.connected_once = False
        """True once the server answered: a connection that is lost later is expected to come back."""
        self.disconnected = False
        """True if the latest request got no answer."""
        self.retries = retries
        self._options: dict[str, Any] = {"auth": auth or credentials, "transport": transport}
        self._headers = _check_headers(headers)
        self._timeout = timeout
        self._http: httpx2.AsyncClient | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    async def close(self) -> None:
        """Close all connections; further requests raise ``ClosedError``."""
        self._closed = True
        http, self._http = self._http, None
        if http is not None:
            await http.aclose()

    async def send(
        self, spec: RequestSpec, make: Callable[[Answer], T], *, patient: bool = False
    ) -> T | None:
        """Send a request and return what ``make`` builds from the answer.

        Returns None if an earlier try whose answer was lost has done it. ``patient``: retry without end.
        """
        backoff = Backoff(self.runtime)
        unknown = False
        while True:
            try:
                return await self._try(spec, make)
            except Disconnected as error:
                unknown = unknown or not error.unsent
                may_retry = spec.repeatable or not unknown
                if not may_retry or (backoff.failures >= self.retries and not patient):
                    raise self.unavailable(spec, error, backoff.failures + 1) from None
                self.require_open()
                await backoff.wait(error.retry_after)
            except DurablyError as refused:
                if unknown and spec.means_done(refused):
                    return None
                raise

    async def _try(self, spec: RequestSpec, make: Callable[[Answer], T]) -> T:
        try:
            response = await self._open().send(self._request(spec, self._timeout))
        except httpx2.HTTPError as error:
            raise self._error_of(spec, error) from None
        self._check(spec, response)
        self.connected_once = True
        try:
            cursor = response.headers.get("durably-next-cursor")
            return make(Answer(json.loads(response.content), cursor))
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            if isinstance(error, DurablyError):
                raise
            raise self._not_a_durably_server(spec, response) from None

    @asynccontextmanager
    async def stream(
        self, spec: RequestSpec, last_id: str
    ) -> AsyncGenerator[AsyncGenerator[bytes]]:
        """Open a stream of events and yield its bytes. Raises ``Disconnected``, in the block too."""
        request = self._request(spec, httpx2.Timeout(self._timeout, read=_SILENCE))
        request.headers.update({"accept": "text/event-stream", "accept-encoding": "identity"})
        if last_id:
            request.headers["last-event-id"] = last_id
        try:
            response = await self._open().send(request, stream=True)
            try:
                if not response.is_success:
                    await response.aread()
                self._check(spec, response)
                if "text/event-stream" not in response.headers.get("content-type", ""):
                    raise self._not_a_durably_server(spec, response)
                self.connected_once = True
                yield _chunks(response)
            finally:
                await response.aclose()
        except (httpx2.HTTPError, httpx2.StreamError) as error:
            raise self._error_of(spec, error) from None

    def _request(self, spec: RequestSpec, timeout: Any) -> httpx2.Request:
        unsafe = {
            "x-durably": "1",
            "content-type": "application/json",
            "prefer": "return=representation",
        }
        return self._open().build_request(
            spec.method,
            self.url + spec.path,
            params=list(spec.query),
            content=spec.body,
            headers={} if spec.method == "GET" else unsafe,
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

    def _check(self, spec: RequestSpec, response: httpx2.Response) -> None:
        self.disconnected = False
        if response.is_success:
            return
        status = response.status_code
        retry_after = _seconds(response.headers.get("retry-after", ""))
        if status in _AWAY or status == _BUSY:
            reason = f"{status}: {message_of(response)}"
            raise Disconnected(
                reason, unsent=status == _BUSY, retry_after=retry_after, status=status
            )
        raise refusal(spec, response, self.address(spec))

    def _error_of(self, spec: RequestSpec, error: Exception) -> Exception:
        if isinstance(error, _NOT_RETRYABLE):
            # The text of the error holds the header's value, which may be a secret.
            is_header = "header" in str(error).lower()
            reason = "invalid character in a header, such as a line break" if is_header else error
            return ConfigurationError(f"{spec.method} {self.address(spec)}: {reason}")
        if not isinstance(error, httpx2.TransportError | httpx2.StreamError):
            return ServerError(f"{self.address(spec)}: {error}", url=self.address(spec))
        self.disconnected = True
        text = f"{type(error).__name__}: {error}".removesuffix(": ")
        return Disconnected(text, unsent=isinstance(error, _UNSENT))

    def address(self, spec: RequestSpec) -> str:
        """Return the URL of a request, without its query."""
        return self.url + spec.path

    def unavailable(
        self, spec: RequestSpec, error: Disconnected, tries: int
    ) -> ServerUnavailableError:
        """Build the error for a server that did not answer."""
        url = self.address(spec)
        times = "" if tries == 1 else f", tried {tries} times"
        known = spec.repeatable or error.unsent
        hint = (
            "is a server running there, and is the URL right?"
            if known
            else f"it is unknown whether the server acted on it; {spec.hint}"
        )
        text = f"{spec.method} {url}: no answer ({error.reason}{times}): {hint}"
        return ServerUnavailableError(text, url=url, status=error.status)

    def _not_a_durably_server(self, spec: RequestSpec, response: httpx2.Response) -> ServerError:
        """Build the error for an answer that no Durably server gives."""
        url = self.address(spec)
        kind = response.headers.get("content-type", "no content type")
        return ServerError(
            f"not a Durably server: {spec.method} {url} was answered with {kind}; the URL must be that "
            "of the API, as http://127.0.0.1:8000/api/durably",
            url=url,
            status=response.status_code,
        )


async def _chunks(response: httpx2.Response) -> AsyncGenerator[bytes]:
    async for chunk in response.aiter_bytes():
        yield chunk


def _seconds(text: str) -> float:
    return float(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0.0


def _parse_url(url: str) -> tuple[str, tuple[str, str] | None]:
    """Parse a server's URL, and the name and password in it."""
    try:
        parsed = httpx2.URL(url)
    except (httpx2.InvalidURL, TypeError) as error:
        raise ConfigurationError(f"invalid server URL: {error}") from None
    credentials = (parsed.username, parsed.password) if parsed.username else None
    shown = str(parsed.copy_with(username=None, password=None))
    is_port = parsed.port is None or 0 < parsed.port < 65_536
    is_address = is_port and _HOST.fullmatch(parsed.raw_host)
    if parsed.scheme not in ("http", "https") or not is_address:
        raise ConfigurationError(f"server URL must be like http://host:port/path, got {shown!r}")
    if parsed.query or parsed.fragment:
        raise ConfigurationError(
            "server URL must have no query and no fragment; pass headers= instead"
        )
    return shown.rstrip("/"), credentials


def _check_headers(headers: Mapping[str, str]) -> httpx2.Headers:
    for name, value in cast("Mapping[str, Any]", headers).items():
        if not isinstance(value, str) or not value.isascii():  # not shown: it may be a secret
            raise ConfigurationError(
                f"value of header {name!r} in headers= must be a str of ASCII characters"
            )
    try:
        return httpx2.Headers({"user-agent": f"durably/{version('durably')}", **headers})
    except (UnicodeError, TypeError, AttributeError) as error:
        raise ConfigurationError(f"invalid name in headers=: {error}") from None
