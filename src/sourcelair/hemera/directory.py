"""All servers as the SourceLair API tells them: listed once, then followed by its events, nothing lost between."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from weakref import WeakValueDictionary

from sourcelair.client.servers import Server, ServerEvent, ServersClient
from sourcelair.client.sharing import Shared, as_if_all_set
from sourcelair.errors import LairError
from sourcelair.telemetry import get_logger

_log = get_logger(__name__)

SILENCE = 40.0
"""Seconds without a byte after which the stream counts as broken: it sends comments more often than that."""

FIRST_PAUSE, LONGEST_PAUSE = 0.05, 2.0
"""Seconds until the API is asked again: at first, and after doubling."""

Name = tuple[str, str]

Listener = Callable[[Name, Server | None], None]
"""Is told each change as it comes: the server as it is now, None once it is gone."""


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
        self._at_host: WeakValueDictionary[str, asyncio.Event] = WeakValueDictionary()
        """Of those who wait for a change at one host, for as long as they do."""
        self._listeners: list[Listener] = []
        self._shared = Shared()
        self.synced = asyncio.Event()
        """Set once all servers were listed; cleared while the stream is broken."""

    def servers(self) -> list[Server]:
        """Return all servers."""
        return list(self._by_name.values())

    def server(self, name: Name) -> Server | None:
        """Return the server of that name, as far as it is known."""
        return self._by_name.get(name)

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
        if found is None and "/" not in host:  # servers have no paths
            for server in await self._servers.list(host=host):
                self.take(server)
            found = self.at(host)
        return found

    async def named(self, owner: str, project: str) -> Server:
        """Return the server of that name; the API is asked where it is not known.

        Raises:
            NotFound: there is none.
            LairError: the API does not answer.
        """
        found = self._by_name.get((owner, project))
        if found is None:
            self.take(await self._servers.get(owner, project))
            found = self._by_name[owner, project]
        return found

    def listen(self, listener: Listener) -> None:
        """Tell somebody of every change, from now on."""
        self._listeners.append(listener)

    async def changed(self, timeout: float | None = None, host: str | None = None) -> None:
        """Wait until any server changes (with `host`, the one that answers there), or `timeout` seconds are over."""
        event = self._changed if host is None else self.change_at(host)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await event.wait()

    @property
    def change(self) -> asyncio.Event:
        """Set once any server changes; the change after that has another."""
        return self._changed

    def change_at(self, host: str) -> asyncio.Event:
        """Return what is set once the server that answers at a host changes; the change after that has another."""
        return self._at_host.setdefault(host, asyncio.Event())

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
            self.take(server)

    def _event(self, event: ServerEvent) -> None:
        if event.server is None:
            self._drop((event.owner, event.project))
        else:
            self.take(event.server)

    def take(self, server: Server) -> None:
        """Know of a server, as the API just said; what is older than what is known changes nothing."""
        name = (server.owner, server.project)
        known = self._by_name.get(name)
        if known is not None and known.created_at == server.created_at:
            if known.revision > server.revision:
                return
            if known.revision == server.revision and known.policy == server.policy:  # an owner's has no revision
                return
        server.policy = self._shared.part(server.policy)
        self._shared.in_spec(server.spec)
        as_if_all_set(server)
        for host in known.hosts if known else []:
            self._by_host.pop(host, None)
        self._by_name[name] = server
        for host in server.hosts:
            self._by_host[host] = name
        self._tell(name, server, [*server.hosts, *(known.hosts if known else [])])

    def _drop(self, name: Name) -> None:
        server = self._by_name.pop(name, None)
        for host in server.hosts if server else []:
            if self._by_host.get(host) == name:
                del self._by_host[host]
        if server is not None:
            self._tell(name, None, server.hosts)

    def _tell(self, name: Name, server: Server | None, hosts: Iterable[str]) -> None:
        for listener in self._listeners:
            listener(name, server)
        self._wake(hosts)
        self._wake_all()

    def notify(self, names: Iterable[Name] | None = None) -> None:
        """Make everybody look again who waits; with `names`, who waits for changes at the hosts of those servers."""
        if names is None:
            self._wake(list(self._at_host))
            self._wake_all()
            return
        for name in names:
            server = self._by_name.get(name)
            self._wake(server.hosts if server else [])

    def _wake(self, hosts: Iterable[str]) -> None:
        for host in hosts:
            changed = self._at_host.pop(host, None)
            if changed is not None:
                changed.set()

    def _wake_all(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
