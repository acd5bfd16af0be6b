"""A visitor who asks for another try: the one thing that passes by the back-off, and so only now and then."""

from __future__ import annotations

import time
from collections.abc import Callable

from sourcelair.client.servers import ServersClient, StartRequest
from sourcelair.errors import LairError
from sourcelair.hemera.directory import Directory
from sourcelair.hemera.pages.facts import state_of
from sourcelair.hemera.rates import Rates, source_of
from sourcelair.telemetry import get_logger

_log = get_logger(__name__)

PAUSE = 5.0
"""Seconds between two tries of one server, however many ask."""


class Retries:
    """Starts of servers that failed, because a person asks.

    Args:
        servers: the SourceLair API.
        directory: knows which server answers at a host.
        rates: of starts that visits may cause: a try is one.
        clock: monotonic seconds.
    """

    def __init__(
        self, servers: ServersClient, directory: Directory, rates: Rates, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._servers = servers
        self._directory = directory
        self._rates = rates
        self._clock = clock
        self._tried: dict[tuple[str, str], float] = {}

    async def retry(self, host: str, address: str | None = None) -> bool:
        """Begin to start the server of a host if its last start failed and nobody asked a moment ago.

        Args:
            host: the server's.
            address: the visitor's, where it is known.

        Returns:
            whether a try was asked for; how it goes shows like any other start.
        """
        try:
            server = await self._directory.find(host)
            if server is None or state_of(server) != "failed":
                return False
            now, name = self._clock(), (server.owner, server.project)
            self._tried = {key: at for key, at in self._tried.items() if now - at < PAUSE}
            source = source_of(address)
            if name in self._tried or (source is not None and self._rates.addresses.wait(source) > 0):
                return False
            if source is not None:
                self._rates.addresses.take(source)
            self._tried[name] = now
            await self._servers.start(*name, StartRequest(), wait=0)
        except LairError as error:
            _log.info("retry_not_begun", host=host, error=error.detail)
            return False
        return True


def safe_path(path: str) -> str:
    """Return a path of the same host to go back to; `/` for anything that could lead elsewhere."""
    plain = path.isascii() and path.isprintable() and " " not in path
    return path if plain and path.startswith("/") and not path.startswith(("//", "/\\")) else "/"
