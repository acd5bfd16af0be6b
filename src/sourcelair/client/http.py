"""The one HTTP client: bearer token, keep-alive, and problem+json turned back into the errors it was made from."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx
from starlette.types import ASGIApp

from sourcelair.client.within import Within
from sourcelair.errors import PROBLEM_JSON, InvalidInput, LairError, Unreachable, from_problem

CONNECT_TIMEOUT = 5.0
"""Seconds until a connection must stand."""

READ_TIMEOUT = 30.0
"""Seconds that an answer may take beyond the `wait` that was asked for."""


OUR_KINDS = ("application/json", "text/plain", "text/event-stream")
"""Content types of good answers."""


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    """One event of a text/event-stream (https://html.spec.whatwg.org/multipage/server-sent-events.html)."""

    event: str
    data: str
    id: str | None

    def json(self) -> Any:
        """Return the decoded data."""
        return json.loads(self.data)


def segment(name: str) -> str:
    """Return a name as one segment of a path. Raises InvalidInput: it is empty."""
    if not name:
        raise InvalidInput("A name is empty.")
    return quote(name, safe="")


def error_of(response: httpx.Response, base_url: str) -> LairError:
    """Return the error that an answer of `base_url` other than 2xx stands for. Its body must have been read.

    What is no problem object was not said by any service of ours, and is Unreachable: a 404 of another program does not
    mean that there is no such server.
    """
    if not response.headers.get("content-type", "").startswith(PROBLEM_JSON):
        return Unreachable(f"What answers at {base_url} is not SourceLair: another program has that port.")
    try:
        problem = response.json()
    except ValueError:
        problem = {}
    return from_problem(response.status_code, problem if isinstance(problem, dict) else {})


def _is_good(response: httpx.Response) -> bool:
    """Whether an answer is one that our services give where all is well."""
    kind = response.headers.get("content-type", "")
    return response.is_success and (not kind or kind.startswith(OUR_KINDS))


class ApiClient:
    """Base of the typed clients.

    Args:
        base_url: such as `http://127.0.0.1:7070`.
        token: sent as `Authorization: Bearer`; None sends none.
        transport: for tests, such as `httpx.ASGITransport(app)`.
        within: the application that answers there, where it runs in this process: requests go to it without a
            connection, with all that is in them, and so do streams, which `silence` does not end then.
        patience: seconds that any answer may take beyond the `wait` in its parameters, for who has a person waiting.
            None: `READ_TIMEOUT`, and longer for what may take longer.
    """

    def __init__(
        self,
        base_url: str,
        token: str | None = None,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        within: ASGIApp | None = None,
        patience: float | None = None,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self._patience = patience
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._http = httpx.AsyncClient(
            base_url=self.base_url,
            headers=headers,
            transport=transport,
            timeout=httpx.Timeout(READ_TIMEOUT, connect=CONNECT_TIMEOUT, pool=None),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
            trust_env=False,
        )
        self._within = None if within is None else Within(within, self.base_url, headers)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def request(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        content: bytes | None = None,
        params: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
        wait: float = 0.0,
    ) -> httpx.Response:
        """Send one request and return its answer.

        Args:
            method: the HTTP method.
            path: below the base URL.
            body: sent as JSON where it is not None.
            content: JSON that is encoded already, instead of a body.
            params: of the query; values of None are left out.
            headers: in addition.
            wait: seconds that the service was asked to wait, or may need, added to the read timeout.

        Raises:
            Unreachable: no answer came.
            LairError: the one that the service answered with.
        """
        patience = READ_TIMEOUT + wait
        if self._patience is not None:
            patience = self._patience + float((params or {}).get("wait") or 0.0)
        if body is not None:
            content = json.dumps(body).encode()
        params = {name: value for name, value in (params or {}).items() if value is not None}
        headers = {**({"Content-Type": "application/json"} if content is not None else {}), **(headers or {})}
        try:
            if self._within is not None:
                async with asyncio.timeout(patience):
                    response = await self._within.request(
                        method, path, content=content or b"", params=params, headers=headers
                    )
            else:
                timeout = httpx.Timeout(patience, connect=CONNECT_TIMEOUT, pool=None)
                response = await self._http.request(
                    method, path, content=content, params=params, headers=headers, timeout=timeout
                )
        except (httpx.TransportError, TimeoutError) as error:
            raise self._unreachable(error) from error
        if not _is_good(response):
            raise error_of(response, self.base_url)
        return response

    def _unreachable(self, error: httpx.TransportError | TimeoutError) -> Unreachable:
        why = str(error) or type(error).__name__  # a timeout says nothing of itself
        return Unreachable(f"{self.base_url} does not answer: {why}")

    @asynccontextmanager
    async def events(
        self,
        path: str,
        *,
        params: dict[str, Any] | None = None,
        last_event_id: str | None = None,
        silence: float | None = None,
    ) -> AsyncIterator[AsyncIterator[ServerSentEvent]]:
        """Open an event stream; comments (keep-alives) are skipped.

        Args:
            path: below the base URL.
            params: of the query.
            last_event_id: where to go on.
            silence: seconds without a byte after which the stream counts as broken.

        Raises:
            Unreachable: no answer came, or the stream broke.
            LairError: the one that the service answered with.
        """
        headers = {"Accept": "text/event-stream"}
        if last_event_id is not None:
            headers["Last-Event-ID"] = last_event_id
        async with self.stream("GET", path, params=params, headers=headers, silence=silence) as response:
            yield _parse(response)

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        path: str,
        *,
        params: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
        silence: float | None = None,
    ) -> AsyncIterator[httpx.Response]:
        """Send a request whose answer is read as it comes.

        Args:
            method: the HTTP method.
            path: below the base URL.
            params: of the query.
            headers: in addition.
            silence: seconds without a byte after which the stream counts as broken.

        Raises:
            Unreachable: no answer came, or the stream broke.
            LairError: the one that the service answered with.
        """
        timeout = httpx.Timeout(silence, connect=CONNECT_TIMEOUT, pool=None)
        try:
            opened: AbstractAsyncContextManager[httpx.Response]
            if self._within is not None:
                opened = self._within.stream(method, path, params=params or {}, headers=headers or {})
            else:
                opened = self._http.stream(method, path, params=params, headers=headers, timeout=timeout)
            async with opened as response:
                if not _is_good(response):
                    await response.aread()
                    raise error_of(response, self.base_url)
                yield response
        except httpx.TransportError as error:
            raise self._unreachable(error) from error


async def _parse(response: httpx.Response) -> AsyncIterator[ServerSentEvent]:
    event, data, identity = "message", list[str](), None
    async for line in response.aiter_lines():
        if not line:
            if data:
                yield ServerSentEvent(event, "\n".join(data), identity)
            event, data = "message", []
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            event = value
        elif field == "data":
            data.append(value)
        elif field == "id":
            identity = value
