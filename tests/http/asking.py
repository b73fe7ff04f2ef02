"""Asking a handler, without a server between."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from durably import Durably
from durably.http import Handler, Request, Response
from durably.http.routes import ROUTES

JSON = {"content-type": "application/json"}


@dataclass(frozen=True)
class Answer:
    """What was answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body; it says that it is JSON."""
        assert self.headers["content-type"] == "application/json"
        return json.loads(self.body)

    @property
    def refusal(self) -> tuple[int, str]:
        """Status and code."""
        assert self.json.keys() >= {"error", "code"}
        return self.status, self.json["code"]


class Asker:
    """Asks a handler as one client does: with its headers, from its address."""

    def __init__(
        self,
        handler: Handler,
        headers: Mapping[str, str] | None = None,
        client: str | None = "127.0.0.1",
    ) -> None:
        self.handler = handler
        self.headers = {"host": "localhost:8000", **(headers or {})}
        self.client = client

    async def ask(
        self,
        method: str,
        path: str,
        query: Iterable[tuple[str, str]] = (),
        body: bytes | AsyncIterator[bytes] = b"",
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Any request."""
        response = await self._ask(method, path, query, body, headers)
        if isinstance(response.body, bytes):
            told = response.body
        else:
            told = b"".join([chunk async for chunk in response.body])
        return Answer(response.status, dict(response.headers), told)

    async def peek(
        self,
        method: str,
        path: str,
        query: Iterable[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Any request; of a stream no more than its head."""
        response = await self._ask(method, path, query, b"", headers)
        if isinstance(response.body, bytes):
            return Answer(response.status, dict(response.headers), response.body)
        await response.body.aclose()
        return Answer(response.status, dict(response.headers), b"")

    async def stream(self, path: str, *query: tuple[str, str]) -> AsyncGenerator[Any, None]:
        """The events of a stream, without its comments."""
        response = await self._ask("GET", path, query, b"", None)
        assert response.status == 200
        assert not isinstance(response.body, bytes)
        try:
            async for chunk in response.body:
                for line in chunk.splitlines():
                    if line.startswith(b"data: "):
                        yield json.loads(line[6:])
        finally:
            await response.body.aclose()

    async def _ask(
        self,
        method: str,
        path: str,
        query: Iterable[tuple[str, str]],
        body: bytes | AsyncIterator[bytes],
        headers: Mapping[str, str] | None,
    ) -> Response:
        said = {**self.headers, **(headers or {})}
        return await self.handler.handle(
            Request(method, path, list(query), said, body, self.client)
        )

    async def get(self, path: str, *pairs: tuple[str, str], **query: object) -> Answer:
        """A GET."""
        return await self.ask("GET", path, [*pairs, *((k, str(v)) for k, v in query.items())])

    async def post(self, path: str, **query: str) -> Answer:
        """A POST without a body."""
        return await self.ask("POST", path, query.items(), headers={"x-durably": "1"})

    async def delete(self, path: str, **query: str) -> Answer:
        """A DELETE."""
        return await self.ask("DELETE", path, query.items(), headers={"x-durably": "1"})

    async def trigger(self, job: str, input: Any = None, **more: Any) -> Answer:
        """POST /trigger."""
        body = {"jobName": job, **({} if input is None else {"input": input}), **more}
        return await self.send(json.dumps(body).encode())

    async def send(self, body: bytes | AsyncIterator[bytes], **headers: str) -> Answer:
        """POST /trigger, with any body."""
        return await self.ask("POST", "/trigger", (), body, {**JSON, **headers})


RUN_FIELDS = {
    "id", "jobName", "status", "input", "payload", "output", "error", "progress", "labels",
    "completedStepCount", "currentStepIndex", "startedAt", "completedAt", "createdAt", "updatedAt",
    "isTerminal", "isActive", "attempt", "errorType", "failedStepName",
}  # fmt: skip
ABSENT = "0199aaaa-0000-7000-8000-000000000000"
"""No run has this id."""


async def ended(durably: Durably, answer: Answer) -> str:
    """The id of the triggered run, once that is over."""
    run_id = answer.json["runId"]
    async for event in durably.subscribe(run_id):
        if event.is_final:
            break
    return run_id


async def packed(durably: Durably, asker: Asker, **more: Any) -> str:
    """A run that completed."""
    return await ended(durably, await asker.trigger("pack", {"name": "Ada"}, **more))


async def broken(durably: Durably, asker: Asker) -> str:
    """A run that failed."""
    return await ended(durably, await asker.trigger("break", {"name": "Ada"}))


async def held(asker: Asker) -> str:
    """A run that does not end."""
    return (await asker.trigger("hold", {"name": "Ada"})).json["runId"]


OF_ONE_RUN = [route for route in ROUTES if any(p.required for p in route.parameters)]
"""The routes that are asked for one run."""
