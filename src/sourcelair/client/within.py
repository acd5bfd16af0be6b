"""Requests to an application of the same process: ASGI messages (https://asgi.readthedocs.io), and no connection.

A client for all of HTTP takes three times as long for one: it looks at redirects, cookies and proxies, of which there
are none here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx
from starlette.types import ASGIApp, Message

from sourcelair.telemetry import get_logger

_log = get_logger(__name__)


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
        asked, said, over = False, list[Message](), asyncio.Event()

        async def receive() -> Message:
            nonlocal asked
            if asked:
                await over.wait()
                return {"type": "http.disconnect"}
            asked = True
            return {"type": "http.request", "body": content, "more_body": False}

        async def send(message: Message) -> None:
            said.append(message)
            if message["type"] == "http.response.body" and not message.get("more_body"):
                over.set()

        all_headers = {**self._headers, **headers, "content-length": str(len(content))}
        scope = {
            **self._scope,
            "method": method,
            "path": unquote(path),
            "raw_path": path.encode("ascii"),
            "query_string": str(httpx.QueryParams(params)).encode("ascii") if params else b"",
            "headers": [(name.lower().encode(), value.encode()) for name, value in all_headers.items()],
        }
        try:
            await self._app(scope, receive, send)
        except Exception:  # as a server does: it may have answered that it failed
            _log.exception("request_failed", method=method, path=path)
        if not over.is_set():
            raise httpx.ReadError(f"{method} {path} broke off")
        return httpx.Response(
            said[0]["status"],
            headers=said[0]["headers"],
            content=b"".join(message.get("body", b"") for message in said[1:]),
        )
