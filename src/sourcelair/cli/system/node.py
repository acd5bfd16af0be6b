"""The proxy node of a process: an NGINX with its agent, which outlive whatever else runs beside them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any

from sourcelair.ceryx.agent import Agent
from sourcelair.ceryx.agent.sources import ApiSource, RouteSource, StoreSource
from sourcelair.ceryx.nginx.control import NginxControl
from sourcelair.ceryx.nginx.engine import NginxEngine
from sourcelair.cli.session import reachable
from sourcelair.cli.system.addresses import check_free
from sourcelair.cli.system.assembly import WHEREVER, Clients, waker_of
from sourcelair.cli.system.directory import DataDirectory
from sourcelair.settings import TEST_PREFIX, Settings, split_address
from sourcelair.store import Stores

STALL = f"{TEST_PREFIX}STALL"
"""Variable for tests: seconds that a worker may spend between looking a host up and counting the request."""

CONNECT_TIMEOUT = 1.0
"""Seconds in which NGINX must take a connection for `/readyz`."""


class ProxyNode:
    """One proxy node.

    Args:
        settings: all of them.
        directory: where its configuration and its last known routes lie.

    Raises:
        Conflict: somebody else has its public port.
    """

    def __init__(self, settings: Settings, directory: DataDirectory) -> None:
        self._settings = settings
        self._directory = directory
        self.engine = NginxEngine(settings, directory.path / "nginx", stall=float(os.environ.get(STALL) or 0.0))
        self.may_follow = asyncio.Event()
        """Set once the routes are true; until then it serves those that it knows."""
        self._agent: Agent | None = None
        self._tasks: list[asyncio.Task[Any]] = []
        self._was_running = self.engine.pid is not None
        if not self._was_running:
            check_free(settings.listen, "listen")

    def start(
        self, tasks: asyncio.TaskGroup, stores: Stores, clients: Clients, api_url: str, *, say: Callable[[str], None]
    ) -> list[asyncio.Task[Any]]:
        """Start it, and return what runs.

        Args:
            tasks: gets what runs.
            stores: whose routes it serves.
            clients: of the services.
            api_url: where Hemera answers, unless the stores say where.
            say: told what is being done, for a person.
        """
        pid = self.engine.pid
        say("Starting NGINX" if pid is None else f"NGINX runs already (process {pid})")
        agent = self._agent = Agent(
            self._settings,
            clients.ceryx,
            NginxControl(self.engine.control_socket),
            directory=self._directory.path / "agent",
            waker=waker_of(self._settings, api_url),
            waker_token=self._directory.token("waker"),
            source=self._source(stores, clients),
            true=self.may_follow,
        )
        self._tasks = [
            tasks.create_task(self.engine.run(), name="nginx"),
            tasks.create_task(agent.run(), name="agent"),
        ]
        return self._tasks

    def _source(self, stores: Stores, clients: Clients) -> RouteSource:
        home = self._directory.installation()
        if stores.seats is None:
            return ApiSource(clients.ceryx, home)
        return StoreSource(lambda: stores.shared("ceryx"), clients.ceryx, home)

    def place_waker(self, url: str | None) -> None:
        """Say where Hemera is; None for nowhere."""
        if self._agent is not None:
            self._agent.wakers.move(WHEREVER, url)

    async def readiness(self) -> dict[str, bool]:
        """Return its parts, and whether each is ready."""
        return {
            "agent": self._agent is not None and self._agent.ready,
            "nginx": await _accepts(self._settings.listen),
        }

    async def undo(self) -> None:
        """Stop NGINX, unless it ran before this process did."""
        if not self._was_running:
            await self.stop()

    async def stop(self) -> None:
        """Stop it, NGINX too."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.engine.stop()


async def _accepts(address: str) -> bool:
    """Return whether somebody takes connections there."""
    host, port = split_address(reachable(address))
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT):
            _, writer = await asyncio.open_connection(host, port)
    except OSError:  # TimeoutError is one
        return False
    writer.close()
    return True
