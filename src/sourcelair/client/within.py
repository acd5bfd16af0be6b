"""Requests to an application of the same process: ASGI messages (https://asgi.readthedocs.io), and no connection.

A client for all of HTTP takes three times as long for one: it looks at redirects, cookies and proxies, of which there
are none here.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx
from starlette.types import ASGIApp, Message, Receive

from sourcelair.telemetry import get_logger

_log = get_logger(__name__)

PIECES = 64
"""Pieces of a stream that wait to be read; whoever sends more waits, too."""


class Within:
    """Asks one application.

    Args:
        app: answers.
        base_url: where it would be reached over the network.
        headers: of every request.
    """

    def __init__(self, app: ASGIApp, base_url: str, headers: Mapping[str, str]) -> None:
        parts = urlsplit(base_url)
        self._app = app
        self._scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "scheme": parts.scheme,
            "root_path": "",
            "client": ("127.0.0.1", 0),
            "server": (parts.hostname, parts.port or 80),
        }
        self._headers = {"host": parts.netloc, **headers}

    async def request(
        self, method: str, path: str, *, content: bytes, params: Mapping[str, Any], headers: Mapping[str, str]
    ) -> httpx.Response:
        """Send one request, and return its answer once it is whole. Whoever is cancelled has gone away.

        Args:
            method: the HTTP method.
            path: with escapes where it needs them.
            content: the body.
            params: of the query.
            headers: in addition.

        Raises:
            httpx.ReadError: the application ended without an answer.
        """
        said, over = list[Message](), asyncio.Event()

        async def send(message: Message) -> None:
            said.append(message)
            if message["type"] == "http.response.body" and not message.get("more_body"):
                over.set()

        scope = self._scope_of(method, path, params, {**headers, "content-length": str(len(content))})
        try:
            await self._app(scope, _receive(content, over), send)
        except Exception:  # as a server does: it may have answered that it failed
            _log.exception("request_failed", method=method, path=path)
        if not over.is_set():
            raise httpx.ReadError(f"{method} {path} broke off")
        return httpx.Response(
            said[0]["status"],
            headers=said[0]["headers"],
            content=b"".join(message.get("body", b"") for message in said[1:]),
        )

    def _scope_of(
        self, method: str, path: str, params: Mapping[str, Any], headers: Mapping[str, str]
    ) -> dict[str, Any]:
        all_headers = {**self._headers, **headers}
        return {
            **self._scope,
            "method": method,
            "path": unquote(path),
            "raw_path": path.encode("ascii"),
            "query_string": str(httpx.QueryParams(params)).encode("ascii") if params else b"",
            "headers": [(name.lower().encode(), value.encode()) for name, value in all_headers.items()],
        }

    @contextlib.asynccontextmanager
    async def stream(
        self, method: str, path: str, *, params: Mapping[str, Any], headers: Mapping[str, str]
    ) -> AsyncIterator[httpx.Response]:
        """Send one request without a body, and give its answer while it comes. Whoever leaves has gone away.

        Args:
            method: the HTTP method.
            path: with escapes where it needs them.
            params: of the query.
            headers: in addition.

        Raises:
            httpx.ReadError: the application ended without an answer, or before its answer was whole.
        """
        gone, pieces = asyncio.Event(), asyncio.Queue[bytes | None](PIECES)
        head: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        whole = False

        async def send(message: Message) -> None:
            nonlocal whole
            if message["type"] == "http.response.start":
                head.set_result(message)
                return
            if body := message.get("body", b""):
                await pieces.put(body)
            whole = whole or not message.get("more_body")

        async def answer() -> None:
            try:
                await self._app(self._scope_of(method, path, params, headers), _receive(b"", gone), send)
            except Exception:  # as a server does: it may have answered that it failed
                _log.exception("request_failed", method=method, path=path)
            if not head.done():
                head.set_exception(httpx.ReadError(f"{method} {path} broke off"))
            await pieces.put(None)

        async def read() -> AsyncIterator[bytes]:
            while (piece := await pieces.get()) is not None:
                yield piece
            if not whole:
                raise httpx.ReadError(f"{method} {path} broke off")

        answering = asyncio.create_task(answer())
        try:
            said = await head
            yield httpx.Response(said["status"], headers=said["headers"], content=read())
        finally:
            gone.set()
            answering.cancel()
            await asyncio.gather(answering, return_exceptions=True)
            if head.done():
                head.exception()  # seen, also where nobody waited for it any more


def _receive(content: bytes, gone: asyncio.Event) -> Receive:
    """Return what gives an application a body, and the end of its client once that is so."""
    asked = False

    async def receive() -> Message:
        nonlocal asked
        if asked:
            await gone.wait()
            return {"type": "http.disconnect"}
        asked = True
        return {"type": "http.request", "body": content, "more_body": False}

    return receive
