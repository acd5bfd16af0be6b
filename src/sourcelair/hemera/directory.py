"""All servers as the SourceLair API tells them: listed once, then followed by its events, nothing lost between."""

from __future__ import annotations

import asyncio
import contextlib

from sourcelair.client.servers import Server, ServerEvent, ServersClient
from sourcelair.errors import LairError
from sourcelair.telemetry import get_logger

_log = get_logger(__name__)

SILENCE = 40.0
"""Seconds without a byte after which the stream counts as broken: it sends comments more often than that."""

FIRST_PAUSE, LONGEST_PAUSE = 0.05, 2.0
"""Seconds until the API is asked again: at first, and after doubling."""

Name = tuple[str, str]


class Directory:
    """The newest known state of every server.

    Args:
        servers: the SourceLair API.
    """

    def __init__(self, servers: ServersClient) -> None:
        self._servers = servers
        self._by_name: dict[Name, Server] = {}
        self._by_host: dict[str, Name] = {}
        self._changed = asyncio.Event()
        self.synced = asyncio.Event()
        """Set once all servers were listed; cleared while the stream is broken."""

    def servers(self) -> list[Server]:
        """Return all servers."""
        return list(self._by_name.values())

    def at(self, host: str) -> Server | None:
        """Return the server that answers at this host, as far as it is known."""
        name = self._by_host.get(host)
        return self._by_name.get(name) if name else None

    async def find(self, host: str) -> Server | None:
        """Return the server that answers at this host; the API is asked where it is not known.

        Raises:
            LairError: the API does not answer.
        """
        found = self.at(host)
        if found is None:
            for server in await self._servers.list(host=host):
                self._take(server)
            found = self.at(host)
        return found

    @property
    def change(self) -> asyncio.Event:
        """Set once any server changes; the change after that has another."""
        return self._changed

    async def changed(self, timeout: float | None = None) -> None:
        """Wait until any server changes, or `timeout` seconds are over."""
        event = self._changed
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await event.wait()

    async def follow(self) -> None:
        """Keep up with the API, for ever."""
        pause = FIRST_PAUSE
        while True:
            try:
                async with self._servers.events("/api/events", silence=SILENCE) as events:
                    # The stream stands already: what changes while the list is read comes by it.
                    listed = await self._servers.list()
                    self._replace(listed)
                    self.synced.set()
                    pause = FIRST_PAUSE
                    async for event in events:
                        if event.event != "server":
                            break
                        self._event(ServerEvent(**event.json()))
            except LairError as error:
                _log.debug("events_broke", error=error.detail)
            self.synced.clear()
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)

    def _replace(self, listed: list[Server]) -> None:
        names = {(server.owner, server.project) for server in listed}
        for name in set(self._by_name) - names:
            self._drop(name)
        for server in listed:
            self._take(server)

    def _event(self, event: ServerEvent) -> None:
        if event.server is None:
            self._drop((event.owner, event.project))
        else:
            self._take(event.server)

    def _take(self, server: Server) -> None:
        name = (server.owner, server.project)
        known = self._by_name.get(name)
        if known is not None and known.created_at == server.created_at and known.revision >= server.revision:
            return
        for host in known.hosts if known else []:
            self._by_host.pop(host, None)
        self._by_name[name] = server
        for host in server.hosts:
            self._by_host[host] = name
        self.notify()

    def _drop(self, name: Name) -> None:
        server = self._by_name.pop(name, None)
        for host in server.hosts if server else []:
            if self._by_host.get(host) == name:
                del self._by_host[host]
        self.notify()

    def notify(self) -> None:
        """Make everybody look again who waits."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
