"""The HTTP server of the APIs: uvicorn in our own event loop, with our own signal handling."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

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
                app,
                log_config=None,
                access_log=False,
                lifespan="off",
                ws="none",
                server_header=False,
                timeout_graceful_shutdown=CLOSE_TIMEOUT,
                timeout_keep_alive=KEEP_ALIVE,
            )
        )
        self._listening = listening

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to `lair up`."""
        yield

    async def run_forever(self) -> None:
        """Serve until `should_exit` is set."""
        await self.serve(sockets=[self._listening])
