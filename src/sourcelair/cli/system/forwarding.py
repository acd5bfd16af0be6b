"""Every process answers every API: what it does not act for itself, it passes on to the process that does."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping

import httpx
from starlette.requests import ClientDisconnect, Request
from starlette.responses import StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from sourcelair.cli.system.answering import Answering
from sourcelair.cli.system.location import Location
from sourcelair.cli.system.roles import service_of
from sourcelair.errors import LairError, Unavailable, Unreachable, problem_response

FORWARDED = "lair-forwarded"
"""Header of a request that was passed on already: it goes no further, wherever it came."""

CONNECT_TIMEOUT = 3.0
SILENCE = 660.0
"""Seconds until a connection must stand, and in which a byte must come: longer than any answer is waited for. Where the
other process is gone its seat moves, which ends a call sooner."""

_HOP_BY_HOP = frozenset(
    {
        "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer", "transfer-encoding",
        "upgrade", "host",
    }
)  # fmt: skip
"""Headers of one connection only (RFC 9110, 7.6.1), and the host, which is another one."""


class Forward:
    """Passes on what another process acts for.

    Args:
        app: answers the rest.
        acts: tells whether this process acts for a service.
        locations: of all services; empty where there is no other process.
    """

    def __init__(self, app: ASGIApp, acts: Callable[[str], bool], locations: Mapping[str, Location]) -> None:
        self._app = app
        self._acts = acts
        self._locations = locations
        self._http = httpx.AsyncClient(
            timeout=httpx.Timeout(SILENCE, connect=CONNECT_TIMEOUT, pool=None),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
            trust_env=False,
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request here, or elsewhere."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answering = Answering(send)
        try:
            await self._answer(scope, receive, answering)
        except ClientDisconnect:
            return
        except LairError as error:
            if not answering.begun:  # else its end does not come, which tells its reader enough
                await problem_response(error)(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        service = service_of(scope["path"])
        if service is None or self._acts(service):
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        if not self._locations:
            if service == "hemera":  # a 503 of a waker means that a start failed
                raise Unreachable("Hemera is starting.", retry_after=1)
            raise Unavailable(f"{service} is starting.", retry_after=1)
        if FORWARDED in request.headers:
            raise Unreachable(f"This process does not act for {service} any more.", retry_after=1)
        async with self._locations[service].steady() as url:
            await self._pass_on(request, url, send)

    async def _pass_on(self, request: Request, url: str, send: Send) -> None:
        path = request.scope["raw_path"].decode("ascii").partition("?")[0]
        query = request.scope["query_string"].decode("ascii")
        headers = [
            (name, value)  # as they came: a header need not be text
            for name, value in request.scope["headers"]
            if name.decode("latin-1") not in _HOP_BY_HOP
        ]
        headers.append((FORWARDED.encode(), b"1"))
        has_body = request.method not in {"GET", "HEAD", "DELETE"} or "content-length" in request.headers
        outgoing = self._http.build_request(
            request.method,
            f"{url}{path}?{query}" if query else url + path,
            headers=headers,
            content=_body(request) if has_body else None,
        )
        try:
            answer = await self._http.send(outgoing, stream=True)
        except httpx.TransportError as error:
            raise Unreachable(f"{url} does not answer: {error or type(error).__name__}", retry_after=1) from error
        try:
            passed = StreamingResponse(answer.aiter_raw(), answer.status_code)
            passed.raw_headers = [
                (name.lower(), value)
                for name, value in answer.headers.raw
                if name.lower().decode("latin-1") not in _HOP_BY_HOP
            ]
            await passed(request.scope, request.receive, send)
        except httpx.TransportError as error:
            raise Unreachable(f"{url} broke off: {error or type(error).__name__}") from error
        finally:
            await answer.aclose()


async def _body(request: Request) -> AsyncIterator[bytes]:
    async for part in request.stream():
        yield part
