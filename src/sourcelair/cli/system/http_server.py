"""The HTTP server of the APIs: uvicorn in our own event loop, with our own signal handling."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from sourcelair.cli.system.answering import Answering
from sourcelair.errors import Unreachable, problem_response

CLOSE_TIMEOUT = 1
"""Seconds that requests in flight get at shutdown; streams are ended by their services before."""

KEEP_ALIVE = 30
"""Seconds that an idle connection is kept: longer than what our own clients keep it (5 s), so that they close first."""


class HttpServer(uvicorn.Server):
    """Serves one application on one socket until `should_exit` is set.

    Args:
        app: the application.
        listening: a bound socket.
    """

    def __init__(self, app: ASGIApp, listening: socket.socket) -> None:
        super().__init__(
            uvicorn.Config(
                self._answer,
                interface="asgi3",
                log_config=None,
                access_log=False,
                lifespan="off",
                ws="none",
                server_header=False,
                timeout_graceful_shutdown=CLOSE_TIMEOUT,
                timeout_keep_alive=KEEP_ALIVE,
            )
        )
        self._app = app
        self._listening = listening

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; a long poll that is cut short since this server ends gets an answer, too."""
        answering = Answering(send)
        try:
            await self._app(scope, receive, answering)
        except asyncio.CancelledError:
            if not self.should_exit:
                raise
            if not answering.begun and scope["type"] == "http":
                await problem_response(Unreachable("This process is ending.", retry_after=1))(scope, receive, send)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to `lair up`."""
        yield

    async def run_forever(self) -> None:
        """Serve until `should_exit` is set."""
        await self.serve(sockets=[self._listening])
