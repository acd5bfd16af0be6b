"""What visitors and owners are told of the time that a server has left, and visitors asking for more."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Callable
from weakref import WeakValueDictionary

from sourcelair.client.policy import seconds
from sourcelair.client.servers import Server, ServersClient
from sourcelair.errors import Conflict, Forbidden, LairError, NotFound
from sourcelair.hemera.activities import Activities
from sourcelair.hemera.directory import Directory, Name
from sourcelair.hemera.timeleft import TimeLeft, time_left
from sourcelair.telemetry import get_logger

_log = get_logger(__name__)

WARNED_PAUSE = 1.0
"""Seconds between two looks at a server whose visitors are warned: is somebody there after all?"""

SHORTEST_PAUSE, LONGEST_PAUSE = 1.0, 3600.0
"""Seconds between two looks at any other."""

LEAST_GAIN = 1.0
"""Seconds by which an extension must be longer than the one that there is; else there is nothing to write."""


class Remaining:
    """The time left of servers.

    Args:
        servers: the SourceLair API.
        activities: tells what instances were last used for.
        directory: knows the servers.
        longest_extension: seconds that a visitor may ask for; 0 for none.
        clock: Unix seconds.
    """

    def __init__(
        self,
        servers: ServersClient,
        activities: Activities,
        directory: Directory,
        longest_extension: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._servers = servers
        self._activities = activities
        self._directory = directory
        self._longest_extension = longest_extension
        self._clock = clock
        self._extending: WeakValueDictionary[Name, asyncio.Lock] = WeakValueDictionary()

    async def at(self, host: str) -> TimeLeft:
        """Return the time left of the server at a host.

        Raises:
            NotFound: there is none.
            LairError: the SourceLair API, or Ceryx, does not answer.
        """
        return await self.of(await self._server(host))

    async def named(self, owner: str, project: str) -> TimeLeft:
        """Return the time left of a server.

        Raises:
            NotFound: there is none.
            LairError: the SourceLair API, or Ceryx, does not answer.
        """
        return await self.of(await self._directory.named(owner, project))

    async def of(self, server: Server) -> TimeLeft:
        """Return the time left of a server.

        Raises:
            LairError: Ceryx does not answer.
        """
        up = server.instance if server.state in {"awake", "dozing"} else None
        activity = None if up is None else await self._activities.of(up.id)
        return time_left(server, activity, self._clock())

    async def extend(self, host: str, wanted: float) -> TimeLeft:
        """Keep the server of a host awake for so many seconds from now, as far as visitors may. Never for less than is.

        Args:
            host: the server's.
            wanted: seconds; more than `longest_extension` is that.

        Raises:
            Forbidden: visitors may not.
            NotFound: there is none.
            Conflict: it is not awake.
            LairError: a service does not answer.
        """
        if self._longest_extension <= 0:
            raise Forbidden("Visitors may not keep servers awake here: `longest_extension` is 0.")
        server = await self._server(host)
        name = (server.owner, server.project)
        lock = self._extending.setdefault(name, asyncio.Lock())
        async with lock:  # a thousand at once are one write
            server = self._directory.server(name) or server
            server = await self._extended(server, min(wanted, self._longest_extension))
        return await self.of(server)

    async def _server(self, host: str) -> Server:
        server = await self._directory.find(host)
        if server is None:
            raise NotFound(f"No server answers at {host}.", state="unknown-host")
        return server

    async def _extended(self, server: Server, wanted: float) -> Server:
        if server.state != "awake" or server.instance is None:
            raise Conflict(f"It is {server.state}: only what is awake can be kept awake.", state=server.state)
        if (server.instance.extended_until or 0.0) + LEAST_GAIN > self._clock() + wanted:
            return server
        server = await self._servers.extend(server.owner, server.project, wanted)
        self._directory.take(server)
        return server

    async def watch(self, host: str) -> AsyncGenerator[TimeLeft, None]:
        """Give the time left of the server at a host whenever its warning begins, changes, or is over. It never ends.

        The first comes at once if there is a warning. `seconds_left` counts down by itself: nothing is given for that.
        """
        told: float | None = None
        while True:
            server = self._directory.at(host)
            try:
                left = TimeLeft(state="unknown-host") if server is None else await self.of(server)
            except LairError as error:
                _log.debug("time_left_not_known", host=host, error=error.detail)
                await asyncio.sleep(SHORTEST_PAUSE)
                continue
            sleeps_at = left.sleeps_at if left.warning else None
            if (sleeps_at is None) != (told is None) or abs((sleeps_at or 0.0) - (told or 0.0)) >= LEAST_GAIN:
                told = sleeps_at
                yield left
            if self._directory.at(host) is server:
                await self._directory.changed(_pause(server, left), host)


def _pause(server: Server | None, left: TimeLeft) -> float | None:
    """Return the seconds after which to look again though nothing changed; None: then there is nothing to see."""
    if server is None or left.state not in {"awake", "dozing"}:
        return None
    if left.warning:
        return WARNED_PAUSE
    sleep = server.policy.sleep
    before = sleep.warn_before or 0.0
    earliest = (seconds(sleep.stop_after) or math.inf) if left.seconds_left is None else left.seconds_left
    return min(max(earliest - before, SHORTEST_PAUSE), LONGEST_PAUSE)
